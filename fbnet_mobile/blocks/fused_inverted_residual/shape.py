"""The fused inverted residual as plain data."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from fbnet_mobile.arch.block import Block, Convolution, Shrink, peak_of_chain
from fbnet_mobile.arch.fields import (
    Activation,
    Count,
    Flag,
    Gate,
    Groups,
    KernelSize,
    NormEps,
    Padding,
    SqueezeActivation,
)
from fbnet_mobile.blocks.expansion import Expansion

if TYPE_CHECKING:
    from torch import nn

    from fbnet_mobile.blocks.masks import SuperBlock
    from fbnet_mobile.space import Position


class FusedInvertedResidual(Block):
    """A convolution that expands, optional squeeze-excite, 1x1 projection (EfficientNetV2, arXiv 2104.00298).

    The input is added to the output when the stride is 1 and both have the same channels. ``groups`` are those of the
    first convolution (MobileNet-EdgeTPU V2).
    """

    kind: ClassVar[str] = "fused_inverted_residual"
    choices: ClassVar[tuple[str, ...]] = ("expansion_ratio", "kernel_size", "squeeze_excite", "activation")
    optional_choices: ClassVar[tuple[str, ...]] = (
        "groups",
        "se_from",
        "se_activation",
        "se_gate",
        "no_residual",
        "padding",
        "batch_norm_eps",
    )
    width_choices: ClassVar[tuple[str, ...]] = ("expansion_ratio",)

    expanded_channels: Count
    kernel_size: KernelSize = 3
    se_channels: Count | None = Field(None, description="width of squeeze-excite's bottleneck; none: no SE")
    activation: Activation = "relu"
    groups: Groups = Field(None, description="of the first convolution; none: 1")
    se_activation: SqueezeActivation = Field(None, description="within squeeze-excite; none: the block's")
    se_gate: Gate = Field(None, description="sigmoid; none: hard sigmoid")
    no_residual: Flag = Field(None, description="whether the input is left out though it could be added")
    padding: Padding = Field(None, description="same: as TensorFlow pads; none: by k // 2")
    batch_norm_eps: NormEps = None

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        for width in (self.in_channels, self.expanded_channels):
            if self.groups is not None and width % self.groups != 0:
                raise ValueError(f"{width} channels do not divide into {self.groups} groups")
        return self

    @classmethod
    def from_choices(cls, in_channels: int, out_channels: int, resolution: int, stride: int, **choices: Any) -> Self:
        """The block for an ``expansion_ratio`` of the input's channels and ``squeeze_excite`` on or off."""
        widths = Expansion.taken_from(choices).widths(in_channels)
        shape = {"in_channels": in_channels, "out_channels": out_channels, "resolution": resolution, "stride": stride}
        return cls(**{**shape, **widths, "expanded_channels": widths["expanded_channels"] or in_channels, **choices})

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and self.in_channels == self.out_channels and not self.no_residual

    @property
    def peak_activations(self) -> int:
        """As for any block; a residual's input stays alive until it is added, squeeze-excite works on single pixels."""
        leaving = self.out_resolution**2
        maps = [self.in_channels * self.resolution**2, self.expanded_channels * leaving, self.out_channels * leaving]
        return peak_of_chain(maps, kept=maps[0] if self.residual else 0)

    def convolutions(self) -> tuple[Convolution, ...]:
        """Expansion, squeeze-excite's two, projection."""
        width, out = self.expanded_channels, self.out_resolution
        found = [Convolution(self.in_channels, width, self.kernel_size, out, self.groups or 1)]
        if self.se_channels is not None:
            found.append(Convolution(width, self.se_channels, 1, 1, bias=True, batch_norm=False))
            found.append(Convolution(self.se_channels, width, 1, 1, bias=True, batch_norm=False))
        return (*found, Convolution(width, self.out_channels, 1, out))

    @property
    def shrinks(self) -> Mapping[str, Shrink]:
        """See ``Block``."""
        return {"expanded_channels": "width", "kernel_size": "kernel", "se_channels": "part"}

    def build(self) -> "nn.Module":
        """See ``Block``."""
        from fbnet_mobile.blocks.fused_inverted_residual.module import FusedInvertedResidualModule

        return FusedInvertedResidualModule(self)

    @classmethod
    def masked(cls, position: "Position") -> "type[SuperBlock] | None":
        """None with groups, whose channels a mask would cut through."""
        from fbnet_mobile.blocks.fused_inverted_residual.masked import MaskedFusedInvertedResidual
        from fbnet_mobile.blocks.masks import masks_fit

        return MaskedFusedInvertedResidual if "groups" not in position.own and masks_fit(cls, position) else None
