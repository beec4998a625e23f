"""Recipes: how something is done, as frozen dataclasses of plain values, whose fields are a command's options too."""

import math
import types
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fbnet_mobile.errors import UserError
from fbnet_mobile.registry import unknown

SEEDS = 2**32 - 1
"""The largest seed that every generator takes."""


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
        parse: turns the text of a command line or a file into the value; UserError for a text that is none.
        again: whether a run that is repeated from ``args.yaml`` is asked for it too.
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
    parse: Any = None
    again: bool = True


def option(default: Any = MISSING, **known: Any) -> Any:
    """A field of a recipe with what an option is made from; without a default it is required.

    >>> @dataclass(frozen=True, kw_only=True)
    ... class Recipe:
    ...     epochs: int = option(90, help="Passes over the images.", group="Training", low=1)

    Args:
        default: of the field, the only place where it stands.
        known: the attributes of ``Option``.
    """
    return field(default=default, metadata={"option": Option(**known)})


@dataclass(frozen=True)
class RecipeField:
    """A field of a recipe, resolved.

    Attributes:
        name: of the field.
        kind: the type of one value: int, float, bool, str or Path.
        many: whether it holds a tuple of any length of them.
        optional: whether it may be None.
        default: its value where none is given; MISSING if it is required.
        option: the rest.
    """

    name: str
    kind: type
    many: bool
    optional: bool
    default: Any
    option: Option


def recipe_fields(recipe: type) -> Iterator[RecipeField]:
    """The fields of a recipe, and of the recipes that it is composed of, in their order."""
    hints = get_type_hints(recipe)
    for each in fields(recipe):
        hint, optional, many = hints[each.name], False, False
        if is_dataclass(hint):
            assert isinstance(hint, type)
            yield from recipe_fields(hint)
            continue
        if get_origin(hint) in (Union, types.UnionType):
            optional = True
            (hint,) = (part for part in get_args(hint) if part is not type(None))
        if get_origin(hint) is tuple:
            many, hint = True, get_args(hint)[0]
        found: Option = each.metadata["option"]
        if get_origin(hint) is Literal:
            found = Option(**{**vars(found), "choices": get_args(hint)})
            hint = str
        yield RecipeField(each.name, hint, many, optional, each.default, found)


def check(recipe: Any) -> None:
    """Refuse a recipe with a value of the wrong type, out of bounds or not finite, or with an unknown choice.

    Raises:
        UserError: names the first such field and what it may be.
    """
    for item in recipe_fields(type(recipe)):
        if not hasattr(recipe, item.name):  # of a recipe within, which has checked itself
            continue
        value = getattr(recipe, item.name)
        if value is None and item.optional:
            continue
        for each in value if item.many and isinstance(value, tuple) else (value,):
            _check_value(item, each)


def _check_value(item: RecipeField, value: Any) -> None:
    if item.kind in (int, float):
        number = isinstance(value, int if item.kind is int else int | float) and not isinstance(value, bool)
        if not (number and _within(item.option, value)):
            wanted = "whole number" if item.kind is int else "finite number"
            raise UserError(f"{item.name} is {shorten(value)}; give a {wanted}{span(item.option)}")
    elif not isinstance(value, item.kind):
        wanted = {bool: "true or false", str: "a text", Path: "a path"}[item.kind]
        raise UserError(f"{item.name} is {shorten(value)}; give {wanted}")
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


def shorten(value: object, most: int = 40) -> str:
    """A value of the user's as a message shows it: on one line and not longer than ``most`` characters."""
    try:
        text = value if isinstance(value, str) and value.isprintable() else repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= most else text[: most - 3] + "..."
