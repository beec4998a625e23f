"""What lowers one of torch's functions, and the registry of all that do."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from fbnet_mobile.graph.operations import Shape


@dataclass(frozen=True)
class Value:
    """A tensor that depends on the input: the name of the node that makes it, and its shape."""

    name: str
    shape: Shape


@dataclass(frozen=True)
class Grouped:
    """A feature map viewed as (1, groups, channels / groups, height, width), perhaps with the two swapped."""

    value: Value
    groups: int
    swapped: bool = False


@dataclass(frozen=True)
class Rule:
    """How a function is lowered.

    Attributes:
        lower: see :func:`lowers`.
        signature: of ``lower``.
        grouped: whether it takes a :class:`Grouped`.
    """

    lower: Callable[..., Any]
    signature: inspect.Signature
    grouped: bool


RULES: dict[Any, Rule] = {}
"""By function or tensor method, as torch calls them."""

Lower = TypeVar("Lower", bound=Callable[..., Any])


def lowers(*functions: Any, grouped: bool = False) -> Callable[[Lower], Lower]:
    """Register a rule for functions and tensor methods.

    A rule takes the watch and then the arguments of what it lowers, with the same names, in which tensors that depend
    on the network's input are a :class:`Value` or :class:`Grouped`. It returns one of these for each tensor that the
    call returned. What it calls of torch itself is not watched. ``grouped``: whether it takes a :class:`Grouped`.

    Raises:
        ValueError: one of the functions has a rule already.
    """

    def register(lower: Lower) -> Lower:
        for function in functions:
            if function in RULES:
                raise ValueError(f"{function} is lowered twice")
            RULES[function] = Rule(lower, inspect.signature(lower), grouped)
        return lower

    return register


def pair(value: Any) -> tuple[int, int]:
    """One number for height and width, or one for each."""
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def around(padding: Any) -> tuple[int, int, int, int]:
    """The same on both sides: (top, left, bottom, right)."""
    height, width = pair(padding)
    return height, width, height, width
