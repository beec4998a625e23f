"""A search space: choices per stage, the blocks they can become, and architectures drawn from them."""

import difflib
import itertools
import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
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


def _gather_choices(data: Any, fields: Collection[str]) -> Any:
    """Move what a kind of block has choices for (``Block.choices``) from among ``fields`` into ``choices``."""
    if not isinstance(data, Mapping) or isinstance(data.get("choices"), Mapping):
        return data  # as a space writes itself
    kind = block_class(data.get("block", "inverted_residual"))
    own = {name: value for name, value in data.items() if name in fields and name != "choices"}
    chosen = {name: value for name, value in data.items() if name not in own}
    names = (*kind.choices, *(name for name in kind.optional_choices if name in chosen))
    for name in chosen:
        if name not in names:
            near = difflib.get_close_matches(name, (*names, *kind.optional_choices, *fields), n=1)
            raise ValueError(f"unknown field {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    for name in names:
        if name not in chosen:
            raise ValueError(f"no {name!r} for its blocks")
    return {**own, "choices": {name: chosen[name] for name in names}}


class Candidate(_Strict):
    """A block of which nothing is left to choose but its widths: its kind, and a value for each of its choices."""

    block: str = "inverted_residual"
    choices: dict[str, Option]

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        return _gather_choices(data, cls.model_fields)


CANDIDATE = "candidate"
"""What the choice between the ``candidates`` of a stage is called."""


class Stage(_Strict):
    """``depth`` blocks; all have the same output channels, which are chosen once.

    The first block has the stride and takes the width of the stage before. What else can be chosen in a block depends
    on its kind (``Block.choices``); each block of the stage chooses for itself. Instead, ``candidates`` may name whole
    blocks to choose from, of any kinds, for choices that depend on one another. With ``skip`` every block may be left
    out that could be an identity: all but the first, and the first too if the stage neither strides nor changes the
    width, and has but one.
    """

    block: str = "inverted_residual"
    out_channels: Widths
    depth: PositiveInt = 1
    stride: PositiveInt = 1
    skip: bool = False
    choices: dict[str, Options]
    candidates: dict[str, Candidate] = {}

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("candidates"), Mapping) and data["candidates"]:
            names = data["candidates"]
            data = {**data, "choices": data.get("choices", {CANDIDATE: list(names)})}
            candidates = {name: validated(Candidate, names[name], f"candidate {name}") for name in names}
            return {**data, "candidates": candidates}
        return _gather_choices(data, cls.model_fields)


class HeadChoices(_Strict):
    """The last convolution and classifier; widths before and after the pool may be choices."""

    conv_channels: Widths
    hidden_channels: Widths | None = None
    activation: Activation = "hswish"


RESOLUTION = "resolution"
"""The variable that is the input resolution of the network."""


