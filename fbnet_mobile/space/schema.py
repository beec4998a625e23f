"""The parts of a space's YAML file, each number within bounds and each name known."""

import math
from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator

from fbnet_mobile.arch import BLOCKS
from fbnet_mobile.arch.fields import (
    STRICT,
    Activation,
    Count,
    Flag,
    KernelSize,
    Name,
    NormEps,
    Padding,
    Resolution,
    Stride,
    named_fields,
    printable,
)
from fbnet_mobile.documents import validated
from fbnet_mobile.registry import unknown
from fbnet_mobile.space.positions import CANDIDATE, Option

MAX_OPTIONS = 1000
MAX_DEPTH = 100
MAX_STAGES = 100
MAX_CANDIDATES = 100
_LARGEST = 1e9
_KIND = "inverted_residual"


def _options(value: Any) -> Any:
    """A single value, a list, or ``{low, high, step}`` (both ends included) as a tuple of options."""
    if isinstance(value, Mapping):
        value = _range(value)
    options = tuple(value) if isinstance(value, list | tuple) else (value,)
    if len(options) > MAX_OPTIONS:
        raise ValueError(f"{len(options)} options; at most {MAX_OPTIONS} are allowed")
    return options


def _range(value: Mapping[Any, Any]) -> tuple[float, ...]:
    if set(value) != {"low", "high", "step"}:
        shown = ", ".join(str(name)[:40] for name in list(value)[:4]) or "none of them"
        raise ValueError(f"a range needs exactly low, high and step, not {shown}")
    low, high, step = value["low"], value["high"], value["step"]
    for name, number in value.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= _LARGEST:
            raise ValueError(f"{name} must be a number of at most {_LARGEST:.0e}")
    if step <= 0 or high < low:
        raise ValueError(f"range from {low} to {high} in steps of {step} is empty; check low, high and step")
    if high - low > step * MAX_OPTIONS:
        raise ValueError(f"range from {low} to {high} in steps of {step} has more than {MAX_OPTIONS} options")
    count = math.floor((high - low) / step + 1e-9) + 1
    if abs(low + (count - 1) * step - high) > 1e-9:
        raise ValueError(f"steps of {step} from {low} do not reach {high}")
    return tuple(round(low + number * step, 6) for number in range(count))


def _distinct(options: tuple[Any, ...]) -> tuple[Any, ...]:
    if not options or len(set(options)) != len(options):
        raise ValueError("options must be distinct, and at least one")
    return options


Widths = Annotated[tuple[Count, ...], BeforeValidator(_options), AfterValidator(_distinct)]
Resolutions = Annotated[tuple[Resolution, ...], BeforeValidator(_options), AfterValidator(_distinct)]


