import os
import runpy
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from fbnet_mobile.arch import Architecture

PROGRAM = Path(__file__).with_name("digits_search.py")


def test_two_processes_search_as_one_does(tmp_path: Path) -> None:
    """The same global batch gives the same losses, as batch norm takes the statistics of all processes."""
    subprocess.run(
        [sys.executable, PROGRAM, tmp_path / "two", "2"],
        check=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    one = runpy.run_path(str(PROGRAM))["run"](tmp_path / "one", 1)

    two = pd.read_csv(tmp_path / "two" / "log.csv")
    assert Architecture.load(tmp_path / "two" / "architecture.yaml") == one.architecture
    for row, found in zip(one.history, two.to_dict("records"), strict=True):
        for name, value in row.columns().items():
            if name != "seconds":
                assert found[name] == pytest.approx(value, rel=1e-4), name
