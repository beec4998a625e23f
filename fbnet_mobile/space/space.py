"""A search space: choices per stage, the blocks they can become, and architectures drawn from them."""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
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
from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.files import exists, read_text
from fbnet_mobile.registry import unknown
from fbnet_mobile.space.positions import RESOLUTION, Option, Position
from fbnet_mobile.space.schema import MAX_STAGES, ChosenBlock, HeadChoices, Resolutions, Stage, Stem
from fbnet_mobile.space.stages import IMAGE_CHANNELS, stage_positions
from fbnet_mobile.space.within import block_positions, less_than, to_yaml

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
    stem: Stem | None = None
    stages: tuple[Stage, ...] = Field((), max_length=MAX_STAGES)
    head: HeadChoices | None = None
    blocks: tuple[ChosenBlock, ...] = Field((), max_length=MAX_BLOCKS)

    @model_validator(mode="before")
    @classmethod
    def _name_the_stage(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        named_fields(data)
        # As a space writes itself, the form that it has not is there, and empty.
        data = {
            name: value for name, value in data.items() if name not in ("blocks", "stages") or value not in ((), [])
        }
        if data.get("blocks") is not None:
            return cls._name_the_block(data)
        for name in ("stem", "stages", "head"):
            if data.get(name) is None:
                raise ValueError(f"{name}: Field required")
        if not isinstance(data.get("stages"), list | tuple):
            return data
        if len(data["stages"]) > MAX_STAGES:
            raise ValueError(f"stages: {len(data['stages'])} are too many; at most {MAX_STAGES} are allowed")
        stages = [validated(Stage, stage, f"stage {number}") for number, stage in enumerate(data["stages"], 1)]
        return {**data, "stages": tuple(stages)}

    @classmethod
    def _name_the_block(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in ("stem", "stages", "head"):
            if data.get(name):
                raise ValueError(f"{name}: a space has blocks, or a stem, stages and a head; leave out one of the two")
        given = data["blocks"]
        if not isinstance(given, list | tuple):
            return data
        if len(given) > MAX_BLOCKS:
            raise ValueError(f"blocks: {len(given)} are too many; at most {MAX_BLOCKS} are allowed")
        blocks = tuple(validated(ChosenBlock, block, f"block {number}") for number, block in enumerate(given, 1))
        ends = [BLOCKS.get(block.kind).ends_network for block in blocks]
        if ends.count(True) != 1 or not ends[-1]:
            raise ValueError("blocks: a network needs exactly one head, as its last block")
        if blocks[0].out_channels is None:
            raise ValueError("blocks: the first needs out_channels")
        return {**data, "blocks": blocks}

    @model_validator(mode="after")
    def _within_bounds(self) -> Self:
        """Refuse what could not be built, priced or held, before any of it is tried."""
        depth = len(self.blocks) or sum(stage.depth for stage in self.stages) + 2
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

    @classmethod
    def within(cls, network: Architecture) -> Self:
        """All networks that a network becomes when something is taken from it.

        One width for each group of blocks that residuals join, each block's own widths, its kernel down to 3, its
        squeeze-excite, whole blocks that a residual bridges, and the input resolution. Widths are multiples of 8 from a
        quarter to the whole. The first option of each choice is the network itself.

        Raises:
            UserError: its images have not three channels, or nothing could be taken from it.
        """
        return validated(cls, less_than(network), f"the space within {network.name}")

    def to_yaml(self) -> str:
        """A space of blocks as YAML that ``from_yaml`` reads."""
        return to_yaml(self)

    def with_classes(self, classes: int) -> Self:
        """The same space for another number of classes."""
        return self.changed(classes=classes)

    def with_resolution(self, text: str) -> Self:
        """The same space for other input resolutions, as a user writes them: ``96`` or ``64,96``.

        Raises:
            UserError: they are no such numbers, or out of bounds.
        """
        try:
            pixels = tuple(sorted({int(word) for word in text.split(",")}))
        except ValueError as error:
            raise UserError(f"--resolution is '{shown(text, 40)}'; write pixels such as 96, or 64,96") from error
        return self.changed(resolution=pixels)

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
        found: dict[str, tuple[Option, ...]] = {RESOLUTION: self.resolution}
        for position in self.positions:
            found |= position.variables
        return found

    @cached_property
    def positions(self) -> tuple[Position, ...]:
        """The places in the chain, stem first and head last."""
        return tuple(block_positions(self) if self.blocks else stage_positions(self))

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
