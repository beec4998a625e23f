"""A network that the commands can export and look at."""

from pathlib import Path

import pytest
import torch
from calibrated import calibrated

from fbnet_mobile.arch import Architecture
from fbnet_mobile.blocks.network import build
from fbnet_mobile.data.data import load_data
from fbnet_mobile.engine.checkpoint import Checkpoint, save_checkpoint

NETWORK = """
name: tiny
resolution: 16
blocks:
  - {kind: conv, out_channels: 8, stride: 2}
  - {kind: head, out_channels: 10, conv_channels: 16}
"""


@pytest.fixture(scope="package")
def network() -> Architecture:
    return Architecture.from_yaml(NETWORK)


@pytest.fixture(scope="package")
def checkpoint(network: Architecture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an untrained network for digits, whose normalisation is not that of the images: the file's counts."""
    torch.manual_seed(0)
    module = calibrated(build(network), 3, 16)
    path = tmp_path_factory.mktemp("run") / "best.pt"
    classes = load_data("digits", resolution=16).classes
    mean, std = (0.3, 0.5, 0.7), (0.2, 0.3, 0.4)
    save_checkpoint(path, Checkpoint(network.to_yaml(), module.state_dict(), classes, mean, std, 16, 0.1))
    return path
