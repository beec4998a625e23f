"""The head as plain data."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from fbnet_mobile.arch.block import Block, Convolution, Shrink
from fbnet_mobile.arch.fields import Activation, Count, Flag, NormEps

if TYPE_CHECKING:
    from torch import nn

    from fbnet_mobile.blocks.masks import SuperBlock
    from fbnet_mobile.space import Position


class Head(Block):
    """1x1 convolution, global average pool, an optional hidden layer, classifier. ``out_channels`` are the classes.

    Without ``conv_channels`` the input itself is pooled, as in MobileNetV1.
    """

    kind: ClassVar[str] = "head"
    choices: ClassVar[tuple[str, ...]] = ("conv_channels", "hidden_channels")
    width_choices: ClassVar[tuple[str, ...]] = choices
    ends_network: ClassVar[bool] = True

    conv_channels: Count | None = Field(None, description="width of the 1x1 convolution; none: there is none")
    hidden_channels: Count | None = Field(None, description="width of a layer between pool and classifier")
    activation: Activation = "hswish"
    bias: Flag = Field(None, description="whether the 1x1 convolution and the hidden layer have a bias too")
    hidden_bias: Flag = Field(None, description="whether the hidden layer has a bias, the convolution none")
    hidden_norm: Flag = Field(None, description="whether the hidden layer has a batch norm, as in MobileNetV4")
    batch_norm_eps: NormEps = None

    @field_validator("hidden_bias", "hidden_norm")
    @classmethod
    def _of_hidden_layer(cls, on: bool | None, info: ValidationInfo) -> bool | None:
        with_bias = info.field_name == "hidden_bias" and info.data.get("bias")
        return None if with_bias or info.data.get("hidden_channels") is None else on

    @model_validator(mode="after")
    def _whole_map(self) -> Self:
        if self.stride != 1:
            raise ValueError("a head pools the whole map; leave its stride at 1")
        return self

    @property
    def out_resolution(self) -> int:
        """1: the head ends in one vector of logits."""
        return 1

    @property
    def pooled_channels(self) -> int:
        """Channels of what is pooled."""
        return self.conv_channels or self.in_channels

    def convolutions(self) -> tuple[Convolution, ...]:
        """The 1x1 convolution before the pool, the hidden layer, the classifier."""
        bias, width = bool(self.bias), self.pooled_channels
        found = []
        if self.conv_channels is not None:
            found.append(Convolution(self.in_channels, width, 1, self.resolution, bias=bias))
        if self.hidden_channels is not None:
            bias, norm = bias or bool(self.hidden_bias), bool(self.hidden_norm)
            found.append(Convolution(width, self.hidden_channels, 1, 1, bias=bias, batch_norm=norm))
            width = self.hidden_channels
        found.append(Convolution(width, self.out_channels, 1, 1, bias=True, batch_norm=False))
        return tuple(found)

    @property
    def shrinks(self) -> Mapping[str, Shrink]:
        """See ``Block``."""
        return {"conv_channels": "width", "hidden_channels": "width"}

    def build(self) -> "nn.Module":
        """See ``Block``."""
        from fbnet_mobile.blocks.head.module import HeadModule

        return HeadModule(self)

    @classmethod
    def masked(cls, position: "Position") -> "type[SuperBlock]":
        """See ``Block``."""
        from fbnet_mobile.blocks.head.masked import MaskedHead

        return MaskedHead
