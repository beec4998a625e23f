"""What a block says of itself is what its module does."""

import random

import pytest
import torch
from torch import nn

from fbnet_mobile.arch import Block
from fbnet_mobile.arch.fields import Activation
from fbnet_mobile.blocks.conv import ConvBlock
from fbnet_mobile.blocks.fused_inverted_residual import FusedInvertedResidual
from fbnet_mobile.blocks.head import Head
from fbnet_mobile.blocks.inverted_residual import InvertedResidual
from fbnet_mobile.blocks.inverted_residual.module import InvertedResidualModule
from fbnet_mobile.blocks.layers import SameConv2d
from fbnet_mobile.blocks.universal_inverted_residual import UniversalInvertedResidual


def draw(kind: str, rng: random.Random) -> Block:
    """A random block that has each optional field in about half of the draws."""
    width, out, resolution = rng.randrange(2, 20, 2), rng.randrange(2, 20, 2), rng.randint(1, 11)
    activation: Activation = rng.choice(("relu", "hswish", "relu6", "silu"))
    padding, eps, off = rng.choice((None, "same")), rng.choice((None, 1e-3)), rng.choice((None, True))
    gate, se_activation = rng.choice((None, "sigmoid")), rng.choice((None, "relu"))
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
            residual=off if (stride, width) == (1, out) else None,
            padding=padding,
            batch_norm_eps=eps,
        )
    if kind == "head":
        return Head(
            in_channels=width,
            out_channels=out,
            resolution=resolution,
            conv_channels=rng.choice((None, rng.randint(1, 20))),
            hidden_channels=rng.choice((None, 5)),
            activation=activation,
            bias=bias,
            hidden_bias=off,
            hidden_norm=rng.choice((None, True)),
            batch_norm_eps=eps,
        )
    shape = {"in_channels": width, "out_channels": rng.choice((width, out)), "resolution": resolution, "stride": stride}
    said = {"activation": activation, "no_residual": off, "padding": padding, "batch_norm_eps": eps}
    if kind == "fused_inverted_residual":
        return FusedInvertedResidual(
            **shape,
            **said,
            expanded_channels=rng.choice((6, width)),
            kernel_size=kernel_size,
            se_channels=rng.choice((None, 3)),
            se_activation=se_activation,
            se_gate=gate,
            groups=rng.choice((None, 2)),
        )
    if kind == "universal_inverted_residual":
        start, middle, end = (rng.choice((None, 3, 5)) for _ in range(3))
        return UniversalInvertedResidual(
            **shape,
            **said,
            expanded_channels=rng.choice((6, width)),
            start_kernel_size=start,
            middle_kernel_size=middle,
            end_kernel_size=end if start or middle or stride == 1 else 3,
        )
    return InvertedResidual(
        **shape,
        **said,
        expanded_channels=rng.choice((None, 6, 10, width)),
        kernel_size=kernel_size,
        se_channels=rng.choice((None, 3)),
        se_activation=se_activation,
        se_gate=gate,
        project_activation=rng.choice((None, "relu6")),
        groups=rng.choice((None, 2)),
        bias=bias,
    )


@pytest.mark.parametrize(
    "kind", ["conv", "inverted_residual", "fused_inverted_residual", "universal_inverted_residual", "head"]
)
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


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
def test_same_padding_is_tensorflows(kernel_size: int) -> None:
    """SAME in tensorflow/core/framework/kernel_shape_util.cc: the needed rows, the odd one at the end."""
    for size, stride in ((5, 2), (6, 2), (7, 3), (8, 3), (2, 4), (1, 2)):
        conv = SameConv2d(1, 1, kernel_size, stride, bias=False)
        image, out_size = torch.randn(1, 1, size, size), -(-size // stride)
        needed = max((out_size - 1) * stride + kernel_size - size, 0)
        expected = torch.zeros(out_size, out_size)
        for row in range(out_size):
            for column in range(out_size):
                for i in range(kernel_size):
                    for j in range(kernel_size):
                        y, x = row * stride + i - needed // 2, column * stride + j - needed // 2
                        if 0 <= y < size and 0 <= x < size:
                            expected[row, column] += (image[0, 0, y, x] * conv.weight[0, 0, i, j]).detach()
        torch.testing.assert_close(conv(image)[0, 0].detach(), expected)


def test_what_makes_no_difference_is_said_in_one_way() -> None:
    shape = {"in_channels": 8, "out_channels": 8, "resolution": 4}
    plain = InvertedResidual(**shape, se_channels=2)
    assert InvertedResidual(**shape, se_channels=2, se_activation="relu", se_gate="hsigmoid", padding="same") == plain
    assert InvertedResidual(**shape, batch_norm_eps=1e-5, no_residual=False, se_channels=2) == plain
    alone = InvertedResidual(**shape)
    assert InvertedResidual(**shape, se_activation="relu6", se_gate="sigmoid") == alone
    head = Head(**shape, conv_channels=8)
    assert Head(**shape, conv_channels=8, hidden_norm=True, hidden_bias=True) == head
    said = InvertedResidual(**shape, stride=2, padding="same", batch_norm_eps=1e-3)
    assert said.key.endswith("activation=relu padding=same batch_norm_eps=0.001")
    with pytest.raises(ValueError, match="a residual needs a stride of 1"):
        ConvBlock(**{**shape, "out_channels": 9}, residual=True)
    with pytest.raises(ValueError, match="a stride needs a depthwise convolution"):
        UniversalInvertedResidual(**shape, stride=2, expanded_channels=8)


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
