"""A search strategy that the product does not have, from a package of its own."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fbnet_mobile.arch import Architecture

SPACE = """
name: tiny
resolution: 16
classes: 10
stem: {out_channels: 8, stride: 2}
stages:
  - out_channels: [8, 12, 16]
    depth: 2
    skip: true
    expansion_ratio: [1, 2]
    kernel_size: [3, 5]
    squeeze_excite: [false, true]
    activation: relu
head: {conv_channels: [16, 24]}
"""


def test_random_search_chooses_a_network(tmp_path: Path, command_with: Callable[[str], Callable[..., Any]]) -> None:
    (tmp_path / "tiny.yaml").write_text(SPACE)
    search = command_with("strategy")
    words = ("--space", "tiny.yaml", "--data", "digits", "--limit", 300, "--epochs", 2, "--batch-size", 32)
    said = search("search", *words, "--strategy", "random", "--max-macs", "60k", "-o", "run").stdout
    assert "macs" in said
    network = Architecture.load(tmp_path / "run" / "architecture.yaml")
    assert network.macs <= 60_000
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["assignment"] == written["most_likely"]
    with (tmp_path / "run" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["weight_loss"]) < float(rows[0]["weight_loss"])
    refused = search("search", *words, "--strategy", "randon", "--max-macs", "60k", "-o", "other", code=2).stderr
    assert "error: unknown strategy 'randon'; did you mean 'random'? choose one of " in refused
    assert "Traceback" not in refused
