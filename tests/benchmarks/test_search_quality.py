"""What the found networks are compared with is what it is said to be."""

import pytest
import torch
from search_quality import hand_scaled, mobilenetv3, widest
from torch import nn

from fbnet_mobile.blocks.inverted_residual import InvertedResidual
from fbnet_mobile.blocks.network import build
from fbnet_mobile.space import load_space


def test_the_middle_network_is_scaled_in_all_its_widths() -> None:
    space = load_space("small")
    plain, wide = hand_scaled(space, 1.0), hand_scaled(space, 2.0)
    assert [block.out_channels for block in plain.blocks] == [16, 16, 16, 32, 64, 64, 10]
    assert [block.out_channels for block in wide.blocks] == [32, 32, 32, 64, 128, 128, 10]
    for one, two in zip(plain.blocks, wide.blocks, strict=True):
        if isinstance(one, InvertedResidual) and isinstance(two, InvertedResidual):
            assert two.depthwise_channels == 2 * one.depthwise_channels
    assert 3 < wide.macs / plain.macs < 4, "the stem is wider in its output alone"
    assert build(wide).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_mobilenetv3_reduces_the_image_as_the_space_does() -> None:
    space = load_space("small")
    features: list[tuple[int, ...]] = []
    module = mobilenetv3(space, 0.5, 7).eval()
    pool = next(part for part in module.children() if isinstance(part, nn.AdaptiveAvgPool2d))
    pool.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].shape))
    assert module(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    ours = space.architecture(space.first()).blocks[-1]
    assert features[0][-1] == ours.resolution == 4


def test_a_scaled_network_is_the_widest_that_is_as_fast(capsys: pytest.CaptureFixture[str]) -> None:
    widths = {0.5: 40.0, 0.9: 51.0, 1.0: 50.0, 1.1: 51.1}
    assert widest("a", widths, 50.0) == 1.0
    assert "not close" not in capsys.readouterr().out
    assert widest("a", widths, 49.0) == 0.5
    assert "not close" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="raise the targets"):
        widest("a", widths, 30.0)
