"""Spaces that are written block by block, as the one within a trained network is."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fbnet_mobile.arch import BLOCKS, Architecture, Block
from fbnet_mobile.errors import UserError
from fbnet_mobile.space.positions import RESOLUTION, Option, Position
from fbnet_mobile.space.stages import IMAGE_CHANNELS

if TYPE_CHECKING:
    from fbnet_mobile.space.space import SearchSpace

_STEP = 8
_WIDTHS = 7
"""Most widths to choose from in one place: blocks are priced and measured for all combinations of theirs."""
_LEAST = 0.25
"""Of a width."""
_SIDES = (8, 7, 6, 5, 4)
"""Eighths of the input resolution."""


def block_positions(space: "SearchSpace") -> Iterator[Position]:
    """The places in the chain of a space whose blocks are given one by one."""
    entering: dict[str, tuple[Option, ...]] = {}
    downsampling = 1
    for number, block in enumerate(space.blocks, start=1):
        kind, prefix = BLOCKS.get(block.kind), f"block{number}"
        leaving = entering
        if block.out_channels is not None:
            leaving = {f"{prefix}.out_channels": block.out_channels}
        own = {name: f"{prefix}.{name}" for name in block.fields}
        skip = f"{prefix}.skip" if block.skip else None
        yield Position(
            name=prefix,
            kind=kind,
            stride=block.stride,
            downsampling=downsampling,
            variables={
                RESOLUTION: space.resolution,
                **entering,
                **({} if kind.ends_network else leaving),
                **{own[name]: options for name, options in block.fields.items()},
                **({skip: (False, True)} if skip is not None else {}),
            },
            in_channels=next(iter(entering), IMAGE_CHANNELS),
            out_channels=space.classes if kind.ends_network else next(iter(leaving)),
            own=own,
            skip=skip,
            trained=True,
        )
        entering, downsampling = leaving, downsampling * block.stride


def less_than(network: Architecture) -> dict[str, Any]:
    """The fields of the space of all that a network is when something is taken from it; see ``SearchSpace.within``.

    Raises:
        UserError: its images have not three channels, or it has no block that could be less.
    """
    if network.input_channels != IMAGE_CHANNELS:
        raise UserError(
            f"{network.name} takes images of {network.input_channels} channels; only those of 3 are searched"
        )
    whole = _whole_groups(network.blocks)
    if not whole:
        raise UserError(f"{network.name} has no block of which anything could be taken away")
    blocks: list[dict[str, Any]] = []
    first_of_group = 0
    for number, block in enumerate(network.blocks):
        joined = number > 0 and _residual(block)
        first_of_group = first_of_group if joined else number
        fields = block.model_dump(exclude={"in_channels", "out_channels", "resolution", "stride"}, exclude_none=True)
        for name, field in type(block).model_fields.items():
            if field.is_required() and getattr(block, name) is None:
                fields[name] = 0
        shrinks = block.shrinks or {}
        # Smaller widths that happen to be equal do not make a residual of what was trained without one.
        if "no_residual" in type(block).model_fields and block.stride == 1 and not _residual(block):
            fields["no_residual"] = True
        described = {name: [value] for name, value in fields.items()}
        for name, how in shrinks.items():
            if fields.get(name):
                described[name] = _less(fields[name], how)
        head: dict[str, Any] = {"kind": block.kind}
        if not joined and not block.ends_network:
            free = first_of_group in whole
            head["out_channels"] = _widths(block.out_channels) if free else [block.out_channels]
        if block.stride != 1:
            head["stride"] = block.stride
        if joined and block.shrinks is not None:
            head["skip"] = True
        blocks.append({**head, **described})
    sides = dict.fromkeys(max(1, network.resolution * eighths // 8) for eighths in _SIDES)
    return {
        "name": f"within-{network.name}"[:100],
        "resolution": list(sides),
        "classes": network.classes,
        "blocks": blocks,
    }


def _whole_groups(blocks: Sequence[Block]) -> set[int]:
    """Numbers of the first blocks of those groups, joined by residuals, whose width may be less for all they touch."""
    groups: dict[int, list[Block]] = {}
    first = 0
    for number, block in enumerate(blocks):
        entering, first = first, first if number > 0 and _residual(block) else number
        groups.setdefault(first, []).append(block)
        if number > 0:
            groups[entering].append(block)  # it reads what the group gives
    return {
        number
        for number, touched in groups.items()
        if not blocks[number].ends_network and all(block.shrinks is not None for block in touched)
    }


def _less(value: Any, how: str) -> list[Any]:
    if how == "width":
        return _widths(value)
    if how == "kernel":
        return [value, *(size for size in (5, 3) if size < value)]
    return [value, 0]


def _widths(whole: int) -> list[int]:
    """Multiples of 8 from a quarter of a width to the whole, evenly spaced, the whole first."""
    least = max(_STEP, math.ceil(whole * _LEAST / _STEP) * _STEP)
    step = max(1, math.ceil((whole - least) / (_WIDTHS - 1) / _STEP)) * _STEP
    below = (
        range((whole - 1) // _STEP * _STEP, least - 1, -step)
        if whole % _STEP
        else range(whole - step, least - 1, -step)
    )
    return [whole, *below]


def to_yaml(space: "SearchSpace") -> str:
    """A space of blocks as YAML, one block a line."""
    import yaml

    def line(fields: Mapping[str, Any]) -> str:
        return str(
            yaml.safe_dump(fields, sort_keys=False, default_flow_style=True, width=10_000, allow_unicode=True)
        ).rstrip()

    head = {"name": space.name, "description": space.description, "classes": space.classes}
    lines = [yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip()]
    lines.append(f"resolution: {list(space.resolution)}")
    lines.append("blocks:")
    for block in space.blocks:
        fields: dict[str, Any] = {"kind": block.kind}
        if block.out_channels is not None:
            fields["out_channels"] = _plain(block.out_channels)
        if block.stride != 1:
            fields["stride"] = block.stride
        fields |= {name: _plain(options) for name, options in block.fields.items()}
        if block.skip:
            fields["skip"] = True
        lines.append(f"  - {line(fields)}")
    return "\n".join(lines) + "\n"


def _plain(options: Sequence[Option]) -> Option | list[Option]:
    return options[0] if len(options) == 1 else list(options)


def _residual(block: Block) -> bool:
    return bool(getattr(block, "residual", False))
