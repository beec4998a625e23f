"""A search space: choices per stage, the blocks they can become, and architectures drawn from them."""

import difflib
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)

from fbnet_mobile.arch import Activation, Architecture, Block, ConvBlock, Head, block_class
from fbnet_mobile.errors import UserError
from fbnet_mobile.files import first_problem, parse_yaml, read_text, validated

Option = int | float | bool | str
"""One value that a choice can take."""


def _options(value: Any) -> Any:
    """A single value, a list, or ``{low, high, step}`` (both ends included) as a tuple of options."""
    if isinstance(value, Mapping):
        if set(value) != {"low", "high", "step"}:
            raise ValueError(f"a range needs exactly low, high and step, not {', '.join(map(str, value))}")
        low, high, step = value["low"], value["high"], value["step"]
        if not all(isinstance(number, int | float) for number in (low, high, step)):
            raise ValueError("low, high and step must be numbers")
        if step <= 0 or high < low:
            raise ValueError(f"range from {low} to {high} in steps of {step} is empty; check low, high and step")
        count = math.floor((high - low) / step + 1e-9) + 1
        if abs(low + (count - 1) * step - high) > 1e-9:
            raise ValueError(f"steps of {step} from {low} do not reach {high}")
        return tuple(round(low + number * step, 6) for number in range(count))
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _distinct(options: tuple[Any, ...]) -> tuple[Any, ...]:
    if not options or len(set(options)) != len(options):
        raise ValueError("options must be distinct, and at least one")
    return options


