"""Convolution, batch norm and activation, as plain data."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from fbnet_mobile.arch.block import Block, Convolution, Shrink
from fbnet_mobile.arch.fields import Activation, Flag, KernelSize, NormEps, Padding

if TYPE_CHECKING:
    from torch import nn

    from fbnet_mobile.blocks.masks import SuperBlock
    from fbnet_mobile.space import Position


class ConvBlock(Block):
    """Convolution, batch norm and activation: the stem, and the projections in some published networks.

    With ``residual`` the input is added behind the activation, as in EfficientNetV2's first stage (arXiv 2104.00298).
    """

    kind: ClassVar[str] = "conv"
    choices: ClassVar[tuple[str, ...]] = ("kernel_size", "activation")
    optional_choices: ClassVar[tuple[str, ...]] = ("residual", "padding", "batch_norm_eps")

    kernel_size: KernelSize = 3
    activation: Activation = "relu"
    bias: bool = False
    residual: Flag = Field(None, description="whether the input is added to the output")
    padding: Padding = Field(None, description="same: as TensorFlow pads; none: by k // 2")
    batch_norm_eps: NormEps = None

    @model_validator(mode="after")
    def _keeps_its_shape(self) -> Self:
        if self.residual and (self.stride != 1 or self.in_channels != self.out_channels):
            raise ValueError("a residual needs a stride of 1 and as many channels at both ends")
        return self

    @classmethod
    def from_choices(cls, in_channels: int, out_channels: int, resolution: int, stride: int, **choices: Any) -> Self:
        """See ``Block``; a ``residual`` is where it can be."""
        if stride != 1 or in_channels != out_channels:
            choices.pop("residual", None)
        return super().from_choices(in_channels, out_channels, resolution, stride, **choices)

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
        from fbnet_mobile.blocks.conv.module import ConvModule

        return ConvModule(self)

    @classmethod
    def masked(cls, position: "Position") -> "type[SuperBlock] | None":
        """See ``Block``."""
        from fbnet_mobile.blocks.conv.masked import MaskedConv
        from fbnet_mobile.blocks.masks import masks_fit

        return MaskedConv if masks_fit(cls, position) else None
