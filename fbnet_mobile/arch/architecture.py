"""A whole network as data, and its YAML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, Field, SerializeAsAny, ValidationError, model_validator

from fbnet_mobile.arch.block import BLOCKS, Block
from fbnet_mobile.arch.fields import (
    MAX_BLOCKS,
    STRICT,
    Count,
    Description,
    Name,
    Resolution,
    named_fields,
    require_sensible,
)
from fbnet_mobile.documents import first_problem, parse_yaml, validated
from fbnet_mobile.files import read_text, write_whole

_DERIVED = ("in_channels", "resolution")


class _Images(BaseModel):
    """What goes into the first block."""

    model_config = STRICT

    resolution: Resolution
    input_channels: Count = 3


class Architecture(BaseModel):
    """A chain of blocks from an image of ``resolution`` x ``resolution`` pixels to logits.

    In YAML each block is one line with its ``kind``; its ``in_channels`` and ``resolution`` follow from the block
    before it and are left out.

    >>> network = Architecture.from_yaml('''
    ... name: tiny
    ... resolution: 32
    ... blocks:
    ...   - {kind: conv, out_channels: 16, stride: 2}
    ...   - {kind: inverted_residual, out_channels: 16, expanded_channels: 48}
    ...   - {kind: head, out_channels: 10, conv_channels: 64}
    ... ''')
    >>> network.macs, network.blocks[1].resolution
    (875648, 16)
    """

    model_config = STRICT

    name: Name
    description: Description = ""
    resolution: Resolution
    input_channels: Count = 3
    blocks: tuple[SerializeAsAny[Block], ...] = Field(max_length=MAX_BLOCKS)

    @model_validator(mode="before")
    @classmethod
    def _chain(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("blocks"), list | tuple):
            return data
        named_fields(data)
        if len(data["blocks"]) > MAX_BLOCKS:
            raise ValueError(f"{len(data['blocks'])} blocks; at most {MAX_BLOCKS} are allowed")
        try:
            images = _Images.model_validate({name: data[name] for name in _Images.model_fields if name in data})
        except ValidationError as error:
            raise ValueError(first_problem(error)) from error
        channels, resolution = images.input_channels, images.resolution
        blocks: list[Block] = []
        for number, fields in enumerate(data["blocks"], start=1):
            block = fields
            if isinstance(fields, Mapping):
                rest = {"in_channels": channels, "resolution": resolution, **named_fields(fields)}
                kind = rest.pop("kind", None)
                if not isinstance(kind, str):
                    raise ValueError(f"block {number} has no kind")
                block = validated(BLOCKS.get(kind), rest, f"block {number}")
            if not isinstance(block, Block):
                raise ValueError(f"block {number} is not a mapping of fields")
            if (block.in_channels, block.resolution) != (channels, resolution):
                raise ValueError(
                    f"block {number} takes {block.in_channels} channels at {block.resolution} pixels but gets "
                    f"{channels} at {resolution}"
                )
            channels, resolution = block.out_channels, block.out_resolution
            blocks.append(block)
        return {**data, "blocks": tuple(blocks)}

    @model_validator(mode="after")
    def _ends_in_head(self) -> Self:
        ends = [block.ends_network for block in self.blocks]
        if ends.count(True) != 1 or not ends[-1]:
            raise ValueError("a network needs exactly one head, as its last block")
        require_sensible(self.params, self.peak_activations, "in all")
        return self

    @classmethod
    def from_yaml(cls, text: str, where: str = "architecture") -> Self:
        """Read the YAML text of an architecture; ``where`` names the source in error messages.

        Raises:
            UserError: not YAML, a misspelt or missing field, or blocks that do not fit together.
        """
        return validated(cls, parse_yaml(text, where), where)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read an architecture file.

        Raises:
            UserError: the file is missing, or as for ``from_yaml``.
        """
        return cls.from_yaml(read_text(path), str(path))

    def to_yaml(self) -> str:
        """The architecture as YAML, one block a line."""
        head = {"name": self.name, "description": self.description, "resolution": self.resolution}
        lines = [yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip()]
        if self.input_channels != 3:
            lines.append(f"input_channels: {self.input_channels}")
        lines.append("blocks:")
        for block in self.blocks:
            fields = {"kind": block.kind, **block.model_dump(exclude=set(_DERIVED), exclude_none=True)}
            lines.append("  - " + yaml.safe_dump(fields, sort_keys=False, default_flow_style=True, width=1000).rstrip())
        return "\n".join(lines) + "\n"

    def save(self, path: Path) -> None:
        """Write the YAML file, whole or not at all."""
        with write_whole(path) as partial:
            partial.write_text(self.to_yaml(), encoding="utf-8")

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of one image as a batch: (1, channels, height, width)."""
        return (1, self.input_channels, self.resolution, self.resolution)

    @property
    def classes(self) -> int:
        """Number of logits."""
        return self.blocks[-1].out_channels

    def with_classes(self, classes: int) -> Self:
        """The same network with another number of logits.

        Raises:
            UserError: it is no number of classes.
        """
        head = self.blocks[-1]
        head = validated(type(head), {**head.model_dump(), "out_channels": classes}, f"network {self.name}")
        return self.model_copy(update={"blocks": (*self.blocks[:-1], head)})

    def with_resolution(self, resolution: int) -> Self:
        """The same network for images of another height and width, pixels.

        Raises:
            UserError: it is no resolution.
        """
        blocks = [{"kind": block.kind, **block.model_dump(exclude=set(_DERIVED))} for block in self.blocks]
        return validated(type(self), {**dict(self), "resolution": resolution, "blocks": blocks}, f"network {self.name}")

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and linear layers, for one image."""
        return sum(block.macs for block in self.blocks)

    @property
    def params(self) -> int:
        """Trainable parameters, biases and batch norm included."""
        return sum(block.params for block in self.blocks)

    @property
    def peak_activations(self) -> int:
        """The most values of feature maps that are alive at once, for one image (``Block.peak_activations``)."""
        return max(block.peak_activations for block in self.blocks)