Widths = Annotated[tuple[PositiveInt, ...], BeforeValidator(_options), AfterValidator(_distinct)]
Options = Annotated[tuple[Option, ...], BeforeValidator(_options), AfterValidator(_distinct)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Stem(_Strict):
    """The first convolution, which is not searched except for its width."""

    out_channels: Widths
    kernel_size: PositiveInt = 3
    stride: PositiveInt = 2
    activation: Activation = "hswish"


class Stage(_Strict):
    """``depth`` blocks of one kind; all have the same output channels, which are chosen once.

    The first block has the stride and takes the width of the stage before. What else can be chosen in a block depends
    on its kind (``Block.choices``); each block of the stage chooses for itself. With ``skip`` every block but the
    first may be left out.
    """

    block: str = "inverted_residual"
    out_channels: Widths
    depth: PositiveInt = 1
    stride: PositiveInt = 1
    skip: bool = False
    choices: dict[str, Options]

    @model_validator(mode="before")
    @classmethod
    def _gather_choices(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or isinstance(data.get("choices"), Mapping):
            return data  # as a space writes itself
        names = block_class(data.get("block", "inverted_residual")).choices
        own = {name: value for name, value in data.items() if name in cls.model_fields and name != "choices"}
        chosen = {name: value for name, value in data.items() if name not in own}
        for name in chosen:
            if name not in names:
                near = difflib.get_close_matches(name, (*names, *cls.model_fields), n=1)
                raise ValueError(f"unknown field {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        for name in names:
            if name not in chosen:
                raise ValueError(f"no {name!r} for its blocks")
        return {**own, "choices": {name: chosen[name] for name in names}}


class HeadChoices(_Strict):
    """The last convolution and classifier; widths before and after the pool may be choices."""

    conv_channels: Widths
    hidden_channels: PositiveInt | None = None
    activation: Activation = "hswish"


@dataclass(frozen=True)
class Position:
    """A place in the chain of blocks and the names of the choices that decide which block stands there.

    ``names`` holds the variables in the order of the axes of a cost array: input resolution, input width, output width
    (left out when it is the same variable), then the block's own.
    """

    name: str
    names: tuple[str, ...]
    resolution: str
    in_channels: str | None
    out_channels: str | None
    own: tuple[tuple[str, str], ...]
    """(what the block calls its choice, the variable's name)"""
    skip: str | None
    build: Callable[[int, int, int, Mapping[str, Any]], Block]
    """(input resolution of the network, input channels, output channels, own choices) -> block"""

    def block(self, assignment: Mapping[str, Option]) -> Block | None:
        """The block for one value of each variable; none if it is skipped."""
        if self.skip is not None and assignment[self.skip]:
            return None
        resolution = assignment[self.resolution]
        in_channels = assignment[self.in_channels] if self.in_channels else 3
        out_channels = assignment[self.out_channels] if self.out_channels else 0
        own = {choice: assignment[name] for choice, name in self.own}
        return self.build(int(resolution), int(in_channels), int(out_channels), own)


class SearchSpace(_Strict):
    """All networks that one YAML file describes.

    The choices are *variables* with a name and a tuple of options: ``resolution``, ``stem.out_channels``,
    ``stage2.out_channels`` (shared by the blocks of the stage), ``stage2.block1.kernel_size``,
    ``stage2.block2.skip``, ``head.conv_channels``. An *assignment* maps each name to one option and is a network.
    """

    name: str
    description: str = ""
    resolution: Widths = Field(description="height and width of the input, pixels")
    classes: PositiveInt
    stem: Stem
    stages: tuple[Stage, ...]
    head: HeadChoices

    @model_validator(mode="before")
    @classmethod
    def _name_the_stage(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("stages"), list):
            return data
        stages = [validated(Stage, stage, f"stage {number}") for number, stage in enumerate(data["stages"], 1)]
        return {**data, "stages": stages}

    @classmethod
    def from_yaml(cls, text: str, where: str = "search space") -> Self:
        """Read the YAML text of a space; ``where`` names the source in error messages.

        Raises:
            UserError: not YAML, a misspelt or missing field, an empty range.
        """
        space = validated(cls, parse_yaml(text, where), where)
        try:
            space.candidates()
        except ValidationError as error:
            raise UserError(f"{where}: a block of it cannot be built: {first_problem(error)}") from error
        return space

    def with_classes(self, classes: int) -> Self:
        """The same space for another number of classes."""
        return self.model_copy(update={"classes": classes})

    @cached_property
    def variables(self) -> dict[str, tuple[Option, ...]]:
        """Every choice and its options, in the order of the network."""
        found: dict[str, tuple[Option, ...]] = {
            "resolution": self.resolution,
            "stem.out_channels": self.stem.out_channels,
        }
        for number, stage in enumerate(self.stages, start=1):
            found[f"stage{number}.out_channels"] = stage.out_channels
            for block in range(1, stage.depth + 1):
                prefix = f"stage{number}.block{block}"
                found |= {f"{prefix}.{choice}": options for choice, options in stage.choices.items()}
                if stage.skip and block > 1:
                    found[f"{prefix}.skip"] = (False, True)
        found["head.conv_channels"] = self.head.conv_channels
        return found

    @cached_property
    def positions(self) -> tuple[Position, ...]:
        """The places in the chain, stem first and head last."""
        stem, head = self.stem, self.head

        def build_stem(resolution: int, _: int, out_channels: int, own: Mapping[str, Any]) -> Block:
            return ConvBlock(
                in_channels=3,
                out_channels=out_channels,
                resolution=resolution,
                stride=stem.stride,
                kernel_size=stem.kernel_size,
                activation=stem.activation,
            )

        found = [
            Position(
                name="stem",
                names=("resolution", "stem.out_channels"),
                resolution="resolution",
                in_channels=None,
                out_channels="stem.out_channels",
                own=(),
                skip=None,
                build=build_stem,
            )
        ]
        width = "stem.out_channels"
        downsampling: tuple[int, ...] = (stem.stride,)
        for number, stage in enumerate(self.stages, start=1):
            for block in range(1, stage.depth + 1):
                prefix, out = f"stage{number}.block{block}", f"stage{number}.out_channels"
                stride = stage.stride if block == 1 else 1
                skip = f"{prefix}.skip" if stage.skip and block > 1 else None
                own = tuple((choice, f"{prefix}.{choice}") for choice in stage.choices)
                names = dict.fromkeys(["resolution", width, out, *(name for _, name in own)])
                found.append(
                    Position(
                        name=prefix,
                        names=(*names, skip) if skip else tuple(names),
                        resolution="resolution",
                        in_channels=width,
                        out_channels=out,
                        own=own,
                        skip=skip,
                        build=_block_builder(block_class(stage.block), downsampling, stride),
                    )
                )
                width, downsampling = out, (*downsampling, stride)

        def build_head(resolution: int, in_channels: int, _: int, own: Mapping[str, Any]) -> Block:
            return Head(
                in_channels=in_channels,
                out_channels=self.classes,
                resolution=_reduced(resolution, downsampling),
                conv_channels=own["conv_channels"],
                hidden_channels=head.hidden_channels,
                activation=head.activation,
            )

        found.append(
            Position(
                name="head",
                names=("resolution", width, "head.conv_channels"),
                resolution="resolution",
                in_channels=width,
                out_channels=None,
                own=(("conv_channels", "head.conv_channels"),),
                skip=None,
                build=build_head,
            )
        )
        return tuple(found)

    def size(self) -> int:
        """Number of different networks; the choices inside a skipped block are not counted."""
        total = 1
        private: set[str] = set()
        for position in self.positions:
            own = [name for _, name in position.own]
            private.update(own, [position.skip] if position.skip else [])
            total *= math.prod(len(self.variables[name]) for name in own) + (position.skip is not None)
        return total * math.prod(len(options) for name, options in self.variables.items() if name not in private)

    def all_blocks(self) -> Iterator[Block]:
        """Every block of every position for every combination of its variables, duplicates included."""
        for position in self.positions:
            names = [name for name in position.names if name != position.skip]
            present = {position.skip: False} if position.skip else {}
            for values in itertools.product(*(self.variables[name] for name in names)):
                block = position.block({**dict(zip(names, values, strict=True)), **present})
                if block is not None:
                    yield block

    def candidates(self) -> tuple[Block, ...]:
        """Every different block that a network of the space can hold, in the order of the network."""
        return tuple(dict.fromkeys(self.all_blocks()))

    def costs(self, cost: Callable[[Block], float]) -> dict[str, npt.NDArray[np.float64]]:
        """For each position an array of block costs, one axis for each of its ``names``; a skipped block costs 0."""
        found = {}
        for position in self.positions:
            options = [self.variables[name] for name in position.names]
            array = np.zeros([len(values) for values in options])
            for index in np.ndindex(array.shape):
                values = {name: option[i] for name, option, i in zip(position.names, options, index, strict=True)}
                block = position.block(values)
                array[index] = cost(block) if block is not None else 0.0
            found[position.name] = array
        return found

    def architecture(
        self, assignment: Mapping[str, Option], name: str | None = None, description: str = ""
    ) -> Architecture:
        """The network that an assignment describes.

        Raises:
            KeyError: a variable has no value.
        """
        blocks = [position.block(assignment) for position in self.positions]
        return Architecture(
            name=name or self.name,
            description=description,
            resolution=int(assignment["resolution"]),
            blocks=tuple(block for block in blocks if block is not None),
        )

    def first(self) -> dict[str, Option]:
        """The assignment that takes each variable's first option."""
        return {name: options[0] for name, options in self.variables.items()}

    def draw(self, rng: random.Random) -> dict[str, Option]:
        """An assignment with each variable drawn uniformly and independently."""
        return {name: rng.choice(options) for name, options in self.variables.items()}


def _reduced(resolution: int, strides: tuple[int, ...]) -> int:
    for stride in strides:
        resolution = math.ceil(resolution / stride)
    return resolution


def _block_builder(
    block: type[Block], downsampling: tuple[int, ...], stride: int
) -> Callable[[int, int, int, Mapping[str, Any]], Block]:
    def build(resolution: int, in_channels: int, out_channels: int, own: Mapping[str, Any]) -> Block:
        return block.from_choices(
            in_channels=in_channels,
            out_channels=out_channels,
            resolution=_reduced(resolution, downsampling),
            stride=stride,
            **own,
        )

    return build


def packaged_spaces() -> tuple[str, ...]:
    """Names of the spaces that ship with the package."""
    folder = resources.files("fbnet_mobile.space") / "spaces"
    return tuple(sorted(Path(item.name).stem for item in folder.iterdir() if item.name.endswith(".yaml")))


def load_space(name: str) -> SearchSpace:
    """Load a space by the name of one that ships with the package, or by the path of a YAML file.

    Raises:
        UserError: neither exists (the message lists the packaged spaces), or the file is not a space.
    """
    known = packaged_spaces()
    if name in known:
        text = (resources.files("fbnet_mobile.space") / "spaces" / f"{name}.yaml").read_text(encoding="utf-8")
        return SearchSpace.from_yaml(text, f"space {name}")
    if Path(name).suffix in {".yaml", ".yml"} or Path(name).exists():
        return SearchSpace.from_yaml(read_text(Path(name)), name)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(
        f"unknown space {name!r}; {hint}packaged spaces: {', '.join(known)}; or give the path of a YAML file"
    )
