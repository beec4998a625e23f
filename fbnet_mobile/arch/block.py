"""Blocks: the units that a network is a chain of, that a latency table has a row for, and that are searched."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, Field

from fbnet_mobile.arch.fields import STRICT, Count, Resolution, Stride
from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from fbnet_mobile.blocks.masks import SuperBlock
    from fbnet_mobile.space import Position


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


Shrink = Literal["width", "kernel", "part"]
"""How a field of a trained block may be less: fewer channels, the centre of a kernel, or nothing at all."""


def peak_of_chain(maps: Sequence[int], kept: int = 0) -> int:
    """The most values of two successive maps together, with what is ``kept`` besides once the first is used."""
    pairs = list(itertools.pairwise(maps))
    return max(sum(pairs[0]), *(first + second + kept for first, second in pairs[1:]), 0)


BLOCKS: "Registry[type[Block]]" = Registry("block kind", ours="fbnet_mobile.blocks")
"""The class of each kind of block; a subclass of ``Block`` that names its ``kind`` registers itself."""


class Block(BaseModel, ABC):
    """One block at one input shape. Two equal blocks are the same work for a device.

    A subclass names its ``kind`` (a class attribute), which registers it, adds the fields that decide its shape, says
    which convolutions it holds, and makes the module that computes it. Its module, and its masked form if it has one,
    are imported where they are made, so that blocks as data load without PyTorch.
    """

    model_config = STRICT

    kind: ClassVar[str]
    choices: ClassVar[tuple[str, ...]] = ()
    """Names of what a search space must say of a block of this kind, one value or several; see ``from_choices``."""
    optional_choices: ClassVar[tuple[str, ...]] = ()
    """Names of what it may say besides."""
    width_choices: ClassVar[tuple[str, ...]] = ()
    """Those of ``choices`` that are widths, which a masked form runs as masks whatever the mode of the search."""
    ends_network: ClassVar[bool] = False
    """Whether it gives logits, (N, out_channels), so is the last block of a network and of no other place."""

    in_channels: Count
    out_channels: Count
    resolution: Resolution = Field(description="height and width of the input, pixels")
    stride: Stride = 1

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "kind" in cls.__dict__:
            BLOCKS.add(cls.kind, cls)

    @classmethod
    def from_choices(cls, in_channels: int, out_channels: int, resolution: int, stride: int, **choices: Any) -> Self:
        """The block that a search space's choices describe; ``choices`` has one value for each of ``cls.choices``.

        Raises:
            ValueError: a value is none that the choice can have.
        """
        return cls(
            in_channels=in_channels,
            out_channels=out_channels,
            resolution=resolution,
            stride=stride,
            **choices,
        )

    @classmethod
    def from_fields(cls, in_channels: int, out_channels: int, resolution: int, stride: int, **fields: Any) -> Self:
        """The block of these fields, of which 0 says that there is nothing of it.

        Raises:
            ValueError: a value is none that the field can have.
        """
        if stride != 1 or in_channels != out_channels:
            fields.pop("no_residual", None)  # there would be none anyway: the same block under one key
        given = {name: None if type(value) is int and value == 0 else value for name, value in fields.items()}
        return cls(in_channels=in_channels, out_channels=out_channels, resolution=resolution, stride=stride, **given)

    @property
    def shrinks(self) -> "Mapping[str, Shrink] | None":
        """How fields of this block may be less when it is trained, beside its input's and output's channels.

        The channels of a width are put into an order, and the first of them kept. None if that would change what is
        computed, or is not known: then its widths stay as they are.
        """
        return None

    @abstractmethod
    def convolutions(self) -> tuple[Convolution, ...]:
        """The convolutions and linear layers of the block, from which MACs and parameters are counted."""

    @abstractmethod
    def build(self) -> "nn.Module":
        """The freshly initialised module: (N, in_channels, H, W) to (N, out_channels, H', W')."""

    @classmethod
    def masked(cls, position: "Position") -> "type[SuperBlock] | None":
        """What searches a position of blocks of this kind as one module at its widest.

        Without one, the supernet holds a module for each block that the position may become.
        """
        return None

    @property
    def out_resolution(self) -> int:
        """Height and width of the output in pixels (odd kernels padded by k // 2: ceil(resolution / stride))."""
        return -(-self.resolution // self.stride)

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
        return peak_of_chain(maps)

    @property
    def key(self) -> str:
        """The block as one line of text, unique, for a table's row; ``parse_key`` reads it back."""
        fields = self.model_dump()
        return " ".join([self.kind, *(f"{name}={value}" for name, value in fields.items() if value is not None)])

    @staticmethod
    def parse_key(key: str) -> "Block":
        """The block that ``key`` describes.

        Raises:
            UserError: the text is not the key of a block, down to the last character.
        """
        kind, *fields = key.split(" ")
        try:
            block = BLOCKS.get(kind).model_validate_strings(dict(field.split("=", 1) for field in fields))
        except ValueError as error:
            raise UserError(f"not a block: '{shown(key)}'") from error
        if block.key != key:
            raise UserError(f"not a block: '{shown(key)}'; its key is {block.key!r}")
        return block
