"""A search space: choices per stage, the blocks they can become, and architectures drawn from them."""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, ValidationError, model_validator

from fbnet_mobile.arch import BLOCKS, Architecture, Block
from fbnet_mobile.arch.fields import MAX_BLOCKS, STRICT, Count, Description, Name, named_fields, require_sensible
from fbnet_mobile.documents import first_problem, parse_yaml, validated
from fbnet_mobile.errors import UserError
from fbnet_mobile.files import exists, read_text
from fbnet_mobile.registry import unknown
from fbnet_mobile.space.positions import RESOLUTION, Option, Position
from fbnet_mobile.space.schema import MAX_STAGES, HeadChoices, Resolutions, Stage, Stem

IMAGE_CHANNELS = 3

MAX_COMBINATIONS = 500_000
"""Of the choices of one block, summed over the blocks of a space: as many are built, priced and held in arrays."""


class SearchSpace(BaseModel):
    """All networks that one YAML file describes.

    The choices are *variables* with a name and a tuple of options: ``resolution``, ``stem.out_channels``,
    ``stage2.out_channels`` (shared by the blocks of the stage), ``stage2.block1.kernel_size``,
    ``stage2.block2.skip``, ``head.conv_channels``. An *assignment* maps each name to one option and is a network.
    """

    model_config = STRICT

    name: Name
    description: Description = ""
    resolution: Resolutions = Field(description="height and width of the input, pixels")
    classes: Count
    stem: Stem
    stages: tuple[Stage, ...] = Field(max_length=MAX_STAGES)
    head: HeadChoices

    @model_validator(mode="before")
    @classmethod
    def _name_the_stage(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        named_fields(data)
        if not isinstance(data.get("stages"), list | tuple):
            return data
        if len(data["stages"]) > MAX_STAGES:
            raise ValueError(f"stages: {len(data['stages'])} are too many; at most {MAX_STAGES} are allowed")
        stages = [validated(Stage, stage, f"stage {number}") for number, stage in enumerate(data["stages"], 1)]
        return {**data, "stages": tuple(stages)}

    @model_validator(mode="after")
    def _within_bounds(self) -> Self:
        """Refuse what could not be built, priced or held, before any of it is tried."""
        depth = sum(stage.depth for stage in self.stages) + 2
        if depth > MAX_BLOCKS:
            raise ValueError(f"stages: {depth} blocks; at most {MAX_BLOCKS} are allowed")
        combinations = sum(math.prod(map(len, position.variables.values())) for position in self.positions)
        if combinations > MAX_COMBINATIONS:
            raise ValueError(
                f"{combinations:.1e} combinations of options within its blocks; at most {MAX_COMBINATIONS:,} are "
                "allowed: give some choices fewer options"
            )
        params = 0
        for position in self.positions:
            try:
                block = position.largest()
            except ValidationError as error:
                raise ValueError(_unbuildable(position, error)) from error
            params += block.params
            require_sensible(params, block.peak_activations, f"up to {position.name}")
        return self

    @classmethod
    def from_yaml(cls, text: str, where: str = "search space") -> Self:
        """Read the YAML text of a space; ``where`` names the source in error messages.

        Raises:
            UserError: not YAML, a misspelt or missing field, an empty range, a value out of bounds, or networks that
                are too large.
        """
        space = validated(cls, parse_yaml(text, where), where)
        for position in space.positions:
            try:
                for _ in _blocks_at(position):
                    pass
            except ValidationError as error:
                raise UserError(f"{where}: {_unbuildable(position, error)}") from error
        return space

    def with_classes(self, classes: int) -> Self:
        """The same space for another number of classes."""
        return self.changed(classes=classes)

    def changed(self, **fields: Any) -> Self:
        """The same space with other values of some fields.

        Raises:
            UserError: they are out of bounds.
        """
        # Not a copy, which would keep the cached variables and positions of the fields as they were.
        return validated(type(self), {**self.model_dump(), **fields}, f"space {self.name}")

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
        if self.head.conv_channels is not None:
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

        def options(*names: str | None) -> dict[str, tuple[Option, ...]]:
            return {name: self.variables[name] for name in names if name is not None}

        width = "stem.out_channels"
        found = [
            Position(
                name="stem",
                kind=BLOCKS.get("conv"),
                stride=stem.stride,
                downsampling=1,
                variables=options(RESOLUTION, width),
                in_channels=IMAGE_CHANNELS,
                out_channels=width,
                fixed=_said(stem, "kernel_size", "activation", "padding", "batch_norm_eps"),
            )
        ]
        downsampling = stem.stride
        for number, stage in enumerate(self.stages, start=1):
            out = f"stage{number}.out_channels"
            for block in range(1, stage.depth + 1):
                prefix = f"stage{number}.block{block}"
                skip = f"{prefix}.skip" if f"{prefix}.skip" in self.variables else None
                own = {choice: f"{prefix}.{choice}" for choice in stage.choices}
                shape = options(RESOLUTION, width, out)
                position = Position(
                    name=prefix,
                    kind=BLOCKS.get(stage.block),
                    stride=stage.stride if block == 1 else 1,
                    downsampling=downsampling,
                    variables={**shape, **options(*own.values(), skip)},
                    in_channels=width,
                    out_channels=out,
                    own=own,
                    skip=skip,
                )
                candidates = {}
                for name, candidate in stage.candidates.items():
                    own = {choice: f"{prefix}.{choice}" for choice in candidate.choices}
                    values = {own[choice]: (option,) for choice, option in candidate.choices.items()}
                    candidates[name] = replace(
                        position,
                        name=f"{prefix}.{name}",
                        kind=BLOCKS.get(candidate.block),
                        variables={**shape, **values, **options(skip)},
                        own=own,
                    )
                position = replace(position, candidates=candidates)
                found.append(position)
                width, downsampling = out, downsampling * position.stride
        choices = ("conv_channels", "hidden_channels")
        own = {choice: name for choice in choices if (name := f"head.{choice}") in self.variables}
        found.append(
            Position(
                name="head",
                kind=BLOCKS.get("head"),
                stride=1,
                downsampling=downsampling,
                variables=options(RESOLUTION, width, *own.values()),
                in_channels=width,
                out_channels=self.classes,
                own=own,
                fixed=_said(head, "activation", "hidden_bias", "hidden_norm", "batch_norm_eps"),
            )
        )
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
            yield from _blocks_at(position)

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

        if network.resolution not in self.resolution or network.input_channels != IMAGE_CHANNELS:
            return None
        return search(0, 0, {RESOLUTION: network.resolution})

    def first(self) -> dict[str, Option]:
        """The assignment that takes each variable's first option."""
        return {name: options[0] for name, options in self.variables.items()}

    def draw(self, rng: random.Random) -> dict[str, Option]:
        """An assignment with each variable drawn uniformly and independently."""
        return {name: rng.choice(options) for name, options in self.variables.items()}


def _said(part: BaseModel, *names: str) -> dict[str, Option]:
    """The fields of a part of a space that it says anything of."""
    return {name: value for name in names if (value := getattr(part, name)) is not None}


def _blocks_at(position: Position) -> Iterator[Block]:
    names = [name for name in position.names if name != position.skip]
    present = {position.skip: False} if position.skip else {}
    for values in itertools.product(*(position.variables[name] for name in names)):
        block = position.block({**dict(zip(names, values, strict=True)), **present})
        if block is not None:
            yield block


def _unbuildable(position: Position, error: ValidationError) -> str:
    return f"a block of {position.name} cannot be built: {first_problem(error)}"


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
    if Path(name).suffix in {".yaml", ".yml"} or exists(Path(name)):
        return SearchSpace.from_yaml(read_text(Path(name)), name)
    raise UserError(f"{unknown('space', name, known)}, or give the path of a YAML file")
