"""The positions of a space of a stem, stages and a head."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import BaseModel

from fbnet_mobile.arch import BLOCKS
from fbnet_mobile.space.positions import RESOLUTION, Option, Position

if TYPE_CHECKING:
    from fbnet_mobile.space.space import SearchSpace

IMAGE_CHANNELS = 3


def stage_positions(space: "SearchSpace") -> Iterator[Position]:
    """The places in the chain, stem first and head last."""
    stem, head = space.stem, space.head
    assert stem is not None
    assert head is not None
    resolution: dict[str, tuple[Option, ...]] = {RESOLUTION: space.resolution}
    entering: dict[str, tuple[Option, ...]] = {"stem.out_channels": stem.out_channels}
    yield Position(
        name="stem",
        kind=BLOCKS.get("conv"),
        stride=stem.stride,
        downsampling=1,
        variables={**resolution, **entering},
        in_channels=IMAGE_CHANNELS,
        out_channels="stem.out_channels",
        fixed=_said(stem, "kernel_size", "activation", "padding", "batch_norm_eps"),
    )
    downsampling = stem.stride
    for number, stage in enumerate(space.stages, start=1):
        out = f"stage{number}.out_channels"
        for block in range(1, stage.depth + 1):
            prefix, stride = f"stage{number}.block{block}", stage.stride if block == 1 else 1
            leaving: dict[str, tuple[Option, ...]] = {out: stage.out_channels}
            # A first block may be left out only if its output has its input's shape in every network.
            keeps = stride == 1 and (
                block > 1 or (len(stage.out_channels) == 1 and [*entering.values()] == [*leaving.values()])
            )
            skip = f"{prefix}.skip" if stage.skip and (block > 1 or keeps) else None
            own = {choice: f"{prefix}.{choice}" for choice in stage.choices}
            options = {own[choice]: values for choice, values in stage.choices.items()}
            skips: dict[str, tuple[Option, ...]] = {skip: (False, True)} if skip is not None else {}
            (width,) = entering
            position = Position(
                name=prefix,
                kind=BLOCKS.get(stage.block),
                stride=stride,
                downsampling=downsampling,
                variables={**resolution, **entering, **leaving, **options, **skips},
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
                    variables={**resolution, **entering, **leaving, **values, **skips},
                    own=own,
                )
            yield replace(position, candidates=candidates)
            entering, downsampling = leaving, downsampling * stride
    choices = {"conv_channels": head.conv_channels, "hidden_channels": head.hidden_channels}
    present = {f"head.{choice}": options for choice, options in choices.items() if options is not None}
    (width,) = entering
    yield Position(
        name="head",
        kind=BLOCKS.get("head"),
        stride=1,
        downsampling=downsampling,
        variables={**resolution, **entering, **present},
        in_channels=width,
        out_channels=space.classes,
        own={name.removeprefix("head."): name for name in present},
        fixed=_said(head, "activation", "hidden_bias", "hidden_norm", "batch_norm_eps"),
    )


def _said(part: BaseModel, *names: str) -> dict[str, Option]:
    """The fields of a part of a space that it says anything of."""
    return {name: value for name in names if (value := getattr(part, name)) is not None}
