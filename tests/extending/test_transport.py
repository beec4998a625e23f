"""A device transport from outside the package, used by the commands."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from fbnet_mobile.formats.base import write
from fbnet_mobile.graph.trace import trace
from fbnet_mobile.latency.table import LatencyTable

SPACE = """
name: tiny
resolution: 8
classes: 2
stem: {out_channels: 8, stride: 2, activation: relu}
stages:
  - {out_channels: [8], depth: 1, stride: 1, skip: false, expansion_ratio: [1, 2],
     kernel_size: [3], squeeze_excite: [false], activation: [relu]}
head: {conv_channels: 8, activation: relu}
"""


def test_a_transport_of_one_s_own_profiles_and_benchmarks(
    command_with: Callable[[str], Callable], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = command_with("transport")
    board = tmp_path / "board"
    board.mkdir()
    (tmp_path / "tiny.yaml").write_text(SPACE)
    (tmp_path / "devices.yaml").write_text(f"box: {{transport: 'sandbox:{board}', python: {sys.executable}}}\n")
    monkeypatch.setenv("FBNET_DEVICES", str(tmp_path / "devices.yaml"))

    arguments = ["--device", "box", "--space", "tiny.yaml", "--networks", 0, "--rounds", 2]
    run("profile", *arguments, "-o", "box.csv")
    table = LatencyTable.load(tmp_path / "box.csv")
    assert table.conditions.device == "box"
    assert all(row.latency_us > 0 for row in table.rows.values())

    write(trace(nn.Conv2d(3, 4, 3), (1, 3, 8, 8)), tmp_path / "model.tflite", "tflite")
    run("benchmark", "model.tflite", "--device", "box", "-o", "report.json")
    (model,) = json.loads((tmp_path / "report.json").read_text())["models"]
    assert model["latency"]["min_us"] > 0
    assert list(board.iterdir()) == []

    assert "reachable" in run("profile", "--check-device", "box").stdout
    said = run("profile", "--device", "sandbox:/nowhere", *arguments[2:], "-o", "x.csv", code=2).stderr
    assert said == "error: 'sandbox:/nowhere' is no sandbox; write sandbox:FOLDER with a folder that exists\n"
