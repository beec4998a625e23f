"""What networks of others are made of, in every format and precision: each kind of block, and each field of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from calibrated import calibrated
from export_parity import TOLERANCES, compare

from fbnet_mobile.arch import Architecture
from fbnet_mobile.blocks.network import build
from fbnet_mobile.formats.base import get_format
from fbnet_mobile.formats.verify import export
from tests.formats.each import TOGETHER

BLOCKS = """
name: every-field
resolution: {resolution}
blocks:
  - {{kind: conv, out_channels: 8, stride: 2, activation: relu6, padding: same, batch_norm_eps: 0.001}}
  - {{kind: conv, out_channels: 8, activation: silu, residual: true}}
  - {{kind: inverted_residual, out_channels: 16, stride: 2, expanded_channels: 24, kernel_size: 5, se_channels: 3,
      activation: silu, se_activation: relu, se_gate: sigmoid, padding: same}}
  - {{kind: inverted_residual, out_channels: 16, project_activation: relu, no_residual: true}}
  - {{kind: fused_inverted_residual, out_channels: 16, expanded_channels: 32, se_channels: 4, groups: 2}}
  - {{kind: fused_inverted_residual, out_channels: 16, stride: 2, expanded_channels: 32, padding: same}}
  - {{kind: universal_inverted_residual, out_channels: 16, expanded_channels: 32, start_kernel_size: 3,
      middle_kernel_size: 5, activation: relu6}}
  - {{kind: universal_inverted_residual, out_channels: 24, stride: 2, expanded_channels: 32, start_kernel_size: 5,
      end_kernel_size: 3, padding: same}}
  - {{kind: head, out_channels: 5, hidden_channels: 16, hidden_norm: true, activation: relu}}
"""


@pytest.mark.parametrize(
    ("resolution", "formats"), [(48, [entry.name for entry in TOGETHER]), (35, ["onnx", "tflite"])]
)
def test_every_field_of_every_kind_in_every_format(resolution: int, formats: list[str]) -> None:
    """At every stride an even map, and an odd one: "same" padding differs."""
    network = Architecture.from_yaml(BLOCKS.format(resolution=resolution))
    rows = list(compare(network, formats))
    assert len(rows) == 2 * len(formats)
    for row in rows:
        assert row["between_inputs"] > 0.1, "the test would prove nothing"
        assert row["relative_difference"] < TOLERANCES[row["precision"]], row


@pytest.mark.parametrize("name", ["tflite", "onnx"])
def test_every_field_of_every_kind_in_int8(name: str, tmp_path: Path) -> None:
    network = Architecture.from_yaml(BLOCKS.format(resolution=48))
    torch.manual_seed(0)
    module = calibrated(build(network), 3, 48)
    images = np.random.default_rng(0).standard_normal((32, 3, 48, 48), np.float32)
    report = export(
        module,
        tmp_path / f"it{get_format(name).suffix}",
        format=name,
        input_shape=network.input_shape,
        inputs=images[:8],
        precision="int8",
        calibration=images,
        min_agreement=0.0,
    )
    assert report.relative_difference < 0.35
    assert report.size < 4 * network.params * 1.5
