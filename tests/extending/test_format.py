"""A file format with its runtime, from outside: profiled, exported, proved and measured by the commands."""

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from fbnet_mobile.blocks.network import build
from fbnet_mobile.data.data import load_data
from fbnet_mobile.engine.checkpoint import Checkpoint, save_checkpoint
from fbnet_mobile.errors import UserError
from fbnet_mobile.latency.table import LatencyTable
from fbnet_mobile.space import SearchSpace

SPACE = """
name: tiny
resolution: 16
classes: 10
stem: {out_channels: 8, stride: 2, activation: hswish}
stages:
  - {out_channels: 8, depth: 1, expansion_ratio: [1, 2], kernel_size: 3, squeeze_excite: true, activation: relu}
head: {conv_channels: 16, activation: relu}
"""


def test_a_format_from_outside(command_with: Callable[[str], Callable], tmp_path: Path) -> None:
    run = command_with("format")
    (tmp_path / "space.yaml").write_text(SPACE)
    quick = ("--rounds", "2", "--networks", "3", "--budget", "100s")
    run("profile", "--space", "space.yaml", "--device", "host", "--runtime", "npz-torch", *quick, "-o", "table.csv")
    table = pd.read_csv(tmp_path / "table.csv")
    assert set(zip(table["runtime"], table["runtime_version"], strict=True)) == {("npz-torch", torch.__version__)}
    assert (table["kind"] == "block").sum() == 4
    with pytest.raises(UserError, match="unknown runtime 'npz-torch'"):  # here, where the plugin is not installed
        LatencyTable.load(tmp_path / "table.csv")

    torch.manual_seed(0)
    space = SearchSpace.from_yaml(SPACE)
    network = space.architecture(space.first())
    weights = build(network).state_dict()
    classes = load_data("digits", resolution=16).classes
    checkpoint = Checkpoint(network.to_yaml(), weights, classes, (0.3, 0.5, 0.7), (0.2, 0.3, 0.4), 16, 0.1)
    save_checkpoint(tmp_path / "best.pt", checkpoint)
    for path in ("a.npz", "b.npz", "a.npz"):  # the last replaces the first
        said = run("export", "--checkpoint", "best.pt", "--data", "digits", "--input", "uint8", "-o", path).stdout
        assert re.search(r"PyTorch's answer on 100.0% of them; accuracy (\S+)%, PyTorch's \1%", said)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    said = run("benchmark", "a.npz", "best.pt", "--data", "digits", "--latency-table", "table.csv").stdout
    assert "fp32), npz-torch " in said
    assert re.search(r"latency on host .*: min \S+ ", said)
    assert re.search(r"predicted \S+ us", said)
    first, second = re.findall(r"accuracy (\S+)% on 179 test images", said)
    assert first == second

    refused = run("export", "--checkpoint", "best.pt", "--precision", "int8", "-o", "c.npz", code=2)
    assert "unknown precision 'int8'; choose one of fp32" in refused.stderr
    refused = run("export", "--model", "timm:efficientnet_lite0", "--resolution", "32", "-o", "c.npz", code=2)
    assert re.search(r"cannot write \S+ \(in '\S+'\) to npz: it has no relu6", refused.stderr)
    (tmp_path / "c.npz").write_bytes(b"another's")
    refused = run("export", "--checkpoint", "best.pt", "-o", "c.npz", code=2)
    assert "a file stands there that is no earlier result" in refused.stderr
    assert (tmp_path / "c.npz").read_bytes() == b"another's"
