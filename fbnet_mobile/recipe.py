"""Recipes: how something is done, as frozen dataclasses of plain values, whose fields are a command's options too.

A field is declared once, with ``option``: its default, help and bounds are written nowhere else. A recipe may be
composed of others; its fields and theirs share one namespace, in which a command line, a YAML file and a call name
them.
"""

import math
import os
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.registry import nearest, unknown

SEEDS = 2**32 - 1
"""The largest seed that every generator takes."""

Recipe = TypeVar("Recipe")


@dataclass(frozen=True)
class Option:
    """What is known of a field besides its name, type and default.

    Attributes:
        help: one sentence for ``--help``.
        group: heading that it stands under there.
        low: the least that a number may be.
        high: the most that a number may be.
        above: what a number must exceed.
        below: what a number must stay under.
        choices: what a text may be; a field declared as a ``Literal`` has its values.
        names: on the command line, such as ``("--output", "-o")``; empty for ``--field-name``.
        shown: what ``--help`` says of the default where its value would not say it, such as "all".
        metavar: what stands for the value in ``--help``.
        argument: whether it is written without a name, after the options.
        known: what a text may be the name of, or else a path, for completion: a word of ``cli/completion.py``.
        commas: whether several values are written as one word with commas, not as the option again.
        given: other defaults, by the name of an option of the command: where that is given, this is the default.
        each: for a field that is a mapping of texts: gives the options that it is made of, by key.
    """

    help: str
    group: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    shown: str = ""
    metavar: str = ""
    argument: bool = False
    known: str = ""
    commas: bool = False
    given: Mapping[str, Any] = field(default_factory=dict)
    each: Callable[[], Mapping[str, "Option"]] | None = None


def option(default: Any = MISSING, **known: Any) -> Any:
    """A field of a recipe with what an option is made from; without a default it is required.

    >>> @dataclass(frozen=True, kw_only=True)
    ... class Recipe:
    ...     epochs: int = option(90, help="Passes over the images.", group="Training", low=1)

    Args:
        default: of the field, the only place where it stands.
        known: the attributes of ``Option``.
    """
    metadata = {"option": Option(**known)}
    if default == {}:
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


def keep_option(*, group: str) -> Any:
    """The option of what stays in float32; see :func:`keep_asked`."""
    return option(
        "auto",
        group=group,
        help="int8: layers that stay in float32: auto (the fewest that are needed, if any), none, or names of layers "
        "or modules, with commas.",
    )


def keep_asked(int8_keep: str) -> dict[str, Any]:
    """What is asked of a format by that option."""
    if int8_keep == "auto":
        return {}
    return {"keep": () if int8_keep == "none" else tuple(int8_keep.split(","))}


def output_option(default: Any = MISSING, **known: Any) -> Any:
    """The field for what is written, which has the same name in all commands; see ``option``."""
    return option(default, names=("--output", "-o"), **known)


@dataclass(frozen=True)
class RecipeField:
    """A field of a recipe, resolved.

    Attributes:
        name: in the namespace of all fields.
        kind: the type of one value: int, float, bool, str or Path.
        count: how many values it holds in a tuple: 0 for any number; None if it is one value and no tuple.
        optional: whether it may be None.
        default: its value where none is given; MISSING if it is required.
        option: the rest.
    """

    name: str
    kind: type
    count: int | None
    optional: bool
    default: Any
    option: Option

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is MISSING


def recipe_fields(recipe: type) -> Iterator[RecipeField]:
    """The fields of a recipe, and of the recipes that it is composed of, in their order."""
    hints = get_type_hints(recipe)
    for each in fields(recipe):
        hint = hints[each.name]
        if is_dataclass(hint):
            assert isinstance(hint, type)
            yield from recipe_fields(hint)
            continue
        found: Option = each.metadata["option"]
        if found.each is not None:
            for name, own in found.each().items():
                yield RecipeField(name, str, None, True, None, own)
            continue
        yield _resolved(each.name, hint, each.default, found)


def _resolved(name: str, hint: Any, default: Any, found: Option) -> RecipeField:
    optional, count = False, None
    if get_origin(hint) in (Union, types.UnionType):
        optional = True
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        hint, count = parts[0], 0 if parts[-1] is Ellipsis else len(parts)
    if get_origin(hint) is Literal:
        hint, found = str, replace(found, choices=get_args(hint))
    return RecipeField(name, hint, count, optional, default, found)


def build(recipe: type[Recipe], values: Mapping[str, Any]) -> Recipe:
    """A recipe, and those within it, from some of its fields by name; the others have their defaults.

    Args:
        recipe: the dataclass.
        values: as Python, YAML or a command line has them: a path may be a text, a tuple a list or a single value.

    Raises:
        UserError: an unknown name, with the nearest one; a required field that is missing; or a value that cannot be.
    """
    known = {item.name: item for item in recipe_fields(recipe)}
    for name in values:
        if name not in known:
            raise UserError(f"unknown option '{shown(name, 40)}'{nearest(str(name), known)}")
    found = {name: _coerced(known[name], value) for name, value in values.items()}
    for name, item in known.items():
        for other, default in item.option.given.items():
            if name not in found and values.get(other) not in (None, ""):
                found[name] = default
    return _build(recipe, found)


def _build(recipe: type[Recipe], values: Mapping[str, Any]) -> Recipe:
    hints, given = get_type_hints(recipe), {}
    for each in fields(recipe):  # type: ignore[arg-type]  # a dataclass, which a type variable cannot say
        if is_dataclass(hints[each.name]):
            given[each.name] = _build(hints[each.name], values)
        elif (expanded := each.metadata["option"].each) is not None:
            given[each.name] = {name: values[name] for name in expanded() if values.get(name) is not None}
        elif each.name in values:
            given[each.name] = values[each.name]
        elif each.default is MISSING and each.default_factory is MISSING:
            raise UserError(f"{each.name} is missing; give it")
    made = recipe(**given)
    check(made)
    return made


