import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from torch import nn

from fbnet_mobile.devices import HostDevice
from fbnet_mobile.errors import JobError
from fbnet_mobile.formats.base import get_format, write
from fbnet_mobile.graph.trace import trace
from fbnet_mobile.measure.jobs import MeasuringPlan, runtime_version
from fbnet_mobile.measure.rounds import Measured, RowKey, measure, repeatability, summary

SAMPLE = {"runs": 5, **dict.fromkeys(("p10_us", "median_us", "p90_us", "mean_us"), 110.0)}
PLAN = MeasuringPlan(min_rounds=3, max_rounds=3, warmup_ms=0, min_ms=0.1)


def models(folder: Path, file_format: str = "tflite") -> dict[RowKey, Path]:
    found = {}
    for channels in (1, 2, 3):
        path = folder / f"{channels}{get_format(file_format).suffix}"
        write(trace(nn.Conv2d(channels, 4, 3), (1, channels, 8, 8)), path, file_format)
        found[("block", f"conv{channels}")] = path
    return found


class Watched(HostDevice):
    """This machine, but it notes the order of models and can be cut off after some lines."""

    def __init__(self, lines: int | None = None) -> None:
        super().__init__()
        self.lines, self.orders = lines, []

    def run(self, argv: Sequence[str]) -> Iterator[str]:
        self.orders.append([Path(model).name for model in json.loads(Path(argv[2]).read_text())["models"]])
        for line in super().run(argv):
            if self.lines == 0:
                raise JobError("the cable was pulled")
            self.lines = None if self.lines is None else self.lines - 1
            yield line


@pytest.mark.parametrize(("runtime", "file_format"), [("litert", "tflite"), ("onnxruntime", "onnx")])
def test_every_model_is_measured_once_a_round_in_another_order(tmp_path: Path, runtime: str, file_format: str) -> None:
    device = Watched()
    rows = measure(device, runtime, 1, models(tmp_path, file_format), "min", PLAN, tmp_path / "journal").rows("min")
    assert len(device.orders) == 3
    assert len({tuple(order) for order in device.orders}) > 1
    for measurement in rows.values():
        assert measurement.rounds == 3
        assert measurement.runs >= 15
        assert 0 < measurement.min_us <= measurement.p10_us <= measurement.median_us <= measurement.p90_us
        assert measurement.min_us <= measurement.latency_us <= measurement.median_us
    assert runtime_version(device, runtime)


def test_an_interrupted_run_continues_with_nothing_lost_or_doubled(tmp_path: Path) -> None:
    files, journal = models(tmp_path), tmp_path / "journal"
    repeats = {("block", "conv2"): 2}
    rng, cut = random.Random(0), 0
    for _ in range(20):
        try:
            device = Watched(lines=rng.randint(0, 3))
            found = measure(device, "litert", 1, files, "min", PLAN, journal, repeats=repeats)
            break
        except JobError:
            cut += 1
            with journal.open("a") as file:
                file.write('{"round": 1, "key": ["blo')  # as if it died while writing a line
    assert cut >= 3
    assert [row.rounds for row in found.rows("min").values()] == [3, 3, 3]
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    done = Counter((record["round"], record["key"][1]) for record in records if record["key"][0] == "block")
    assert done == {(number, f"conv{name}"): 1 + (name == 2) for number in range(3) for name in (1, 2, 3)}
    runs = sum(record["sample"]["runs"] for record in records if record["key"][1] == "conv2")
    assert found.rows("min")["block", "conv2"].runs == runs


def test_a_model_that_cannot_run_is_named_once_and_the_rest_measured(tmp_path: Path) -> None:
    files, device = models(tmp_path), Watched()
    files[("block", "broken")] = tmp_path / "broken.tflite"
    files[("block", "broken")].write_bytes(b"not a model")
    found = measure(device, "litert", 1, files, "min", PLAN, tmp_path / "journal")
    assert list(found.failed) == [("block", "broken")]
    assert set(found.rows("min")) == set(files) - {("block", "broken")}
    assert [len(order) for order in device.orders] == [4, 3, 3]
    again = measure(HostDevice(), "litert", 1, files, "min", PLAN, tmp_path / "journal")
    assert again.failed == found.failed


def test_what_the_device_says_of_itself_is_kept_for_each_round(tmp_path: Path) -> None:
    files = models(tmp_path)
    found = measure(HostDevice(), "litert", 1, files, "min", PLAN, tmp_path / "journal")
    assert list(found.states) == [0, 1, 2]
    ((turn,),) = {len(turns): turns for turns in found.states.values()}.values()
    assert turn["elapsed_s"] > 0
    assert turn["before"]["affinity"] == turn["after"]["affinity"]


def test_rounds_end_when_the_statistic_repeats_itself_or_time_is_up(tmp_path: Path) -> None:
    files = models(tmp_path)
    loose = MeasuringPlan(min_rounds=2, max_rounds=5, repeatability=1e9, warmup_ms=0, min_ms=0.1)
    rows = measure(HostDevice(), "litert", 1, files, "min", loose, tmp_path / "loose").rows("min")
    assert {row.rounds for row in rows.values()} == {2}
    hurried = MeasuringPlan(min_rounds=2, max_rounds=5, repeatability=-1, budget_s=0, warmup_ms=0, min_ms=0.1)
    rows = measure(HostDevice(), "litert", 1, files, "min", hurried, tmp_path / "hurried").rows("min")
    assert {row.rounds for row in rows.values()} == {2}


def test_a_minimum_that_came_once_does_not_decide() -> None:
    rounds = {number: [{**SAMPLE, "min_us": 100.0 + number} for _ in range(10)] for number in range(3)}
    rounds[1][4]["min_us"] = 50.0
    found = summary(rounds, "min")
    assert (found.latency_us, found.min_us) == (100.0, 50.0)


def test_networks_that_move_are_not_outvoted_by_steady_blocks() -> None:
    steady = {("block", str(number)): {0: [{"min_us": 10.0}], 1: [{"min_us": 10.1}]} for number in range(5)}
    moving = {("network", "a"): {0: [{"min_us": 100.0}], 1: [{"min_us": 112.0}]}}
    assert repeatability(Measured(steady), "min") == pytest.approx(0.01)
    assert repeatability(Measured(steady | moving), "min") == pytest.approx(0.12)
