import itertools
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fbnet_mobile.devices import HostDevice
from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.latency import estimate
from fbnet_mobile.latency.calibration import elements_between
from fbnet_mobile.latency.table import BLOCK, ROUND, LatencyTable
from fbnet_mobile.measure import build as build_module
from fbnet_mobile.measure import profile as module
from fbnet_mobile.measure.artifacts import Artifact
from fbnet_mobile.measure.build import file_of
from fbnet_mobile.measure.plan import MeasuringPlan
from fbnet_mobile.measure.profile import Profiled, profile, unusual_networks
from fbnet_mobile.space import SearchSpace, load_space
from tests.measure.clockwork import Clockwork

SPACE_YAML = """
name: tiny
resolution: 16
classes: 3
stem: {out_channels: 8, stride: 2}
stages:
  - {out_channels: [8, 12, 16], depth: 2, stride: 2, expansion_ratio: [1, 2], kernel_size: [3],
     squeeze_excite: [false, true], activation: [relu]}
head: {conv_channels: 16}
"""
SPACE = SearchSpace.from_yaml(SPACE_YAML)
COUNT = len(SPACE.candidates())
TRIAL = 12
"""Blocks of the trial in these tests; the reference block is measured besides."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes in place of model files, as many for each as its blocks ask for: a clockwork device reads no more."""

    def write(artifact: Artifact, folder: Path, scratch: Path) -> None:
        size = 1000 + sum(block.macs for block in artifact.blocks) // 100 + len(artifact.blocks)
        file_of(artifact, folder).write_bytes(bytes(size // (4 if artifact.precision == "int8" else 1)))

    monkeypatch.setattr(build_module, "_write", write)
    monkeypatch.setattr(module, "_TRIAL", TRIAL)


def run(
    device: HostDevice, path: Path, budget_s: float | None = None, precision: str = "fp32", statistic: str = "min"
) -> Profiled:
    plan = MeasuringPlan(min_rounds=2, max_rounds=2, budget_s=budget_s)
    return profile(
        SPACE, "tiny", device, "litert", path, networks=2, plan=plan, precision=precision, statistic=statistic
    )


def latencies(table: LatencyTable) -> dict[tuple[str, str], float]:
    return {key: row.latency_us for key, row in table.rows.items() if key[0] != ROUND}


def sources(table: LatencyTable) -> Counter[str]:
    return Counter(row.source for row in table.blocks().values())


@pytest.mark.usefixtures("quick")
def test_every_candidate_is_measured_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(Clockwork(monkeypatch), tmp_path / "host.csv")
    assert (result.measured, result.estimated, result.failed, result.warnings) == (COUNT, 0, (), ())
    assert latencies(result.table) == latencies(LatencyTable.load(tmp_path / "host.csv"))
    assert len(result.table.rounds()) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["host.csv"]
    content = (tmp_path / "host.csv").read_bytes()
    again = run(Clockwork(monkeypatch, cut=0), tmp_path / "host.csv")
    assert (again.measured, (tmp_path / "host.csv").read_bytes()) == (COUNT, content)
    assert [path.name for path in tmp_path.iterdir()] == ["host.csv"]


def test_networks_that_the_sum_is_corrected_by_are_unlike_those_drawn_at_random() -> None:
    """A correction for weights has to be seen where there are more of them than in the networks of the space."""
    space = load_space("small")
    keys = {block.key for block in space.candidates()}
    found = list(unusual_networks(space))
    for blocks in found:
        assert {block.key for block in blocks} <= keys
        for block, after in itertools.pairwise(blocks):
            assert (block.out_channels, block.out_resolution) == (after.in_channels, after.resolution)
        assert [block.ends_network for block in blocks] == [False] * (len(blocks) - 1) + [True]
    of_the_space = [space.architecture(space.draw(random.Random(seed))) for seed in range(200)]
    for size in (lambda block: block.params, lambda block: block.macs, elements_between):
        drawn = [sum(map(size, network.blocks)) for network in of_the_space]
        ours = [sum(map(size, blocks)) for blocks in found[:6]]
        assert min(ours) <= min(drawn)
        assert max(ours) >= max(drawn)
    for size, deep in ((lambda block: block.params, (6, 8)), (elements_between, (7, 9))):
        most = max(sum(map(size, blocks)) for blocks in found[:6])
        assert all(1.4 * most < sum(map(size, found[number])) < 2 * most for number in deep)


@pytest.mark.usefixtures("quick")
def test_a_profile_that_is_cut_off_and_typed_again_in_another_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files were named by row alone, so that the int8 table was one of fp32 files."""
    undisturbed = run(Clockwork(monkeypatch), tmp_path / "undisturbed.csv", precision="int8")
    with pytest.raises(KeyboardInterrupt):
        run(Clockwork(monkeypatch, cut=COUNT), tmp_path / "host.csv")
    table = run(Clockwork(monkeypatch), tmp_path / "host.csv", precision="int8").table
    assert table.conditions.precision == "int8"
    assert latencies(table) == latencies(undisturbed.table)


@pytest.mark.usefixtures("quick")
def test_another_statistic_is_a_view_of_the_same_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Clockwork(monkeypatch, cut=COUNT), tmp_path / "host.csv")
    device = Clockwork(monkeypatch)
    assert run(device, tmp_path / "host.csv", statistic="mean").measured == COUNT
    whole = Clockwork(monkeypatch)
    run(whole, tmp_path / "other.csv")
    assert device.timed <= whole.timed - COUNT + 1, "but for the reference once more"


@pytest.mark.usefixtures("quick")
def test_a_table_completed_in_a_session_of_another_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine 2.9 times as fast gave rows of two speeds, and no warning."""
    path = tmp_path / "host.csv"
    hurried = run(Clockwork(monkeypatch), path, budget_s=0)
    assert sources(hurried.table) == {"measured": TRIAL + 1, "estimated": COUNT - TRIAL - 1}
    truth = run(Clockwork(monkeypatch), tmp_path / "truth.csv")
    completed = run(Clockwork(monkeypatch, lambda file: file.stat().st_size / 290), path)
    assert sources(completed.table) == {"measured": COUNT}
    for key, latency_us in latencies(truth.table).items():
        assert completed.table.rows[key].latency_us == pytest.approx(latency_us, rel=1e-4), key
    (warning,) = completed.table.warnings()
    assert re.search(
        rf"{COUNT - TRIAL - 1} rows are of the session of 2\d+.*took 0\.34 times as long .* were scaled", warning
    )
    assert warning in completed.warnings
    kept = {key: row for key, row in hurried.table.rows.items() if row.source == "measured"}
    assert kept.items() <= completed.table.rows.items()


@pytest.mark.usefixtures("quick")
def test_what_a_budget_leaves_out_is_estimated_said_and_measured_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "host.csv"
    hurried = run(Clockwork(monkeypatch), path, budget_s=0)
    assert (hurried.measured, hurried.estimated) == (TRIAL + 1, COUNT - TRIAL - 1)
    assert hurried.table.missing(SPACE.candidates()) == []
    assert {row.uncertainty for row in hurried.table.blocks().values() if row.source == "estimated"} != {0.0}
    kept = {key: row for key, row in hurried.table.rows.items() if row.source == "measured"}
    whole = run(Clockwork(monkeypatch), path)
    assert sources(whole.table) == {"measured": COUNT}
    assert kept.items() <= whole.table.rows.items()
    assert whole.table.warnings() == []
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize("cut", [5, 21 + 4 + 3, 21 + 4 + TRIAL + 10])
@pytest.mark.usefixtures("quick")
def test_a_budget_holds_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    """What took no time as it was done already was thought to cost none: 211 blocks that there was time for became all.

    Cut off among the networks, in the trial of blocks, and behind it.
    """
    # A sample takes 1 s; in each of two rounds 2 networks have ten, the invocation and every block one.
    budget_s = 2 * (2 * 10 + 1) + 2 * 20 + 5
    undisturbed = run(Clockwork(monkeypatch), tmp_path / "undisturbed.csv", budget_s=budget_s)
    assert TRIAL < undisturbed.measured < COUNT
    with pytest.raises(KeyboardInterrupt):
        run(Clockwork(monkeypatch, cut=cut), tmp_path / "host.csv", budget_s=budget_s)
    device = Clockwork(monkeypatch)
    resumed = run(device, tmp_path / "host.csv", budget_s=budget_s)
    assert abs(resumed.measured - undisturbed.measured) <= 1, "but for the reference, once more"


@pytest.mark.usefixtures("quick")
def test_a_budget_that_was_decided_is_not_decided_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget_s = 2 * (2 * 10 + 1) + 2 * 20 + 5
    undisturbed = run(Clockwork(monkeypatch), tmp_path / "undisturbed.csv", budget_s=budget_s)
    with pytest.raises(KeyboardInterrupt):
        run(Clockwork(monkeypatch, cut=21 + 4 + TRIAL + 10), tmp_path / "host.csv", budget_s=budget_s)
    with pytest.raises(KeyboardInterrupt):  # by what this session took there would be time for fewer
        run(Clockwork(monkeypatch, sample_s=10, cut=40), tmp_path / "host.csv", budget_s=budget_s)
    assert run(Clockwork(monkeypatch), tmp_path / "host.csv", budget_s=budget_s).measured == undisturbed.measured
    with pytest.raises(KeyboardInterrupt):
        run(Clockwork(monkeypatch, cut=COUNT), tmp_path / "more.csv", budget_s=0)
    assert run(Clockwork(monkeypatch), tmp_path / "more.csv", budget_s=1e6).measured == COUNT, "another budget is"


class Faulty(HostDevice):
    """This machine, on which one of the models cannot be read."""

    def push(self, paths):  # type: ignore[no-untyped-def]
        for path in paths:
            if path.suffix == ".tflite" and path.name == min(other.name for other in paths):
                path.write_bytes(b"broken")
        return super().push(paths)


def test_a_block_that_cannot_run_is_left_out_and_said(tmp_path: Path) -> None:
    path = tmp_path / "host.csv"
    plan = MeasuringPlan(min_rounds=2, max_rounds=2, warmup_ms=0, min_ms=0.1)
    result = profile(SPACE, "tiny", Faulty(), "litert", path, networks=2, plan=plan)
    assert 0 < len(result.failed) < 5
    assert result.failed[0].kind in ("invocation", "block", "network")
    assert "ValueError" in result.failed[0].reason
    blocks = sum(failure.kind == BLOCK for failure in result.failed)
    assert len(LatencyTable.load(path).missing(SPACE.candidates())) == blocks


@pytest.mark.usefixtures("quick")
def test_when_every_model_fails_nothing_is_written_and_the_command_can_be_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Clockwork(monkeypatch, lambda _: -1.0)
    with pytest.raises(JobError, match=rf"could run none of {COUNT + 3} models.*nothing is written to .*host\.csv"):
        run(broken, tmp_path / "host.csv")
    assert list(tmp_path.iterdir()) == []
    assert run(Clockwork(monkeypatch), tmp_path / "host.csv").measured == COUNT


@pytest.mark.usefixtures("quick")
def test_what_was_measured_is_saved_whatever_happens_to_the_estimates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> NDArray[np.float64]:
        raise RuntimeError("Maximum number of iterations reached.")

    monkeypatch.setattr(estimate, "nnls", fails)
    result = run(Clockwork(monkeypatch), tmp_path / "slow.csv", budget_s=0)
    assert sources(result.table) == {"measured": TRIAL + 1, "estimated": COUNT - TRIAL - 1}, "there is another method"
    monkeypatch.setattr(estimate, "lsq_linear", fails)
    result = run(Clockwork(monkeypatch), tmp_path / "host.csv", budget_s=0)
    assert sources(LatencyTable.load(tmp_path / "host.csv")) == {"measured": TRIAL + 1}
    assert "not estimated: Maximum number" in result.warnings[0]


@pytest.mark.usefixtures("quick")
def test_two_profiles_into_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "host.csv"
    with pytest.raises(KeyboardInterrupt):
        run(Clockwork(monkeypatch, cut=3), path)
    with (
        module._alone(tmp_path / "host.csv.work", path),
        pytest.raises(JobError, match=r"host\.csv is in use by process \d+ on .+; wait until that has ended"),
    ):
        run(Clockwork(monkeypatch), path)
    assert run(Clockwork(monkeypatch), path).measured == COUNT, "and the work of the first is still there"


@pytest.mark.usefixtures("quick")
def test_other_conditions_are_refused_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(Clockwork(monkeypatch), tmp_path / "host.csv")
    with pytest.raises(UserError, match="was measured with precision fp32, not int8"):
        run(Clockwork(monkeypatch), tmp_path / "host.csv", precision="int8")
    assert [path.name for path in tmp_path.iterdir()] == ["host.csv"]


@pytest.mark.usefixtures("quick")
def test_blocks_are_files_of_the_format_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = MeasuringPlan(min_rounds=2, max_rounds=2)
    for format_, suffix in (("tflite", ".tflite"), ("", ".onnx")):
        device, path = Clockwork(monkeypatch), tmp_path / f"openvino{suffix}.csv"
        profile(SPACE, "tiny", device, "openvino", path, networks=2, plan=plan, format=format_)
        assert {model.suffix for order in device.orders for model in order} == {suffix}
        assert f".{LatencyTable.load(path).conditions.format}" == suffix
    with pytest.raises(UserError, match=r"\.onnx\.csv was measured with format onnx, not tflite"):
        profile(SPACE, "tiny", Clockwork(monkeypatch), "openvino", path, networks=2, plan=plan, format="tflite")


CHILD = """
import sys
from pathlib import Path
import pytest
from tests.measure.clockwork import Clockwork
from tests.measure import test_profile
with pytest.MonkeyPatch.context() as patch:
    test_profile.run(Clockwork(patch), Path(sys.argv[1]))
"""


def test_a_kill_at_any_moment_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = run(Clockwork(monkeypatch), tmp_path / "undisturbed.csv").table
    journal = tmp_path / "host.csv.work" / "samples.jsonl"
    root = Path(__file__).parents[2]
    sizes = [0, 30]  # lines of the journal after which it is killed; 0: among the first model files
    for size in sizes:
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path / "host.csv")],
            cwd=root, env={"PYTHONPATH": str(root), "PATH": "", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        while child.poll() is None:
            lines = journal.read_bytes().count(b"\n") if journal.exists() else -1
            if lines >= size:
                child.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
        child.wait()
    assert latencies(run(Clockwork(monkeypatch), tmp_path / "host.csv").table) == latencies(undisturbed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["host.csv", "undisturbed.csv"]
