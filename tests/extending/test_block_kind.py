"""A kind of block from a package of its own: measured, searched as one module, inherited, trained, exported."""

import random
import runpy
from collections.abc import Callable
from pathlib import Path

import torch

from fbnet_mobile.arch import Architecture, Block
from fbnet_mobile.search.choices import Choices
from fbnet_mobile.search.inherit import inherit
from fbnet_mobile.search.supernet import Supernet
from fbnet_mobile.space import SearchSpace
from tests.extending.conftest import EXAMPLES

SPACE = """
name: tiny
resolution: 16
classes: 10
stem: {out_channels: 8, stride: 2}
stages:
  - {block: fused, out_channels: [8, 12], depth: 2, skip: true, expansion: [1, 2]}
head: {conv_channels: 16}
"""

runpy.run_path(str(EXAMPLES / "block_kind.py"))  # registers the kind in this process, too


def test_its_masked_form_is_the_block_that_it_is_frozen_into() -> None:
    space, rng = SearchSpace.from_yaml(SPACE), random.Random(0)
    for block in space.candidates():
        assert Block.parse_key(block.key) == block
        assert sum(parameter.numel() for parameter in block.build().parameters()) == block.params
    torch.manual_seed(0)
    supernet, choices = Supernet(space), Choices(space)
    assert [type(block).__name__ for block in supernet.blocks] == ["MaskedConv", *["MaskedFused"] * 2, "MaskedHead"]
    images = torch.randn(4, 3, 16, 16)
    supernet(images, choices.sample(1.0))  # gives batch norm statistics
    supernet.eval()
    for _ in range(8):
        assignment = space.draw(rng)
        with torch.no_grad():
            torch.testing.assert_close(
                inherit(supernet, assignment).eval()(images), supernet(images, choices.one_hot(assignment))
            )


def test_it_goes_through_every_command(tmp_path: Path, command_with: Callable[[str], Callable[..., object]]) -> None:
    run = command_with("block_kind")
    (tmp_path / "tiny.yaml").write_text(SPACE)
    run("profile", "--space", "tiny.yaml", "--networks", 2, "--rounds", 2, "--budget", "20s", "-o", "host.csv")
    assert "fused in_channels=8 out_channels=12 " in (tmp_path / "host.csv").read_text()

    fast = ("--data", "digits", "--limit", 300, "--batch-size", 32, "--epochs", 2)
    run("search", "--latency-table", "host.csv", "--target-latency", "10ms", *fast, "-o", "search")
    network = Architecture.load(tmp_path / "search" / "architecture.yaml")
    assert network.blocks[1].kind == "fused", "its first block cannot be skipped"

    run("train", "--architecture", "search/architecture.yaml", *fast, "-o", "train")
    run("export", "--checkpoint", "train/best.pt", "-o", "network.tflite")
    assert (tmp_path / "network.tflite").stat().st_size > 4 * network.params, "float32"
