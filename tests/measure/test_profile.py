from collections import Counter
from pathlib import Path

import pytest

from fbnet_mobile.devices import HostDevice
from fbnet_mobile.errors import JobError
from fbnet_mobile.latency.table import LatencyTable
from fbnet_mobile.measure import profile as module
from fbnet_mobile.measure.jobs import MeasuringPlan
from fbnet_mobile.measure.profile import profile
from fbnet_mobile.space import SearchSpace

SPACE = SearchSpace.from_yaml(
    """
name: tiny
resolution: 16
classes: 3
stem: {out_channels: 8, stride: 2}
stages:
  - {out_channels: [8, 12, 16], depth: 2, stride: 2, expansion_ratio: [1, 2, 3], kernel_size: [3, 5],
     squeeze_excite: [false, true], activation: [relu, hswish]}
head: {conv_channels: 16}
"""
)
PLAN = {"min_rounds": 2, "max_rounds": 2, "warmup_ms": 0, "min_ms": 0.1}


def sources(table: LatencyTable) -> Counter[str]:
    return Counter(row.source for row in table.blocks().values())


def test_what_a_budget_leaves_out_is_estimated_and_measured_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TRIAL", 30)
    path, count = tmp_path / "host.csv", len(SPACE.candidates())

    def run(budget_s: float | None) -> LatencyTable:
        plan = MeasuringPlan(**PLAN, budget_s=budget_s)
        profile(SPACE, "tiny", HostDevice(), "litert", path, networks=2, plan=plan)
        return LatencyTable.load(path)

    hurried = run(budget_s=0)
    assert sources(hurried) == {"measured": 30, "estimated": count - 30}
    assert hurried.missing(SPACE.candidates()) == []
    assert {row.uncertainty for row in hurried.blocks().values() if row.source == "estimated"} != {0.0}
    assert len(hurried.rounds()) == 2
    kept = {key: row for key, row in hurried.rows.items() if row.source == "measured"}
    whole = run(budget_s=None)
    assert sources(whole) == {"measured": count}
    assert kept.items() <= whole.rows.items()
    assert [path] == list(tmp_path.iterdir())


class Faulty(HostDevice):
    """This machine, on which one of the models cannot be read."""

    def push(self, paths):  # type: ignore[no-untyped-def]
        for path in paths:
            if path.suffix == ".tflite" and path.name == min(other.name for other in paths):
                path.write_bytes(b"broken")
        return super().push(paths)


def test_a_block_that_cannot_run_is_left_out_and_said(tmp_path: Path) -> None:
    path = tmp_path / "host.csv"
    with pytest.raises(JobError, match=r"is written but lacks \d of \d+ models that litert on host could not run"):
        profile(SPACE, "tiny", Faulty(), "litert", path, networks=2, plan=MeasuringPlan(**PLAN))
    assert 0 < len(LatencyTable.load(path).missing(SPACE.candidates())) < 5