def _coerced(item: RecipeField, value: Any) -> Any:
    if value is None:
        if not item.optional:
            raise UserError(f"{item.name} is empty; give a value or leave it out")
        return None
    if item.count is None:
        return _one(item, value)
    if item.option.commas and isinstance(value, str):
        value = value.split(",") if value else ()
    several = tuple(value) if isinstance(value, list | tuple) else (value,)
    if item.count and len(several) != item.count:
        raise UserError(f"{item.name} has {len(several)} values; give {item.count}")
    return tuple(_one(item, each) for each in several)


def _one(item: RecipeField, value: Any) -> Any:
    if item.kind is Path and isinstance(value, str | os.PathLike):
        return _path(item.name, os.fspath(value))
    if item.kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # as YAML reads "devices: 2"
    if item.kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def _path(name: str, text: str | bytes) -> Path:
    path = os.fsdecode(text)
    if not path or "\0" in path:
        raise UserError(f"{name} is {'empty' if not path else 'no path'}; give a path")
    return Path(path)


def plain(recipe: Any) -> dict[str, Any]:
    """All fields of a recipe, and of those within it, by name, as values that YAML and JSON have."""
    found: dict[str, Any] = {}
    for each in fields(recipe):
        value = getattr(recipe, each.name)
        if is_dataclass(value):
            found |= plain(value)
        elif each.metadata["option"].each is not None:
            found |= {name: value.get(name) for name in each.metadata["option"].each()}
        else:
            found[each.name] = [_plain(one) for one in value] if isinstance(value, tuple) else _plain(value)
    return found


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def check(recipe: Any) -> None:
    """Refuse a recipe with a value of the wrong type, out of bounds or not finite, or with an unknown choice.

    Raises:
        UserError: names the first such field and what it may be.
    """
    hints = get_type_hints(type(recipe))
    for each in fields(recipe):
        value = getattr(recipe, each.name)
        if is_dataclass(hints[each.name]):  # checked by itself
            continue
        expanded = each.metadata["option"].each
        if expanded is not None:
            for name, own in expanded().items():
                _check_field(RecipeField(name, str, None, True, None, own), value.get(name))
        else:
            _check_field(_resolved(each.name, hints[each.name], each.default, each.metadata["option"]), value)


def _check_field(item: RecipeField, value: Any) -> None:
    if value is None and item.optional:
        return
    for one in value if item.count is not None and isinstance(value, tuple) else (value,):
        _check_value(item, one)


def _check_value(item: RecipeField, value: Any) -> None:
    if item.kind in (int, float):
        number = isinstance(value, int if item.kind is int else int | float) and not isinstance(value, bool)
        if not (number and _within(item.option, value)):
            wanted = "whole number" if item.kind is int else "finite number"
            raise UserError(f"{item.name} is {shown(value, 40)}; give a {wanted}{span(item.option)}")
    elif not isinstance(value, item.kind):
        wanted = {bool: "true or false", str: "a text", Path: "a path"}[item.kind]
        raise UserError(f"{item.name} is {shown(value, 40)}; give {wanted}")
    elif item.option.choices and value not in item.option.choices:
        raise UserError(unknown(item.name.replace("_", " "), str(value), item.option.choices))


def _within(option: Option, value: float) -> bool:
    """Whether a number is finite and within the bounds; NaN is within none."""
    return (
        -math.inf < value < math.inf
        and (option.low is None or value >= option.low)
        and (option.high is None or value <= option.high)
        and (option.above is None or value > option.above)
        and (option.below is None or value < option.below)
    )


def span(option: Option) -> str:
    """What a number may be, in words that follow "a number"; empty if it may be any.

    >>> span(Option("", low=0, below=1))
    ' of at least 0 and below 1'
    """
    if option.low is not None and option.high is not None:
        return f" from {option.low:.10g} to {option.high:.10g}"
    words = {
        "of at least": option.low,
        "above": option.above,
        "of at most": option.high,
        "below": option.below,
    }
    given = [f"{word} {bound:.10g}" for word, bound in words.items() if bound is not None]
    return " " + " and ".join(given) if given else ""


_NETWORK = "Network"


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Which network, and with what weights."""

    checkpoint: Path | None = option(
        None,
        group=_NETWORK,
        shown="none",
        help="Checkpoint that fbnet-train wrote: its network and its weights. With --model, fbnet-export takes one of "
        "mobile_cv.",
    )
    architecture: str | None = option(
        None,
        group=_NETWORK,
        known="network",
        shown="none",
        help="Or an architecture file, such as fbnet-search wrote, or a published network's name, without weights.",
    )
    model: str | None = option(
        None,
        group=_NETWORK,
        known="network",
        shown="none",
        help="Or a network by its name: a published one (fbnet-benchmark --list-models), timm:NAME, torchvision:NAME "
        "or efficientnet_lite0.",
    )
    pretrained: bool = option(
        False,
        group=_NETWORK,
        help="With the weights that are published of --model: of timm or torchvision, downloaded, or of a package.",
    )
    weights: Path | None = option(
        None, group=_NETWORK, shown="none", help="With a file of weights that timm or torchvision saved of --model."
    )


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """Where weights are trained."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = option("auto", group="Machine", help="What computes.")
    devices: str = option("1", group="Machine", help="How many accelerators or processes, or auto.")
    mixed_precision: Literal["bf16", "fp16"] | None = option(
        None, group="Machine", shown="none", help="Compute in bfloat16 or float16 where float32 is not needed."
    )
