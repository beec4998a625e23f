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
class Rule:
    """How a function is lowered.

    Attributes:
        lower: see :func:`lowers` and :func:`composes`.
        signature: of ``lower``.
        composed: whether ``lower`` is written in torch's functions, which are lowered in turn.
    """

    lower: Callable[..., Any]
    signature: inspect.Signature
    composed: bool


RULES: dict[Any, Rule] = {}
"""By function or tensor method, as torch calls them."""

Lower = TypeVar("Lower", bound=Callable[..., Any])


def lowers(*functions: Any) -> Callable[[Lower], Lower]:
    """Register a rule for functions and tensor methods.

    A rule takes the watch and then the arguments of what it lowers, with the same names, in which tensors that depend
    on the network's input are a :class:`Value`. It returns one of these for each tensor that the call returned, or None
    if that does not depend on the values of the input. What it calls of torch itself is not watched.

    Raises:
        ValueError: one of the functions has a rule already.
    """
    return _registering(functions, composed=False)


def composes(*functions: Any) -> Callable[[Lower], Lower]:
    """Register what functions and tensor methods do, written in other functions of torch.

    It takes the watch and then the arguments of the call, returns what that returns, and is watched while it runs.

    Raises:
        ValueError: one of the functions has a rule already.
    """
    return _registering(functions, composed=True)


def _registering(functions: tuple[Any, ...], composed: bool) -> Callable[[Lower], Lower]:
    def register(lower: Lower) -> Lower:
        for function in functions:
            if function in RULES:
                raise ValueError(f"{function} is lowered twice")
            RULES[function] = Rule(lower, inspect.signature(lower), composed)
        return lower

    return register


def pair(value: Any) -> tuple[int, int]:
    """One number for height and width, or one for each."""
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def around(padding: Any) -> tuple[int, int, int, int]:
    """The same on both sides: (top, left, bottom, right)."""
    height, width = pair(padding)
    return height, width, height, width
