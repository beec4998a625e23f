"""A cost that the product does not know, from a package of its own: an option, a limit, columns with its unit."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from fbnet_mobile.arch import Architecture, Block
from fbnet_mobile.latency.table import BLOCK, INVOCATION, Conditions, LatencyTable, Measurement
from fbnet_mobile.space import SearchSpace

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
    kernel_size: 3
    squeeze_excite: [false, true]
    activation: relu
head: {conv_channels: [16, 24]}
"""


def energy_mj(block: Block) -> float:
    """What the table of this test says of a block; the digits of its file, and 0.5 mJ of the invocation, off."""
    return float(f"{0.5 + block.params / 300:.5g}") - 0.5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A space, and a table of it with a column more."""
    (tmp_path / "tiny.yaml").write_text(SPACE)

    def row(latency_us: float) -> Measurement:
        return Measurement(latency_us, *[latency_us] * 5, runs=1, rounds=1, uncertainty=0.0)

    rows = {LatencyTable.row_key(INVOCATION): row(5.0)}
    energy = {LatencyTable.row_key(INVOCATION): 0.5}
    for block in SearchSpace.from_yaml(SPACE).candidates():
        key = LatencyTable.row_key(BLOCK, [block])
        rows[key] = row(5 + block.macs / 2000)
        energy[key] = 0.5 + block.params / 300
    conditions = Conditions("host", "cpu", "litert", "2", 1, "fp32", "min", "tiny.yaml", "2026-01-01")
    LatencyTable(conditions, rows, {"energy_mJ": energy}).save(tmp_path / "host.csv")
    return tmp_path


def test_energy_from_a_column_of_the_table_limits_a_search(
    folder: Path, command_with: Callable[[str], Callable[..., object]]
) -> None:
    search = command_with("energy")
    assert "--max-energy" in search("search", "--help").stdout
    words = ("--latency-table", "host.csv", "--target-latency", "300us", "--data", "digits", "--limit", 300)
    fast = ("--epochs", 2, "--batch-size", 32)
    said = search("search", *words, *fast, "--max-energy", "4mJ", "-o", "run").stdout
    assert "energy on host" in said

    network = Architecture.load(folder / "run" / "architecture.yaml")
    spent = 0.5 + sum(map(energy_mj, network.blocks))
    assert 0.9 * 4 < spent <= 4
    latency, energy = json.loads((folder / "run" / "result.json").read_text())["constraints"]
    assert (latency["name"], energy["name"]) == ("latency_us", "energy_mJ")
    assert energy["limit"] == 4
    assert energy["value"] == pytest.approx(spent)
    with (folder / "run" / "log.csv").open() as file:
        assert {"expected_energy_mJ", "multiplier_energy_mJ"} <= set(next(csv.reader(file)))

    refused = search("search", *words, *fast, "--max-energy", "3 apples", "-o", "other", code=2).stderr
    assert refused == "error: '3 apples' is not an energy; write a number with its unit, such as 3mJ\n"
    pd.read_csv(folder / "host.csv").drop(columns="energy_mJ").to_csv(folder / "host.csv", index=False)
    refused = search("search", *words, *fast, "--max-energy", "3mJ", "-o", "other", code=2).stderr
    assert refused.count("\n") == 1
    assert "the table has no energy_mJ for" in refused
