"""The inverted residual as plain data."""

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


class InvertedResidual(Block):
    """1x1 expansion, depthwise convolution, optional squeeze-excite, 1x1 projection (MobileNetV2/V3, FBNetV2).

    With an activation behind the projection and no expansion it is MobileNetV1's depthwise separable convolution.
    Without ``expanded_channels`` the depthwise convolution works on the input itself (expansion ratio 1). The input is
    added to the output when the stride is 1 and both have the same channels. With ``groups`` the channels are shuffled
    before the depthwise convolution, with or without an expansion, as in FBNet-A (arXiv 1812.03443).
    """

    kind: ClassVar[str] = "inverted_residual"
    choices: ClassVar[tuple[str, ...]] = ("expansion_ratio", "kernel_size", "squeeze_excite", "activation")
    optional_choices: ClassVar[tuple[str, ...]] = (
        "groups",
        "se_from",
        "se_activation",
        "se_gate",
        "project_activation",
        "no_residual",
        "padding",
        "batch_norm_eps",
    )
    width_choices: ClassVar[tuple[str, ...]] = ("expansion_ratio",)

    expanded_channels: Count | None = None
    kernel_size: KernelSize = 3
    se_channels: Count | None = Field(None, description="width of squeeze-excite's bottleneck; none: no SE")
    activation: Activation = "relu"
    groups: Groups = Field(None, description="of the 1x1 convolutions; none: 1")
    bias: Flag = Field(None, description="whether convolutions before a batch norm have a bias too")
    se_activation: SqueezeActivation = Field(None, description="within squeeze-excite; none: the block's")
    se_gate: Gate = Field(None, description="sigmoid; none: hard sigmoid")
    project_activation: Activation | None = Field(None, description="behind the projection")
    no_residual: Flag = Field(None, description="whether the input is left out though it could be added")
    padding: Padding = Field(None, description="same: as TensorFlow pads; none: by k // 2")
    batch_norm_eps: NormEps = None

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        for width in (self.in_channels, self.depthwise_channels, self.out_channels):
            if self.groups is not None and width % self.groups != 0:
                raise ValueError(f"{width} channels do not divide into {self.groups} groups")
        return self

    @classmethod
    def from_choices(cls, in_channels: int, out_channels: int, resolution: int, stride: int, **choices: Any) -> Self:
        """The block for an ``expansion_ratio`` of the input's channels and ``squeeze_excite`` on or off.

        The expanded width and squeeze-excite's quarter of it are rounded as in the published networks; with ``se_from``
        "input", squeeze-excite has a quarter of the block's input, as in EfficientNet.
        """
        widths = Expansion.taken_from(choices).widths(in_channels)
        shape = {"in_channels": in_channels, "out_channels": out_channels, "resolution": resolution, "stride": stride}
        return cls(**{**shape, **widths, **choices})

    @property
    def depthwise_channels(self) -> int:
        """Channels of the depthwise convolution."""
        return self.expanded_channels or self.in_channels

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and self.in_channels == self.out_channels and not self.no_residual

    @property
    def shrinks(self) -> Mapping[str, Shrink] | None:
        """See ``Block``; nothing with groups, among which the channels are shuffled."""
        if self.groups is not None:
            return None
        return {"expanded_channels": "width", "kernel_size": "kernel", "se_channels": "part"}

    @property
    def peak_activations(self) -> int:
        """As for any block; a residual's input stays alive until it is added, squeeze-excite works on single pixels."""
        entering, leaving = self.resolution**2, self.out_resolution**2
        maps = [self.in_channels * entering, self.depthwise_channels * leaving, self.out_channels * leaving]
        if self.expanded_channels is not None:
            maps.insert(1, self.expanded_channels * entering)
        kept = maps[0] if self.residual else 0
        return peak_of_chain(maps, kept)

    def convolutions(self) -> tuple[Convolution, ...]:
        """Expansion, depthwise, squeeze-excite's two, projection."""
        width, out = self.depthwise_channels, self.out_resolution
        groups, bias = self.groups or 1, bool(self.bias)
        found = []
        if self.expanded_channels is not None:
            found.append(Convolution(self.in_channels, width, 1, self.resolution, groups, bias))
        found.append(Convolution(width, width, self.kernel_size, out, width, bias))
        if self.se_channels is not None:
            found.append(Convolution(width, self.se_channels, 1, 1, bias=True, batch_norm=False))
            found.append(Convolution(self.se_channels, width, 1, 1, bias=True, batch_norm=False))
        found.append(Convolution(width, self.out_channels, 1, out, groups, bias))
        return tuple(found)

    def build(self) -> "nn.Module":
        """See ``Block``."""
        from fbnet_mobile.blocks.inverted_residual.module import InvertedResidualModule

        return InvertedResidualModule(self)

    @classmethod
    def masked(cls, position: "Position") -> "type[SuperBlock] | None":
        """None with groups: channels that are masked would be shuffled among those that are not."""
        from fbnet_mobile.blocks.inverted_residual.masked import MaskedInvertedResidual
        from fbnet_mobile.blocks.masks import masks_fit

        return MaskedInvertedResidual if "groups" not in position.own and masks_fit(cls, position) else None
