"""What a block says of itself is what its module does."""

import random

import pytest
import torch
from torch import nn

from fbnet_mobile.arch import Block
from fbnet_mobile.arch.fields import Activation
from fbnet_mobile.blocks.conv import ConvBlock
from fbnet_mobile.blocks.head import Head
from fbnet_mobile.blocks.inverted_residual import InvertedResidual
from fbnet_mobile.blocks.inverted_residual.module import InvertedResidualModule


def draw(kind: str, rng: random.Random) -> Block:
    """A random block that has each optional field in about half of the draws."""
    width, out, resolution = rng.randrange(2, 20, 2), rng.randrange(2, 20, 2), rng.randint(1, 11)
    activation: Activation = rng.choice(("relu", "hswish"))
    bias, stride, kernel_size = rng.choice((True, False)), rng.choice((1, 2)), rng.choice((1, 3, 5, 7))
    if kind == "conv":
        return ConvBlock(
            in_channels=width,
            out_channels=out,
            resolution=resolution,
            stride=stride,
            kernel_size=kernel_size,
            activation=activation,
            bias=bias,
        )
    if kind == "head":
        return Head(
            in_channels=width,
            out_channels=out,
            resolution=resolution,
            conv_channels=rng.randint(1, 20),
            hidden_channels=rng.choice((None, 5)),
            activation=activation,
            bias=bias,
        )
    return InvertedResidual(
        in_channels=width,
        out_channels=rng.choice((width, out)),
        resolution=resolution,
        stride=stride,
        expanded_channels=rng.choice((None, 6, 10, width)),
        kernel_size=kernel_size,
        se_channels=rng.choice((None, 3)),
        activation=activation,
        groups=rng.choice((None, 2)),
        bias=bias,
    )


@pytest.mark.parametrize("kind", ["conv", "inverted_residual", "head"])
def test_shapes_and_counts_of_random_blocks(kind: str) -> None:
    rng = random.Random(0)
    for _ in range(60):
        block = draw(kind, rng)
        assert Block.parse_key(block.key) == block
        module = block.build().eval()
        macs = 0

        def count(part: nn.Module, _: object, out: torch.Tensor) -> None:
            nonlocal macs
            assert isinstance(part, nn.Conv2d | nn.Linear)
            macs += part.weight.numel() * (out[0, 0].numel() if out.dim() == 4 else 1)

        for part in module.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                part.register_forward_hook(count)
        with torch.no_grad():
            out = module(torch.zeros(2, block.in_channels, block.resolution, block.resolution))
        spatial = () if kind == "head" else (block.out_resolution, block.out_resolution)
        assert out.shape == (2, block.out_channels, *spatial), block
        assert macs == block.macs, block
        assert sum(parameter.numel() for parameter in module.parameters()) == block.params, block


def test_channels_are_shuffled_before_the_depthwise_convolution_even_without_expansion() -> None:
    for expanded in (None, 12):
        block = InvertedResidual(
            in_channels=6, out_channels=4, resolution=5, expanded_channels=expanded, groups=2, bias=True
        )
        module = block.build().eval()
        assert isinstance(module, InvertedResidualModule)
        features = torch.randn(2, 6, 5, 5)
        with torch.no_grad():
            wide = module.expand(features)
            width = wide.shape[1]
            order = [0, 3, 1, 4, 2, 5] if width == 6 else [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]
            expected = module.project(module.depthwise(wide[:, order]))
            torch.testing.assert_close(module(features), expected)
            assert not torch.allclose(module(features), module.project(module.depthwise(wide)))


def test_fields_of_published_networks_alone_change_no_other_key() -> None:
    plain = InvertedResidual(in_channels=8, out_channels=8, resolution=4)
    assert (
        plain.key
        == "inverted_residual in_channels=8 out_channels=8 resolution=4 stride=1 kernel_size=3 activation=relu"
    )
    said = InvertedResidual(in_channels=8, out_channels=8, resolution=4, groups=1, bias=False)
    assert said == plain
    with pytest.raises(ValueError, match="9 channels do not divide into 2 groups"):
        InvertedResidual(in_channels=8, out_channels=9, resolution=4, groups=2)
