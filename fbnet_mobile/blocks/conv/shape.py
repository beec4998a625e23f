"""Convolution, batch norm and activation, as plain data."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from fbnet_mobile.arch.block import Block, Convolution, Shrink
from fbnet_mobile.arch.fields import Activation, KernelSize

if TYPE_CHECKING:
    from torch import nn

    from fbnet_mobile.blocks.masks import SuperBlock
    from fbnet_mobile.space import Position


class ConvBlock(Block):
    """Convolution, batch norm and activation: the stem, and the projections in some published networks."""

    kind: ClassVar[str] = "conv"
    choices: ClassVar[tuple[str, ...]] = ("kernel_size", "activation")

    kernel_size: KernelSize = 3
    activation: Activation = "relu"
    bias: bool = False

    def convolutions(self) -> tuple[Convolution, ...]:
        """One convolution."""
        return (
            Convolution(self.in_channels, self.out_channels, self.kernel_size, self.out_resolution, bias=self.bias),
        )

    @property
    def shrinks(self) -> Mapping[str, Shrink]:
        """See ``Block``."""
        return {}

    def build(self) -> "nn.Module":
        """See ``Block``."""
        from fbnet_mobile.blocks.conv.module import conv_module

        return conv_module(self)

    @classmethod
    def masked(cls, position: "Position") -> "type[SuperBlock]":
        """See ``Block``."""
        from fbnet_mobile.blocks.conv.masked import MaskedConv

        return MaskedConv
