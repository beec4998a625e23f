import math
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from fbnet_mobile.arch import Architecture
from fbnet_mobile.search.results import Searched

PROGRAM = Path(__file__).with_name("digits_search.py")
run: Callable[[Path, int], Searched] = runpy.run_path(str(PROGRAM))["run"]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    return run(tmp_path_factory.mktemp("one"), 1)


def test_two_processes_search_as_one_does(one: Searched, tmp_path: Path) -> None:
    """The same global batch gives the same losses, as batch norm takes the statistics of all processes."""
    subprocess.run(
        [sys.executable, PROGRAM, tmp_path, "2"],
        check=True,
        timeout=300,
    )

    two = pd.read_csv(tmp_path / "log.csv")
    assert Architecture.load(tmp_path / "architecture.yaml") == one.architecture
    for row, found in zip(one.history, two.to_dict("records"), strict=True):
        for name, value in row.columns().items():
            if name != "seconds":
                assert found[name] == pytest.approx(math.nan if value is None else value, rel=1e-4, nan_ok=True), name


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_search_killed_in_any_epoch_goes_on_as_if_nothing_had_happened(
    epoch: int, one: Searched, tmp_path: Path
) -> None:
    command = [sys.executable, PROGRAM, tmp_path, "1", str(epoch)]
    killed = subprocess.run(command, check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "architecture.yaml").exists()

    resumed = run(tmp_path, 1)

    assert resumed.architecture == one.architecture
    for row, expected in zip(resumed.history, one.history, strict=True):
        assert {**row.columns(), "seconds": 0} == pytest.approx({**expected.columns(), "seconds": 0}, nan_ok=True)
