"""The universal inverted residual as plain data."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from fbnet_mobile.arch.block import Block, Convolution, Shrink, peak_of_chain
from fbnet_mobile.arch.fields import Activation, Count, Flag, KernelSize, NormEps, Padding
from fbnet_mobile.blocks.expansion import Expansion

if TYPE_CHECKING:
    from torch import nn

    from fbnet_mobile.blocks.masks import SuperBlock
    from fbnet_mobile.space import Position


class UniversalInvertedResidual(Block):
    """Expansion and projection with depthwise convolutions before, between and behind (MobileNetV4, arXiv 2404.10518).

    With one between it is the inverted residual, with one before ConvNeXt's block, with both the extra depthwise block,
    with none a feed-forward network. There is no activation behind the first, the projection and the last. The stride
    is that of the one between, else of the first, else of the last.
    """

    kind: ClassVar[str] = "universal_inverted_residual"
    choices: ClassVar[tuple[str, ...]] = ("expansion_ratio", "start_kernel_size", "middle_kernel_size", "activation")
    optional_choices: ClassVar[tuple[str, ...]] = ("end_kernel_size", "no_residual", "padding", "batch_norm_eps")
    width_choices: ClassVar[tuple[str, ...]] = ("expansion_ratio",)

    expanded_channels: Count
    start_kernel_size: KernelSize | None = Field(None, description="of the depthwise convolution of the input")
    middle_kernel_size: KernelSize | None = Field(None, description="of that between expansion and projection")
    end_kernel_size: KernelSize | None = Field(None, description="of that behind the projection")
    activation: Activation = "relu"
    no_residual: Flag = Field(None, description="whether the input is left out though it could be added")
    padding: Padding = Field(None, description="same: as TensorFlow pads; none: by k // 2")
    batch_norm_eps: NormEps = None

    @model_validator(mode="after")
    def _has_its_stride(self) -> Self:
        if self.stride != 1 and self.strides == (1, 1, 1):
            raise ValueError("a stride needs a depthwise convolution; give one of the kernel sizes")
        return self

    @classmethod
    def from_choices(cls, in_channels: int, out_channels: int, resolution: int, stride: int, **choices: Any) -> Self:
        """The block for an ``expansion_ratio`` of the input's channels, and kernel sizes of which 0 is none."""
        expanded = Expansion.taken_from(choices).widths(in_channels)["expanded_channels"]
        shape = {"in_channels": in_channels, "out_channels": out_channels, "resolution": resolution, "stride": stride}
        there = {name: value for name, value in choices.items() if value != 0 or not name.endswith("kernel_size")}
        return cls(**{**shape, "expanded_channels": expanded or in_channels, **there})

    @property
    def strides(self) -> tuple[int, int, int]:
        """Of the three depthwise convolutions."""
        if self.middle_kernel_size is not None:
            return 1, self.stride, 1
        if self.start_kernel_size is not None:
            return self.stride, 1, 1
        return 1, 1, self.stride if self.end_kernel_size is not None else 1

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and self.in_channels == self.out_channels and not self.no_residual

    @property
    def peak_activations(self) -> int:
        """As for any block; a residual's input stays alive until it is added."""
        maps = [convolution.out_channels * convolution.out_resolution**2 for convolution in self.convolutions()]
        entering = self.in_channels * self.resolution**2
        return peak_of_chain([entering, *maps], kept=entering if self.residual else 0)

    def convolutions(self) -> tuple[Convolution, ...]:
        """In the order in which they run."""
        size, found = self.resolution, []

        def depthwise(channels: int, kernel_size: int | None, stride: int) -> None:
            nonlocal size
            if kernel_size is not None:
                size = -(-size // stride)
                found.append(Convolution(channels, channels, kernel_size, size, channels))

        start, middle, end = self.strides
        depthwise(self.in_channels, self.start_kernel_size, start)
        found.append(Convolution(self.in_channels, self.expanded_channels, 1, size))
        depthwise(self.expanded_channels, self.middle_kernel_size, middle)
        found.append(Convolution(self.expanded_channels, self.out_channels, 1, size))
        depthwise(self.out_channels, self.end_kernel_size, end)
        return tuple(found)

    @property
    def shrinks(self) -> Mapping[str, Shrink]:
        """See ``Block``."""
        return {
            "expanded_channels": "width",
            "start_kernel_size": "kernel",
            "middle_kernel_size": "kernel",
            "end_kernel_size": "kernel",
        }

    def build(self) -> "nn.Module":
        """See ``Block``."""
        from fbnet_mobile.blocks.universal_inverted_residual.module import UniversalInvertedResidualModule

        return UniversalInvertedResidualModule(self)

    @classmethod
    def masked(cls, position: "Position") -> "type[SuperBlock] | None":
        """None where the stride's place depends on which depthwise convolutions there are."""
        from fbnet_mobile.blocks.masks import masks_fit
        from fbnet_mobile.blocks.universal_inverted_residual.masked import MaskedUniversalInvertedResidual

        middle = position.widths(position.own["middle_kernel_size"])
        moves = position.stride != 1 and 0 in middle
        return MaskedUniversalInvertedResidual if masks_fit(cls, position) and not moves else None
