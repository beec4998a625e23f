"""Jobs, as far as they need no device; tests/devices has the rest."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fbnet_mobile.devices import DeviceFullError, DeviceLostError, HostDevice
from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.measure.benchmark_model import parse_output
from fbnet_mobile.measure.jobs import Failure, run_models, runtime_version
from fbnet_mobile.measure.plan import MeasuringPlan
from fbnet_mobile.measure.samples import Sample

CASES = Path(__file__).parents[1] / "cases"

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
    old = parse_output(FIRST_GENERATION.splitlines())
    assert old is not None
    assert (old.runs, old.load_us, old.min_us, old.mean_us) == (50, 855, 32810, 33209.4)
    assert old.median_us is None
    new = parse_output(SECOND_GENERATION.splitlines())
    assert new is not None
    assert (new.runs, new.load_us, new.min_us, new.mean_us) == (50, 12345, 1290001, 1295630)
    assert new.median_us == 1295001
    same = parse_output(["count=5 curr=7 (all same)", "Inference timings in us: Init: 1e+03, First inference: 7"])
    equal = dict.fromkeys(("min_us", "p10_us", "median_us", "p90_us", "mean_us"), 7.0)
    assert same == Sample(runs=5, load_us=1000.0, **equal)
    assert parse_output(FIRST_GENERATION.splitlines()[:3]) is None
    assert parse_output(["Failed to load model"]) is None


@pytest.mark.parametrize(
    ("whole", "odd"),
    [
        ("min=32810 ", "min=0 "),
        ("min=32810 ", "min=-1 "),
        ("min=32810 ", ""),
        ("min=32810 ", "min=1e999 "),
        ("min=32810 ", "min=nan "),
        ("count=50 ", "count=0 "),
        ("avg=33209.4", "avg=33209.4.1"),
        ("avg=33209.4 std=361", "avg=3320"),
        ("avg=33209.4", "avg=1e+40019608"),
        ("Init: 855", "Init: 1e999"),
        ("Init: 855, ", ""),
        ("count=50 first", "cou"),
    ],
)
def test_numbers_of_benchmark_model_that_cannot_be_are_no_sample(whole: str, odd: str) -> None:
    assert whole in FIRST_GENERATION
    assert parse_output(FIRST_GENERATION.splitlines()) is not None
    assert parse_output(FIRST_GENERATION.replace(whole, odd).splitlines()) is None


@pytest.mark.parametrize("name", ["benchmark-model-inf.txt", "benchmark-model-odd-mean.txt"])
def test_damaged_output_of_benchmark_model_is_no_sample(name: str) -> None:
    assert parse_output((CASES / name).read_text().split("__FBNET_MODEL")[0].splitlines()) is None


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
    return [outcome.reason if isinstance(outcome, Failure) else "ok" for _, outcome in found]


def test_whatever_the_output_is_each_model_has_one_sample() -> None:
    garbled = "what host said of it could not be read"
    lines = [
        "hello from a library", VERSION, sample(0), '{"model": 1, "ru', '{"model": "2"}', "[1]", '{"model": 99}',
        sample(2), sample(2), '{"model": 3, "runs": 5, "min_us": NaN}', '{"model": 4, "error": "odd"}',
    ]  # fmt: skip
    assert outcome(Scripted((lines, None)), 6) == ["ok", garbled, "ok", garbled, "odd", garbled]


@pytest.mark.parametrize("number", ["true", "1e308", "0", "-1.0", "1e999", '"1"', "null", "[1]", "1e-320", "1" * 400])
def test_a_number_of_the_runner_that_cannot_be_costs_that_sample(number: str) -> None:
    lines = [VERSION, sample(0).replace('"min_us": 1.0', f'"min_us": {number}'), sample(1)]
    assert outcome(Scripted((lines, None)), 2) == ["what host said of it could not be read", "ok"]


def test_a_boolean_from_the_runner_costs_that_sample() -> None:
    lines = (CASES / "runner-boolean.txt").read_text().splitlines()
    assert outcome(Scripted((lines, None)), 3) == ["what host said of it could not be read", "ok", "ok"]


class Endless(Scripted):
    """A device that says more and more, and no result."""

    said = 0

    def run(self, argv: Sequence[str]) -> Iterator[str]:
        yield VERSION
        while True:
            self.said += 1
            yield '{"model": 0, "ru' + 1000 * "x"


def test_output_that_does_not_end_costs_the_model_and_in_the_end_the_job() -> None:
    device = Endless()
    with pytest.raises(JobError, match="failed on 5 models in a row, the last with: what host says of it does not end"):
        list(run_models(device, "litert", 1, [Path("0.tflite")] * 50, MeasuringPlan()))
    assert device.said < 10_000


def test_what_a_device_says_is_shown_in_one_short_line() -> None:
    lines = [VERSION, json.dumps({"model": 0, "error": "\x1b[31mbad\n" + 10_000 * "x"})]
    (reason,) = outcome(Scripted((lines, None)), 1)
    assert reason.startswith("[31mbad xxx")
    assert len(reason) <= 200
    for version in ("2.3\n4", "x" * 101, "", 3):
        with pytest.raises(JobError, match="did not say which version"):
            runtime_version(Scripted(([json.dumps({"runtime_version": version})], None)), "litert")


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
