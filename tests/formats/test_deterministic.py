"""Equal networks give equal bytes, whenever and wherever they are exported."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fbnet_mobile.formats.base import get_format, write
from fbnet_mobile.graph.trace import trace


def write_all(folder: Path, metadata: dict[str, str], names: Sequence[str]) -> dict[str, str]:
    """A file of each format and precision, and the digest of its bytes and names."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.Conv2d(8, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    graph = trace(nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 2)), (1, 3, 8, 8))
    images = np.random.default_rng(0).standard_normal((8, 3, 8, 8), np.float32)
    digests = {}
    for entry in map(get_format, names):
        for precision in entry.precisions:
            path = folder / f"{precision}{entry.suffix}"
            write(graph, path, entry.name, metadata, precision, images)
            digest = hashlib.sha256()
            for file in sorted(item for item in (path, *path.rglob("*")) if item.is_file()):
                digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
            digests[path.name] = digest.hexdigest()
    return digests


@pytest.mark.parametrize(
    "names", [("tflite", "onnx", "coreml"), pytest.param(("executorch",), marks=pytest.mark.clients)]
)
def test_another_process_gives_the_same_bytes_and_prints_nothing(
    names: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    here = write_all(tmp_path / "here", {"a": "1", "classes": '["x", "y"]'}, names)
    for name in names:  # evaluating a package of Core ML makes operations, which are counted
        path = tmp_path / "here" / f"fp32{get_format(name).suffix}"
        get_format(name).load(path)(np.zeros((1, 3, 8, 8), np.float32))
    assert write_all(tmp_path / "again", {"a": "1", "classes": '["x", "y"]'}, names) == here
    assert capfd.readouterr() == ("", "")
    code = "import sys; from pathlib import Path; from test_deterministic import *; print(write_all(Path(sys.argv[1]), "
    code += """{"classes": '["x", "y"]', "a": "1"}, sys.argv[2:]))"""
    shown = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "there"), *names],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
    )
    assert shown.stdout.strip() == str(here)
