"""Completion by the Tab key, as click has it: the shell asks the command itself, which answers without torch."""

import contextlib
import os
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class, shell_complete

from fbnet_mobile.errors import FbnetError
from fbnet_mobile.recipe import RecipeField

COMMANDS = ("fbnet-profile", "fbnet-search", "fbnet-train", "fbnet-export", "fbnet-benchmark", "fbnet-report")


def script(shell: str) -> str:
    """What makes a shell complete the options and values of all commands."""
    made = get_completion_class(shell)
    assert made is not None
    return "\n".join(made(click.Command(name), {}, name, _variable(name)).source() for name in COMMANDS)


def asked(command: click.Command, name: str) -> int | None:
    """Answer a shell that asks for completions, and give the exit code; None if it does not ask."""
    question = os.environ.get(_variable(name))
    return shell_complete(command, {}, name, _variable(name), question) if question else None


def _variable(command: str) -> str:
    """By which a shell asks a command."""
    return f"_{command.replace('-', '_').upper()}_COMPLETE"


def completer(item: RecipeField) -> "Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]":
    """What may follow: the names that begin so, or else a file where the value may be one."""
    return partial(_follow, item)


def _follow(
    item: RecipeField, ctx: click.Context, param: click.Parameter, incomplete: str
) -> "list[CompletionItem[str]]":
    given, comma, last = incomplete.rpartition(",") if item.option.commas else ("", "", incomplete)
    names: Collection[str] = item.option.choices
    with contextlib.suppress(FbnetError):  # a plugin, or devices.yaml, that a command would complain of
        names = names or (_KNOWN[item.option.known]() if item.option.known else ())
    found = [CompletionItem(f"{given}{comma}{name}") for name in names if name.startswith(last)]
    may_be_file = item.kind is Path or item.option.known != ""
    return found or ([CompletionItem(incomplete, type="file")] if may_be_file else [])


def _spaces() -> Collection[str]:
    from fbnet_mobile.space import packaged_spaces

    return packaged_spaces()


def _networks() -> Collection[str]:
    from fbnet_mobile.zoo import zoo_names

    return zoo_names()


def _recipes() -> Collection[str]:
    from fbnet_mobile.train.recipe import RECIPES

    return RECIPES


def _devices() -> Collection[str]:
    from fbnet_mobile.devices import TRANSPORTS
    from fbnet_mobile.devices.base import named_devices

    return sorted({*TRANSPORTS, *named_devices()})


def _formats() -> Collection[str]:
    from fbnet_mobile.formats.base import FORMATS

    return FORMATS.names()


def _runtimes() -> Collection[str]:
    from fbnet_mobile.formats.base import all_runtimes

    return tuple(all_runtimes())


def _precisions() -> Collection[str]:
    from fbnet_mobile.formats.base import FORMATS

    return tuple(dict.fromkeys(precision for entry in FORMATS.values() for precision in entry.precisions))


_KNOWN: Mapping[str, Callable[[], Collection[str]]] = {
    "space": _spaces,
    "network": _networks,
    "recipe": _recipes,
    "device": _devices,
    "format": _formats,
    "runtime": _runtimes,
    "precision": _precisions,
    "data": lambda: ("digits",),
}
"""The names that there are, by the word for them in ``option(known=...)``."""