@dataclass(frozen=True)
class Position:
    """A place in the chain of blocks and the choices that decide which block stands there.

    ``variables`` holds their options in the order of the axes of a cost array: input resolution, input width, output
    width (left out when it is the same variable), then the block's own.
    """

    name: str
    variables: Mapping[str, tuple[Option, ...]]
    in_channels: str | None
    out_channels: str | None
    own: Mapping[str, str]
    """the variable's name by what the block calls its choice"""
    skip: str | None
    build: Callable[[int, int, int, Mapping[str, Any]], Block]
    """(input resolution of the network, input channels, output channels, own choices) -> block"""
    candidates: Mapping[str, "Position"] = field(default_factory=dict)
    """for each option of a choice between whole blocks, the position with nothing but that block"""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its variables."""
        return tuple(self.variables)

    def pin(self, options: Mapping[str, Option]) -> "Position":
        """The position with no other option than these for some of its variables."""
        if CANDIDATE in self.own and self.own[CANDIDATE] in options:
            return self.candidates[str(options[self.own[CANDIDATE]])]
        return replace(self, variables={**self.variables, **{name: (option,) for name, option in options.items()}})

    def block(self, assignment: Mapping[str, Option]) -> Block | None:
        """The block for one value of each variable; none if it is skipped."""
        if self.skip is not None and assignment[self.skip]:
            return None
        resolution = assignment[RESOLUTION]
        in_channels = assignment[self.in_channels] if self.in_channels else 3
        out_channels = assignment[self.out_channels] if self.out_channels else 0
        own = {choice: assignment[name] for choice, name in self.own.items()}
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
        return self.changed(classes=classes)

    def changed(self, **fields: Any) -> Self:
        """The same space with other values of some fields."""
        # Not a copy, which would keep the cached variables and positions of the fields as they were.
        return self.model_validate({**self.model_dump(), **fields})

    @cached_property
    def variables(self) -> dict[str, tuple[Option, ...]]:
        """Every choice and its options, in the order of the network."""
        found: dict[str, tuple[Option, ...]] = {
            RESOLUTION: self.resolution,
            "stem.out_channels": self.stem.out_channels,
        }
        for number, stage in enumerate(self.stages, start=1):
            found[f"stage{number}.out_channels"] = stage.out_channels
            for block in range(1, stage.depth + 1):
                prefix = f"stage{number}.block{block}"
                found |= {f"{prefix}.{choice}": options for choice, options in stage.choices.items()}
                if stage.skip and (block > 1 or self._keeps_shape(number)):
                    found[f"{prefix}.skip"] = (False, True)
        found["head.conv_channels"] = self.head.conv_channels
        if self.head.hidden_channels is not None:
            found["head.hidden_channels"] = self.head.hidden_channels
        return found

    def _keeps_shape(self, number: int) -> bool:
        """Whether the first block of a stage has an output of its input's shape in every network."""
        stage = self.stages[number - 1]
        before = self.stages[number - 2].out_channels if number > 1 else self.stem.out_channels
        return stage.stride == 1 and len(before) == 1 and before == stage.out_channels

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

        def options(*names: str | None) -> dict[str, tuple[Option, ...]]:
            return {name: self.variables[name] for name in names if name is not None}

        out = "stem.out_channels"
        found = [Position("stem", options(RESOLUTION, out), None, out, {}, None, build_stem)]
        width = out
        downsampling: tuple[int, ...] = (stem.stride,)
        for number, stage in enumerate(self.stages, start=1):
            for block in range(1, stage.depth + 1):
                prefix, out = f"stage{number}.block{block}", f"stage{number}.out_channels"
                stride = stage.stride if block == 1 else 1
                skip = f"{prefix}.skip" if f"{prefix}.skip" in self.variables else None
                own = {choice: f"{prefix}.{choice}" for choice in stage.choices}
                shape = options(RESOLUTION, width, out)
                candidates = {
                    name: Position(
                        name=f"{prefix}.{name}",
                        variables={
                            **shape,
                            **{f"{prefix}.{choice}": (option,) for choice, option in candidate.choices.items()},
                            **options(skip),
                        },
                        in_channels=width,
                        out_channels=out,
                        own={choice: f"{prefix}.{choice}" for choice in candidate.choices},
                        skip=skip,
                        build=_block_builder(block_class(candidate.block), downsampling, stride),
                    )
                    for name, candidate in stage.candidates.items()
                }
                build = _block_builder(block_class(stage.block), downsampling, stride)
                if candidates:
                    build = _candidate_builder(stage.candidates, candidates)
                found.append(
                    Position(
                        name=prefix,
                        variables={**shape, **options(*own.values(), skip)},
                        in_channels=width,
                        out_channels=out,
                        own=own,
                        skip=skip,
                        build=build,
                        candidates=candidates,
                    )
                )
                width, downsampling = out, (*downsampling, stride)

        def build_head(resolution: int, in_channels: int, _: int, own: Mapping[str, Any]) -> Block:
            return Head(
                in_channels=in_channels,
                out_channels=self.classes,
                resolution=_reduced(resolution, downsampling),
                activation=head.activation,
                **own,
            )

        own = {choice: name for choice in Head.choices if (name := f"head.{choice}") in self.variables}
        found.append(Position("head", options(RESOLUTION, width, *own.values()), width, None, own, None, build_head))
        return tuple(found)

    def size(self) -> int:
        """Number of different networks; the choices inside a skipped block are not counted."""
        total = 1
        private: set[str] = set()
        for position in self.positions:
            own = list(position.own.values())
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
            options = list(position.variables.values())
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

    def find(self, network: Architecture) -> dict[str, Option] | None:
        """The assignment that describes a network, or None if the space does not hold it.

        Biases are not compared: before a batch norm they make no difference, and no space has a choice for them.
        """
        blocks = [_without_bias(block) for block in network.blocks]

        def search(number: int, done: int, assignment: dict[str, Option]) -> dict[str, Option] | None:
            if number == len(self.positions):
                return assignment if done == len(blocks) else None
            position = self.positions[number]
            free = [name for name in position.names if name not in assignment]
            tried_without = False
            for values in itertools.product(*(self.variables[name] for name in free)):
                chosen = {**assignment, **dict(zip(free, values, strict=True))}
                block = position.block(chosen)
                if block is None:
                    if tried_without:
                        continue  # a skipped block's other choices make no difference
                    tried_without = True
                elif done == len(blocks) or _without_bias(block) != blocks[done]:
                    continue
                found = search(number + 1, done + (block is not None), chosen)
                if found is not None:
                    return found
            return None

        if network.resolution not in self.resolution or network.input_channels != 3:
            return None
        return search(0, 0, {RESOLUTION: network.resolution})

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


def _candidate_builder(
    candidates: Mapping[str, Candidate], positions: Mapping[str, Position]
) -> Callable[[int, int, int, Mapping[str, Any]], Block]:
    def build(resolution: int, in_channels: int, out_channels: int, own: Mapping[str, Any]) -> Block:
        name = own[CANDIDATE]
        return positions[name].build(resolution, in_channels, out_channels, candidates[name].choices)

    return build


def _without_bias(block: Block) -> Block:
    return block.model_copy(update={"bias": None}) if "bias" in type(block).model_fields else block


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
