"""Whole searches by evolution: killed in the middle of a generation, and in two processes."""

import json
import runpy
import signal
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("digits_evolution.py")
PARTS = runpy.run_path(str(PROGRAM))


def test_killed_in_a_generation_it_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = PARTS["run"](tmp_path / "whole", 1)
    folder = tmp_path / "killed"
    killed = subprocess.run([sys.executable, PROGRAM, folder, "1", "9"], check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    state = json.loads((folder / "evolution.json").read_text())
    assert [len(generation) for generation in state["generations"]] == [6], "it was in the second generation"
    assert not (folder / "result.json").exists()

    resumed = PARTS["run"](folder, 1)

    assert resumed.architecture == whole.architecture
    assert resumed.most_likely == whole.most_likely
    for name in ("evolution.json", "result.json"):
        assert json.loads((folder / name).read_text()) == json.loads((tmp_path / "whole" / name).read_text())
    (met,) = resumed.constraints
    assert met.value == resumed.architecture.macs <= PARTS["MACS"]


def test_two_processes_share_the_measuring(tmp_path: Path) -> None:
    subprocess.run([sys.executable, PROGRAM, tmp_path, "2"], check=True, timeout=300)
    generations = json.loads((tmp_path / "evolution.json").read_text())["generations"]
    assert [len(generation) for generation in generations] == [6, 6, 6]
    accuracies = [each["accuracy"] for generation in generations for each in generation]
    assert min(accuracies[::2]) > 0, "those of the first process"
    assert min(accuracies[1::2]) > 0, "those of the second"
    assert json.loads((tmp_path / "result.json").read_text())["constraints"][0]["value"] <= PARTS["MACS"]
    assert max(accuracies) <= 1, "each is measured by one process alone"
