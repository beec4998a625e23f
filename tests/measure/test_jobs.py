"""Jobs, as far as they need no device; tests/devices has the rest."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fbnet_mobile.devices import DeviceFullError, DeviceLostError, HostDevice
from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.measure.jobs import MeasuringPlan, parse_benchmark_model, run_models, runtime_version

# As published in tensorflow/tensorflow#42507 and #73862.
FIRST_GENERATION = """
STARTING!
Min num runs: [50]
count=15 first=49060 curr=33682 min=32825 max=49060 avg=34825.1 std=3930
count=50 first=33431 curr=33143 min=32810 max=35063 avg=33209.4 std=361
Average inference timings in us: Warmup: 34825.1, Init: 855, Inference: 33209.4
"""
SECOND_GENERATION = """
INFO: STARTING!
INFO: count=1 curr=49060
INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=50 first=1.3e+06 curr=1295000 min=1290001 max=1.31e+06 avg=1.29563e+06 std=361 p5=1290005 median=1295001 p95=1300000
INFO: Inference timings in us: Init: 12345, First inference: 49060, Warmup (avg): 49060, Inference (avg): 1.29563e+06
INFO: Memory footprint delta from the start of the tool (MB): init=0 overall=1.5
"""  # noqa: E501  # the program's own lines


def test_both_generations_of_benchmark_model_are_read() -> None:
    old = parse_benchmark_model(FIRST_GENERATION.splitlines())
    assert old is not None
    assert (old["runs"], old["load_us"], old["min_us"], old["mean_us"]) == (50, 855, 32810, 33209.4)
    assert math.isnan(old["median_us"])
    new = parse_benchmark_model(SECOND_GENERATION.splitlines())
    assert new is not None
    assert (new["runs"], new["load_us"], new["min_us"], new["mean_us"]) == (50, 12345, 1290001, 1295630)
    assert new["median_us"] == 1295001
    same = parse_benchmark_model(
        ["count=5 curr=7 (all same)", "Inference timings in us: Init: 1e+03, First inference: 7"]
    )
    assert same == {
        "runs": 5,
        "load_us": 1000,
        **dict.fromkeys(("min_us", "p10_us", "median_us", "p90_us", "mean_us"), 7),
    }
    assert parse_benchmark_model(FIRST_GENERATION.splitlines()[:3]) is None
    assert parse_benchmark_model(["Failed to load model"]) is None


def test_a_benchmark_model_that_is_not_there() -> None:
    host = HostDevice()
    host.use(benchmark_binary=Path("/nowhere/benchmark_model"))
    with pytest.raises(UserError, match="there is no benchmark_model at /nowhere"):
        runtime_version(host, "litert")


class Scripted(HostDevice):
    """A device whose every start of the runner ends as a script says: lines, then an error if any."""

    def __init__(self, *starts: tuple[Sequence[str], JobError | None], room: int = 100) -> None:
        super().__init__()
        self.starts, self.room, self.cleaned = list(starts), room, 0
        self.use(reconnect_s=0.1)

    def push(self, paths: Sequence[Path]) -> list[str]:
        if len(paths) > self.room:
            raise DeviceFullError("full; make room")
        return [str(path) for path in paths]

    def clean(self) -> None:
        self.cleaned += 1

    def run(self, argv: Sequence[str]) -> Iterator[str]:
        lines, error = self.starts.pop(0)
        yield from lines
        if error is not None:
            raise error


VERSION = '{"runtime_version": "1"}'
LOST = DeviceLostError("the cable was pulled")


def sample(number: int) -> str:
    values = ", ".join(f'"{name}": 1.0' for name in ("load_us", "min_us", "p10_us", "median_us", "p90_us", "mean_us"))
    return f'{{"model": {number}, "runs": 5, {values}}}'


def outcome(device: Scripted, models: int) -> list[str]:
    paths = [Path(f"{number}.tflite") for number in range(models)]
    found = list(run_models(device, "litert", 1, paths, MeasuringPlan()))
    assert [number for number, _ in found] == list(range(models))
    assert device.starts == []
    return [sample.get("error", "ok") for _, sample in found]


def test_whatever_the_output_is_each_model_has_one_sample() -> None:
    garbled = "what host said of it could not be read"
    lines = [
        "hello from a library", VERSION, sample(0), '{"model": 1, "ru', '{"model": "2"}', "[1]", '{"model": 99}',
        sample(2), sample(2), '{"model": 3, "runs": 5, "min_us": NaN}', '{"model": 4, "error": "odd"}',
    ]  # fmt: skip
    assert outcome(Scripted((lines, None)), 6) == ["ok", garbled, "ok", garbled, "odd", garbled]


def test_a_model_that_loses_the_device_again_and_again_is_to_blame() -> None:
    starts = [([VERSION, sample(0)], LOST), ([VERSION], LOST), ([VERSION], LOST), ([VERSION, sample(0)], None)]
    assert outcome(Scripted(*starts), 3) == [
        "ok", "the device was lost 3 times while measuring it: the cable was pulled", "ok",
    ]  # fmt: skip
    never = Scripted(*[([], LOST)] * 100)
    with pytest.raises(JobError, match="failed on 5 models in a row, the last with: the device was lost 3 times"):
        list(run_models(never, "litert", 1, [Path("0.tflite")] * 50, MeasuringPlan()))


def test_a_device_with_little_room_gets_smaller_batches() -> None:
    batch = [VERSION, sample(0), sample(1)]
    device = Scripted((batch, None), (batch, None), (batch[:2], None), room=2)
    assert outcome(device, 5) == ["ok"] * 5
    assert device.cleaned == 3
