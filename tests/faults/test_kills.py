"""An export killed at a random moment; the other commands are killed in the tests of what they do."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_killed_export_is_given_again_and_ends_the_same() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "kills.py", "--kills", "1", "export"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "1 kills, 0 jobs wrong"
