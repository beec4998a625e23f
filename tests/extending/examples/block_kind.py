"""A kind of block: the fused inverted residual (EfficientNetV2, arXiv 2104.00298), with a form that is searched."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from fbnet_mobile.arch import Block, Convolution
from fbnet_mobile.blocks.layers import ConvBNAct
from fbnet_mobile.blocks.masks import MaskedBatchNorm, SuperBlock, Weights, column_masks, copy_conv
from fbnet_mobile.space import Option, Position


class Fused(Block):
    """A 3x3 convolution that expands, ReLU, and a 1x1 convolution that projects."""

    kind = "fused"  # its name in spaces, architectures and tables
    choices = ("expansion",)  # what a space says of it; here it is a field, too
    width_choices = ("expansion",)

    expansion: Annotated[int, Field(ge=1, le=16)]

    @property
    def middle(self) -> int:
        """Channels between the two convolutions."""
        return self.in_channels * self.expansion

    def convolutions(self) -> tuple[Convolution, ...]:
        """For counting."""
        return (
            Convolution(self.in_channels, self.middle, 3, self.out_resolution),
            Convolution(self.middle, self.out_channels, 1, self.out_resolution),
        )

    def build(self) -> nn.Sequential:
        """The module of one block."""
        return nn.Sequential(
            ConvBNAct(self.in_channels, self.middle, 3, self.stride, activation="relu"),
            ConvBNAct(self.middle, self.out_channels),
        )

    @classmethod
    def masked(cls, position: Position) -> type[SuperBlock]:
        """The module of all blocks at once; without it, the supernet holds one for each that is possible."""
        return MaskedFused


class MaskedFused(SuperBlock):
    """The widest block, in which each width and each expansion is a mask over the first channels."""

    middle_masks: Tensor
    out_masks: Tensor

    def __init__(self, position: Position) -> None:
        super().__init__(position)
        self.input, self.output, self.expansion = position.in_channels, position.out_channels, self.own["expansion"]
        blocks = self.blocks(Fused, self.input, self.expansion).values()
        middles, widths = [block.middle for block in blocks], position.widths(self.output)
        self.stride = position.stride
        self.constant("middle_masks", column_masks(middles))
        self.constant("out_masks", column_masks(widths))
        self.expand = nn.Conv2d(max(position.widths(self.input)), max(middles), 3, self.stride, 1, bias=False)
        self.expand_norm = MaskedBatchNorm(max(middles))
        self.project = nn.Conv2d(max(middles), max(widths), 1, bias=False)
        self.project_norm = MaskedBatchNorm(max(widths))

    def forward(self, features: Tensor, weights: Weights) -> Tensor:
        """With weights of 0 and 1 it does what the block of those options does."""
        joint = (weights[self.input][:, None] * weights[self.expansion]).flatten()
        out = self.expand_norm(self.expand(features), joint @ self.middle_masks).relu()
        out = self.project_norm(self.project(out), weights[self.output] @ self.out_masks)
        return self.or_skipped(out, features, weights)

    def freeze(self, assignment: Mapping[str, Option]) -> nn.Module:
        """The module of the block that was found, with the first channels of these weights."""
        module = self.chosen(Fused, assignment).build()
        copy_conv(module[0], self.expand, self.expand_norm)
        copy_conv(module[1], self.project, self.project_norm)
        return module
