"""Blocks: the units that a network is a chain of, that a latency table has a row for, and that are searched."""

import importlib.metadata
import itertools
import math
from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, model_validator

from fbnet_mobile.errors import UserError

Activation = Literal["relu", "hswish"]

# What only some published networks have is None in all others: a key leaves out what is None, so such a field changes
# no key of a block without it, and the two ways of saying "without" are one key.
Flag = Annotated[bool | None, AfterValidator(lambda on: on or None)]
Groups = Annotated[PositiveInt | None, AfterValidator(lambda groups: None if groups == 1 else groups)]


def round_channels(wanted: float, divisor: int = 8) -> int:
    """Round a wanted width to a multiple of ``divisor`` channels, as the published FBNetV2 networks do.

    Half is rounded up, never below one step, and a result under 95 % of the wanted width gets one step more.

    >>> round_channels(8 * 5.4566), round_channels(24 * 4.7912), round_channels(12)
    (48, 112, 16)
    """
    rounded = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.95 * wanted else rounded


class Convolution(NamedTuple):
    """One convolution (or, at resolution 1, one linear layer) of a block, as far as counting needs it."""

    in_channels: int
    out_channels: int
    kernel_size: int
    out_resolution: int
    groups: int = 1
    bias: bool = False
    batch_norm: bool = True

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image: k^2 * H_out * W_out * C_in * C_out / groups."""
        return self.weights * self.out_resolution**2

    @property
    def weights(self) -> int:
        """Weights without bias: k^2 * C_in * C_out / groups."""
        return self.kernel_size**2 * self.in_channels * self.out_channels // self.groups

    @property
    def params(self) -> int:
        """Trainable parameters: weights, bias, and batch norm's scale and shift."""
        return self.weights + self.out_channels * (self.bias + 2 * self.batch_norm)


_KINDS: dict[str, type["Block"]] = {}


def block_class(kind: str) -> type["Block"]:
    """The class of a kind of block.

    A kind that is not known yet is looked for in installed packages that name a module of theirs as an entry point of
    the group ``fbnet_mobile.blocks``; that module defines and registers it.

    Raises:
        UserError: no such kind; the message lists the known ones.
    """
    if kind not in _KINDS:
        for entry_point in importlib.metadata.entry_points(group="fbnet_mobile.blocks"):
            entry_point.load()
    if kind not in _KINDS:
        raise UserError(f"unknown block kind {kind!r}; known kinds: {', '.join(sorted(_KINDS))}")
    return _KINDS[kind]


class Block(BaseModel, ABC):
    """One block at one input shape. Two equal blocks are the same work for a device.

    A subclass names its ``kind`` (a class attribute), adds the fields that decide its shape and says which
    convolutions it holds. ``fbnet_mobile.blocks.register_block`` ties it to the module that computes it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]
    choices: ClassVar[tuple[str, ...]] = ()
    """Names of what a search space must say of a block of this kind, one value or several; see ``from_choices``."""
    optional_choices: ClassVar[tuple[str, ...]] = ()
    """Names of what it may say besides."""

    in_channels: PositiveInt
    out_channels: PositiveInt
    resolution: PositiveInt = Field(description="height and width of the input, pixels")
    stride: PositiveInt = 1

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "kind" in cls.__dict__:
            _KINDS[cls.kind] = cls

    @classmethod
    def from_choices(cls, in_channels: int, out_channels: int, resolution: int, stride: int, **choices: Any) -> Self:
        """The block that a search space's choices describe; ``choices`` has one value for each of ``cls.choices``."""
        return cls(
            in_channels=in_channels,
            out_channels=out_channels,
            resolution=resolution,
            stride=stride,
            **choices,
        )

    @abstractmethod
    def convolutions(self) -> tuple[Convolution, ...]:
        """The convolutions and linear layers of the block, from which MACs and parameters are counted."""

    @property
    def out_resolution(self) -> int:
        """Height and width of the output in pixels (odd kernels padded by k // 2: ceil(resolution / stride))."""
        return math.ceil(self.resolution / self.stride)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and linear layers, for one image."""
        return sum(convolution.macs for convolution in self.convolutions())

    @property
    def params(self) -> int:
        """Trainable parameters, biases and batch norm included."""
        return sum(convolution.params for convolution in self.convolutions())

    @property
    def peak_activations(self) -> int:
        """The most values of feature maps that are alive at once for one image: an operation's input and output.

        Counted over the convolutions, each taking the output of the one before; a value is four bytes in float32.
        """
        maps = [self.in_channels * self.resolution**2]
        maps += [convolution.out_channels * convolution.out_resolution**2 for convolution in self.convolutions()]
        return max(first + second for first, second in itertools.pairwise(maps))

    @property
    def key(self) -> str:
        """The block as one line of text, unique, for a table's row; ``parse_key`` reads it back."""
        fields = self.model_dump()
        return " ".join([self.kind, *(f"{name}={value}" for name, value in fields.items() if value is not None)])

    @staticmethod
    def parse_key(key: str) -> "Block":
        """The block that ``key`` describes.

        Raises:
            UserError: the text is not a block's key.
        """
        kind, *fields = key.split(" ")
        try:
            return block_class(kind).model_validate(dict(field.split("=", 1) for field in fields))
        except ValueError as error:
            raise UserError(f"not a block: {key!r}") from error


