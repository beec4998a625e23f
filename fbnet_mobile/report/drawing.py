"""A network drawn block by block beside the space that it was found in: SVG, without scripts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from fbnet_mobile.arch import Architecture, Block
from fbnet_mobile.space import Option, SearchSpace

_GAP, _TALL, _LEAST = 10, 170, 6
_BARS, _TEXT = 90, 16
_WIDTH = 1040
_KINDS = ("conv", "inverted_residual", "head")


@dataclass(frozen=True)
class Drawn:
    """A place in a network.

    Attributes:
        name: of the place, such as "stage2.block1".
        block: that stands there; None if it is left out.
        largest: that might; None if that is not known.
        predicted_us: what the block takes by the table; None without one.
        measured_us: what it takes in a file, by the runtime's profiler; None without one.
    """

    name: str
    block: Block | None
    largest: Block | None
    predicted_us: float | None = None
    measured_us: float | None = None


def places(
    network: Architecture,
    space: SearchSpace | None,
    assignment: Mapping[str, Option],
    predicted_us: Mapping[str, float],
    measured_us: Sequence[float] = (),
) -> list[Drawn]:
    """The places of a network, those that were left out too if its space is known.

    Args:
        network: the network.
        space: that it was found in.
        assignment: its choices there.
        predicted_us: of blocks by their keys.
        measured_us: of the network's blocks in their order; empty without.
    """
    standing: list[tuple[str, Block | None, Block | None]]
    if space is None:
        standing = [(f"block {number}", block, None) for number, block in enumerate(network.blocks, start=1)]
    else:
        standing = [(place.name, place.block(assignment), place.largest()) for place in space.positions]
    measured = iter(measured_us)
    return [
        Drawn(name, block, largest)
        if block is None
        else Drawn(name, block, largest, predicted_us.get(block.key), next(measured, None))
        for name, block, largest in standing
    ]


def draw(drawn: Sequence[Drawn]) -> str:
    """The places as SVG: width is output channels, height is output resolution, colour is kind, dashes are the space.

    Bars below are the time of each block, predicted and measured. Everything has a title, which browsers show where the
    pointer is.
    """
    widest = [max(_channels(place.block), _channels(place.largest)) for place in drawn]
    tallest = max(max(_pixels(place.block), _pixels(place.largest)) for place in drawn)
    # By the square root, so that the narrow ones can be seen beside the head.
    scale = (_WIDTH - _GAP * (len(drawn) + 1)) / sum(width**0.5 for width in widest)
    longest = max((us or 0.0 for place in drawn for us in (place.predicted_us, place.measured_us)), default=0.0)
    height = _TALL + 3 * _TEXT + (_BARS + 2 * _TEXT if longest else 0) + 34
    parts, left = [], float(_GAP)
    base = _TALL + _TEXT
    stages: dict[str, list[float]] = {}
    for place, width in zip(drawn, widest, strict=True):
        room = scale * width**0.5
        middle = left + room / 2
        stages.setdefault(place.name.partition(".")[0], []).extend((left, left + room))
        parts.append(f"<g><title>{escape(_title(place))}</title>")
        # What the pointer finds between and above the shapes too.
        parts.append(f'<rect x="{left:.1f}" y="0" width="{room:.1f}" height="{height - 34}" fill="transparent"/>')
        if place.largest is not None:
            parts.append(_box(middle, base, room, _height(place.largest, tallest), "space"))
        if place.block is None:
            parts.append(_text(middle, base - 6, "skipped", "faint", turned=True))
        else:
            block = place.block
            wide, tall = scale * _channels(block) ** 0.5, _height(block, tallest)
            kind = block.kind if block.kind in _KINDS else "other"
            parts.append(_box(middle, base, wide, tall, f"block {kind}"))
            fields = block.model_dump()
            if fields.get("se_channels"):
                parts.append(f'<circle cx="{middle:.1f}" cy="{base - tall - 8:.1f}" r="4" class="se"/>')
            parts.append(_text(middle, base + 13, str(_channels(block)), "strong"))
            kernel = fields.get("kernel_size")
            parts.append(_text(middle, base + 27, f"{kernel}×{kernel}" if kernel else "", "faint"))
        if longest:
            parts.append(_bars(place, middle, room, base + 3 * _TEXT + _BARS, longest))
        parts.append("</g>")
        left += room + _GAP
    for name, ends in stages.items():
        start, end = min(ends), max(ends)
        parts.append(f'<path d="M{start:.1f} {height - 24}H{end:.1f}" class="rule"/>')
        title = name.replace("stage", "stage ") if end - start > 50 else name.removeprefix("stage")
        parts.append(_text((start + end) / 2, height - 8, title, "faint"))
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" class="network" '
        f'aria-label="The network, block by block">{"".join(parts)}</svg>'
    )


def _channels(block: Block | None) -> int:
    """Of its output; of a head, those that it pools, as its logits are no feature map."""
    if block is None:
        return 1
    fields = block.model_dump()
    return int(fields.get("conv_channels") or block.out_channels)


def _pixels(block: Block | None) -> int:
    return 1 if block is None else block.out_resolution


def _height(block: Block, tallest: int) -> float:
    return max(_LEAST, _TALL * math.sqrt(block.out_resolution / tallest) - 14)


def _box(middle: float, base: float, width: float, height: float, kind: str) -> str:
    return (
        f'<rect x="{middle - width / 2:.1f}" y="{base - height:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3" '
        f'class="{kind}"/>'
    )


def _text(x: float, y: float, text: str, kind: str, *, turned: bool = False) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})" text-anchor="start" dy="4"' if turned else ' text-anchor="middle"'
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}"{turn}>{escape(text)}</text>'


def _bars(place: Drawn, middle: float, room: float, base: float, longest: float) -> str:
    """The times of a block side by side; the number is the measured one's where there is one."""
    times = [
        (kind, us)
        for kind, us in (("time", place.predicted_us), ("time measured", place.measured_us))
        if us is not None
    ]
    if not times:
        return ""
    wide = min(room, 34.0) / len(times)
    left = middle - wide * len(times) / 2
    parts, highest = [], 0.0
    for number, (kind, us) in enumerate(times):
        tall = max(1.0, _BARS * us / longest)
        highest = max(highest, tall)
        parts.append(
            f'<rect x="{left + number * wide:.1f}" y="{base - tall:.1f}" width="{wide:.1f}" height="{tall:.1f}" rx="2" '
            f'class="{kind}"/>'
        )
    last_us = times[-1][1]
    parts.append(_text(middle, base - highest - 4, f"{last_us:.0f}" if last_us >= 10 else f"{last_us:.1f}", "faint"))
    return "".join(parts)


def _title(place: Drawn) -> str:
    if place.block is None:
        return f"{place.name}: left out"
    block = place.block
    fields = {
        name: value
        for name, value in block.model_dump().items()
        if value is not None and name not in ("in_channels", "out_channels", "resolution", "stride")
    }
    lines = [
        f"{place.name}: {block.kind.replace('_', ' ')}",
        f"{block.in_channels} channels at {block.resolution} pixels to {block.out_channels} at {block.out_resolution}",
        ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in fields.items()),
        f"{block.macs / 1e6:.2f} M MACs, {block.params:,} parameters",
    ]
    if place.predicted_us is not None:
        lines.append(f"predicted {place.predicted_us:.1f} us")
    if place.measured_us is not None:
        lines.append(f"measured {place.measured_us:.1f} us")
    if place.largest is not None:
        lines.append(
            f"the space goes up to {_channels(place.largest)} channels at {place.largest.out_resolution} pixels"
        )
    return "\n".join(lines)
