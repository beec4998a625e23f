"""Records as lines for people."""

import math
from pathlib import Path

import pytest

from fbnet_mobile.api.call import command_line
from fbnet_mobile.api.profile import ProfileOptions, described_table, show
from fbnet_mobile.devices import DeviceFacts
from fbnet_mobile.latency.table import BLOCK, INVOCATION, Conditions, LatencyTable, Measurement
from fbnet_mobile.recipe import build
from fbnet_mobile.report.console import benchmark_lines, latency, profile_lines
from fbnet_mobile.report.records import BenchmarkResult, ModelResult
from fbnet_mobile.space import load_space

CONDITIONS = Conditions("board", "a processor", "litert", "2.1", 4, "int8", "median", "small", "2026-01-01")


def measured(latency_us: float, **changed: float) -> Measurement:
    statistics = dict.fromkeys(("min_us", "p10_us", "median_us", "p90_us", "mean_us"), latency_us)
    return Measurement(latency_us, **{**statistics, **changed}, runs=9, rounds=4, uncertainty=0.01)


def table(estimates: int) -> LatencyTable:
    blocks = load_space("small").candidates()[:5]
    rows = {LatencyTable.row_key(INVOCATION): measured(1.0)}
    for number, block in enumerate(blocks):
        row = measured(10.0 + number) if number >= estimates else Measurement.estimated(10.0, 0.25)
        rows[LatencyTable.row_key(BLOCK, [block])] = row
    return LatencyTable(CONDITIONS, rows)


def test_estimated_blocks_are_counted_with_the_command_that_measures_them(tmp_path: Path) -> None:
    given = {"output": "a b.csv", "budget": "3m", "threads": 4, "precision": "int8", "networks": 0}
    again = command_line("profile", build(ProfileOptions, given), budget=None)
    lines = list(profile_lines(described_table(Path("a b.csv"), table(estimates=2), again)))
    assert lines[-1] == (
        "2 of the 5 blocks are estimated from the others, with an error of 25.0%; this measures them: fbnet-profile "
        "-o 'a b.csv' --precision int8 --networks 0 --threads 4"
    ).replace("-o", "--output")
    assert not any("estimated" in line for line in profile_lines(described_table(Path("t"), table(estimates=0), again)))

    path = tmp_path / "t.csv"
    table(estimates=2).save(path)
    assert show(path).complete_with == (
        "fbnet-profile --device board --runtime litert --space small --threads 4 --precision int8 --statistic median "
        f"-o {path}"
    )


def test_a_statistic_that_was_not_printed_is_left_out_and_why_there_is_no_prediction_is_said() -> None:
    facts = DeviceFacts("a processor", 4, 1000, "Linux", "performance")
    models = [
        ModelResult(Path("a.tflite"), "fp32", "litert", "2.1", 2, 1_500_000, "min", measured(1500.0, p10_us=math.nan)),
        ModelResult(Path("b.tflite"), None, "litert", "2.1", 1, 100, "min", measured(20.0), None, "the processor is A"),
        ModelResult(Path("c.tflite"), "fp32", "litert", "2.1", 1, 100, "min", measured(20.0), 25.0),
    ]
    lines = list(benchmark_lines(BenchmarkResult("board", facts, tuple(models))))
    assert lines == [
        "a.tflite (1.500 MB, fp32), litert 2.1",
        "  latency on board (a processor), litert, 2 threads: min 1.500 ms, median 1.500 ms, p90 1.500 ms, mean 1.500 "
        "ms; 9 runs",
        "b.tflite (0.000 MB), litert 2.1",
        "  latency on board (a processor), litert, 1 thread: min 20.0 us, p10 20.0 us, median 20.0 us, p90 20.0 us, "
        "mean 20.0 us; 9 runs",
        "  no prediction: the processor is A",
        "c.tflite (0.000 MB, fp32), litert 2.1",
        "  latency on board (a processor), litert, 1 thread: min 20.0 us, p10 20.0 us, median 20.0 us, p90 20.0 us, "
        "mean 20.0 us; 9 runs",
        "  predicted 25.0 us, +25.0% of the measured min",
    ]


@pytest.mark.parametrize(("value", "shown"), [(999.94, "999.9 us"), (1000.0, "1.000 ms"), (12345.6, "12.346 ms")])
def test_latencies_are_in_milliseconds_from_one_up(value: float, shown: str) -> None:
    assert latency(value) == shown