class ConvBlock(Block):
    """Convolution, batch norm and activation: the stem, and the projections in some published networks."""

    kind: ClassVar[str] = "conv"
    choices: ClassVar[tuple[str, ...]] = ("kernel_size", "activation")

    kernel_size: PositiveInt = 3
    activation: Activation = "relu"
    bias: bool = False

    def convolutions(self) -> tuple[Convolution, ...]:
        """One convolution."""
        return (
            Convolution(self.in_channels, self.out_channels, self.kernel_size, self.out_resolution, bias=self.bias),
        )


class InvertedResidual(Block):
    """1x1 expansion, depthwise convolution, optional squeeze-excite, 1x1 projection (MobileNetV2/V3, FBNetV2).

    Without ``expanded_channels`` the depthwise convolution works on the input itself (expansion ratio 1). The input is
    added to the output when the stride is 1 and both have the same channels. With ``groups`` the channels are shuffled
    before the depthwise convolution, with or without an expansion, as in FBNet-A (arXiv 1812.03443).
    """

    kind: ClassVar[str] = "inverted_residual"
    choices: ClassVar[tuple[str, ...]] = ("expansion_ratio", "kernel_size", "squeeze_excite", "activation")
    optional_choices: ClassVar[tuple[str, ...]] = ("groups",)

    expanded_channels: PositiveInt | None = None
    kernel_size: PositiveInt = 3
    se_channels: PositiveInt | None = Field(None, description="width of squeeze-excite's bottleneck; none: no SE")
    activation: Activation = "relu"
    groups: Groups = Field(None, description="of the 1x1 convolutions; none: 1")
    bias: Flag = Field(None, description="whether convolutions before a batch norm have a bias too")

    @model_validator(mode="after")
    def _odd_kernel(self) -> Self:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {self.kernel_size} is even; use an odd one")
        return self

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        for width in (self.in_channels, self.depthwise_channels, self.out_channels):
            if self.groups is not None and width % self.groups != 0:
                raise ValueError(f"{width} channels do not divide into {self.groups} groups")
        return self

    @classmethod
    def from_choices(cls, in_channels: int, out_channels: int, resolution: int, stride: int, **choices: Any) -> Self:
        """The block for an ``expansion_ratio`` of the input's channels and ``squeeze_excite`` on or off.

        The expanded width and squeeze-excite's quarter of it are rounded as in the published networks.
        """
        ratio = choices["expansion_ratio"]
        expanded = None if ratio == 1 else round_channels(ratio * in_channels)
        se_channels = round_channels(int(0.25 * (expanded or in_channels))) if choices["squeeze_excite"] else None
        return cls(
            in_channels=in_channels,
            out_channels=out_channels,
            resolution=resolution,
            stride=stride,
            expanded_channels=expanded,
            kernel_size=choices["kernel_size"],
            se_channels=se_channels,
            activation=choices["activation"],
            groups=choices.get("groups"),
        )

    @property
    def depthwise_channels(self) -> int:
        """Channels of the depthwise convolution."""
        return self.expanded_channels or self.in_channels

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and self.in_channels == self.out_channels

    @property
    def peak_activations(self) -> int:
        """As for any block; a residual's input stays alive until it is added, squeeze-excite works on single pixels."""
        entering, leaving = self.resolution**2, self.out_resolution**2
        maps = [self.in_channels * entering, self.depthwise_channels * leaving, self.out_channels * leaving]
        if self.expanded_channels is not None:
            maps.insert(1, self.expanded_channels * entering)
        kept = maps[0] if self.residual else 0
        pairs = list(itertools.pairwise(maps))
        return max(sum(pairs[0]), *(first + second + kept for first, second in pairs[1:]))

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


class Head(Block):
    """1x1 convolution, global average pool, an optional hidden layer, classifier. ``out_channels`` are the classes."""

    kind: ClassVar[str] = "head"
    choices: ClassVar[tuple[str, ...]] = ("conv_channels", "hidden_channels")

    conv_channels: PositiveInt
    hidden_channels: PositiveInt | None = Field(None, description="width of a layer between pool and classifier")
    activation: Activation = "hswish"
    bias: Flag = Field(None, description="whether the 1x1 convolution and the hidden layer have a bias too")

    @model_validator(mode="after")
    def _whole_map(self) -> Self:
        if self.stride != 1:
            raise ValueError("a head pools the whole map; leave its stride at 1")
        return self

    @property
    def out_resolution(self) -> int:
        """1: the head ends in one vector of logits."""
        return 1

    def convolutions(self) -> tuple[Convolution, ...]:
        """The 1x1 convolution before the pool, the hidden layer, the classifier."""
        bias = bool(self.bias)
        found = [Convolution(self.in_channels, self.conv_channels, 1, self.resolution, bias=bias)]
        width = self.conv_channels
        if self.hidden_channels is not None:
            found.append(Convolution(width, self.hidden_channels, 1, 1, bias=bias, batch_norm=False))
            width = self.hidden_channels
        found.append(Convolution(width, self.out_channels, 1, 1, bias=True, batch_norm=False))
        return tuple(found)
