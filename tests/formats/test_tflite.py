from pathlib import Path

import pytest
import torch
from torch import nn

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.base import write
from fbnet_mobile.formats.tflite.run import LiteRTSession, load
from fbnet_mobile.graph.trace import trace

from .networks import mobile_network


def operations(module: nn.Module, shape: tuple[int, int, int, int], folder: Path) -> list[str]:
    path = folder / "m.tflite"
    write(trace(module, shape), path, "tflite")
    session = load(path)
    assert isinstance(session, LiteRTSession)
    names = [details["op_name"] for details in session.interpreter._get_ops_details()]
    return [name for name in names if name != "DELEGATE"]


def test_feature_maps_are_never_transposed_and_hard_sigmoid_costs_a_multiply(tmp_path: Path) -> None:
    kinds = operations(mobile_network(), (1, 3, 33, 33), tmp_path)
    assert "TRANSPOSE" not in kinds
    # Of the four blocks: a gate's multiply and the hard sigmoid's; its addition and clamp are in a layer.
    assert kinds.count("MUL") == 8
    assert kinds.count("ADD") == 2
    assert not {"RELU", "RELU6"} & set(kinds)
    assert kinds.count("CONV_2D") == 1 + 4 * 4
    assert kinds.count("DEPTHWISE_CONV_2D") == 4


def test_only_padding_that_tflite_would_do_otherwise_is_explicit(tmp_path: Path) -> None:
    even = nn.Conv2d(2, 2, 3, stride=2, padding=1)
    assert operations(even, (1, 2, 8, 8), tmp_path) == ["PAD", "CONV_2D"]
    assert operations(even, (1, 2, 7, 7), tmp_path) == ["CONV_2D"]
    assert operations(nn.Conv2d(2, 2, 5, padding=2), (1, 2, 8, 8), tmp_path) == ["CONV_2D"]


def test_an_activation_is_not_fused_into_a_layer_whose_value_is_read_elsewhere(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(2, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layer(x)
            return torch.cat((y, torch.relu(y)), 1)

    assert operations(Twice(), (1, 2, 3, 3), tmp_path) == ["CONV_2D", "RELU", "CONCATENATION"]


def test_permutations_that_are_taken_back_cost_nothing(tmp_path: Path) -> None:
    class Block(nn.Module):
        """ConvNeXt's, whose norm and layers are over channels, and tokens as a transformer makes them and back."""

        def __init__(self) -> None:
            super().__init__()
            self.norm, self.layer, self.last = nn.LayerNorm(4), nn.Linear(4, 4), nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.layer(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2) * 2 + x
            return self.last(self.layer(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape))

    assert "TRANSPOSE" not in operations(Block(), (1, 4, 5, 6), tmp_path)


def test_a_transposed_convolution_of_groups_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write 0\.conv_transpose2d \(in '0'\) to TFLite: it has no"):
        operations(nn.Sequential(nn.ConvTranspose2d(4, 4, 2, groups=2)), (1, 4, 5, 6), tmp_path)


def test_the_file_has_a_signature(tmp_path: Path) -> None:
    write(trace(nn.Conv2d(2, 3, 1), (1, 2, 4, 5)), tmp_path / "m.tflite", "tflite")
    session = load(tmp_path / "m.tflite")
    assert isinstance(session, LiteRTSession)
    assert session.input_shape == (1, 2, 4, 5)
    assert session.interpreter.get_signature_list() == {"serving_default": {"inputs": ["input"], "outputs": ["output"]}}