def _option(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise ValueError(f"an option is a number of at most {_LARGEST:.0e}, text, true or false")
    return value


_Option = Annotated[Option, BeforeValidator(_option)]
Options = Annotated[tuple[_Option, ...], BeforeValidator(_options), AfterValidator(_distinct)]


class Part(BaseModel):
    """A part of a space."""

    model_config = STRICT


class Stem(Part):
    """The first convolution, which is not searched except for its width."""

    out_channels: Widths
    kernel_size: KernelSize = 3
    stride: Stride = 2
    activation: Activation = "hswish"
    padding: Padding = None
    batch_norm_eps: NormEps = None


class HeadChoices(Part):
    """The last convolution, if there is one, and classifier; widths before and after the pool may be choices."""

    conv_channels: Widths | None
    hidden_channels: Widths | None = None
    activation: Activation = "hswish"
    hidden_bias: Flag = None
    hidden_norm: Flag = None
    batch_norm_eps: NormEps = None


def _gather_choices(data: Any, fields: Collection[str]) -> Any:
    """Move what a kind of block has choices for (``Block.choices``) from among ``fields`` into ``choices``."""
    if not isinstance(data, Mapping):
        return data
    named_fields(data)
    kind = data.get("block", _KIND)
    if not isinstance(kind, str):
        raise ValueError("block: the name of a kind of block is text")
    block = BLOCKS.get(kind)
    if block.ends_network:
        raise ValueError(f"block: {kind!r} ends a network; it cannot stand within one")
    own = {name: value for name, value in data.items() if name in fields and name != "choices"}
    chosen = {name: value for name, value in data.items() if name not in fields}
    if isinstance(data.get("choices"), Mapping):  # as a space writes itself
        chosen |= named_fields(data["choices"])
    known = (*block.choices, *block.optional_choices)
    for name in chosen:
        if name not in known:
            raise ValueError(unknown("field", name, (*known, *(field for field in fields if field != "choices"))))
    for name in block.choices:
        if name not in chosen:
            raise ValueError(f"no {name!r} for its blocks")
    return {**own, "choices": {name: chosen[name] for name in known if name in chosen}}


class Candidate(Part):
    """A block of which nothing is left to choose but its widths: its kind, and a value for each of its choices."""

    block: str = _KIND
    choices: dict[str, _Option]

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        return _gather_choices(data, cls.model_fields)


class Stage(Part):
    """``depth`` blocks; all have the same output channels, which are chosen once.

    The first block has the stride and takes the width of the stage before. What else can be chosen in a block depends
    on its kind (``Block.choices``); each block of the stage chooses for itself. Instead, ``candidates`` may name whole
    blocks to choose from, of any kinds, for choices that depend on one another. With ``skip`` every block may be left
    out that could be an identity: all but the first, and the first too if the stage neither strides nor changes the
    width, and has but one.
    """

    block: str = _KIND
    out_channels: Widths
    depth: Annotated[int, Field(ge=1, le=MAX_DEPTH)] = 1
    stride: Stride = 1
    skip: bool = False
    choices: dict[str, Options]
    candidates: dict[Name, Candidate] = Field({}, max_length=MAX_CANDIDATES)

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("candidates"), Mapping) or not data["candidates"]:
            return _gather_choices(data, cls.model_fields)
        names = named_fields(data["candidates"], "candidate")
        choices = {CANDIDATE: list(names)}
        # A space that writes itself has them too.
        if data.get("choices", choices) not in (choices, {CANDIDATE: tuple(names)}):
            raise ValueError("choices: there are none besides the candidates")
        candidates = {name: validated(Candidate, names[name], f"candidate {name}") for name in names}
        return {**data, "choices": choices, "candidates": candidates}


_PLACE = ("in_channels", "out_channels", "resolution", "stride")


class ChosenBlock(Part):
    """A block as an architecture's file has it, in which any field may have several values to choose from.

    Without ``out_channels`` it has the width of the block before, whatever that is chosen to be, as blocks have that
    are joined by a residual. 0 says that there is nothing of a field: ``se_channels: [16, 0]``. With ``skip`` it may be
    left out.
    """

    kind: str
    out_channels: Widths | None = None
    stride: Stride = 1
    skip: bool = False
    fields: dict[str, Options]

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        named_fields(data)
        kind = data.get("kind")
        if not isinstance(kind, str):
            raise ValueError("kind: a block needs the name of its kind")
        block = BLOCKS.get(kind)
        known = [name for name in block.model_fields if name not in _PLACE]
        own = {name: value for name, value in data.items() if name in cls.model_fields and name != "fields"}
        chosen = {name: value for name, value in data.items() if name not in cls.model_fields}
        if isinstance(data.get("fields"), Mapping):  # as a space writes itself
            chosen |= named_fields(data["fields"])
        for name in chosen:
            if name not in known:
                raise ValueError(unknown("field", name, (*known, "out_channels", "stride", "skip")))
        for name in known:
            if block.model_fields[name].is_required() and name not in chosen:
                raise ValueError(f"no {name!r} for its blocks")
        if block.ends_network and (data.get("out_channels") is not None or data.get("skip")):
            raise ValueError(
                "the last block has as many outputs as there are classes; leave out its out_channels and skip"
            )
        if data.get("skip") and data.get("out_channels") is not None:
            raise ValueError(
                "skip: a block that may be left out has the width of the block before; leave out its out_channels"
            )
        if data.get("skip") and data.get("stride", 1) != 1:
            raise ValueError("skip: a block that may be left out has a stride of 1")
        return {**own, "fields": chosen}
