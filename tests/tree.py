"""What tests that start programs need to start those of the tree they stand in, not of an installed package."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]


def environment() -> dict[str, str]:
    """Of a program of this tree, which breaks no lines; asked for late, as the folder of locks is set by a fixture."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "1000"}
