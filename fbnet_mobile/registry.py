"""Named things that can be added from outside: blocks, formats, device transports, costs, losses, strategies, ..."""

import difflib
import importlib
import importlib.metadata
from collections.abc import Collection, Iterator
from functools import cache
from typing import Generic, TypeVar

from fbnet_mobile.errors import UserError, shown

Entry = TypeVar("Entry")

PLUGINS = "fbnet_mobile.plugins"
"""The group of entry points whose modules register what an installed package adds."""


def unknown(what: str, name: str, known: Collection[str], choose: str = "") -> str:
    """One line for a name that is not known, with the nearest known one, whatever its case, and the whole list.

    Args:
        what: what it should be the name of, in the singular.
        name: as it was given.
        known: all names that there are.
        choose: what to do, instead of the list, where that is too long.

    >>> unknown("format", "TFLit", ["onnx", "tflite"])
    "unknown format 'TFLit'; did you mean 'tflite'? choose one of onnx, tflite"
    """
    hint = nearest(name, known) or ";"
    return f"unknown {what} '{shown(name, 40)}'{hint} {choose or 'choose one of ' + ', '.join(known)}"


def nearest(name: str, known: Collection[str]) -> str:
    """The nearest known name, whatever its case, as the second half of a sentence; empty if none is near.

    >>> nearest("epoch", ["epochs", "seed"])
    "; did you mean 'epochs'?"
    """
    plain = {_plain(each): each for each in known}
    near = difflib.get_close_matches(_plain(name[:80]), plain, n=1)
    return f"; did you mean {plain[near[0]]!r}?" if near else ""


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


@cache
def load_plugins() -> None:
    """Import the module of each entry point in the group ``fbnet_mobile.plugins``, once.

    Raises:
        UserError: one cannot be imported; names the package that brought it.
    """
    for entry_point in importlib.metadata.entry_points(group=PLUGINS):
        try:
            entry_point.load()
        except Exception as error:  # whatever a plugin's import raises
            package = entry_point.dist.name if entry_point.dist is not None else entry_point.value
            raise UserError(
                f"the plugin {entry_point.name!r} of {package} cannot be imported ({type(error).__name__}: {error}); "
                "mend or uninstall it"
            ) from error


class Registry(Generic[Entry]):
    """Entries by name; a package adds its own by ``add`` in a module named as an entry point (``PLUGINS``).

    Args:
        what: what an entry is, in the singular, for messages.
        ours: the module that registers what the product itself brings, imported when a name is first asked for.
    """

    def __init__(self, what: str, ours: str = "") -> None:
        self.what = what
        self.ours = ours
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, entry: Entry) -> Entry:
        """Register ``entry`` and return it.

        Raises:
            UserError: the name is taken by another entry.
        """
        if self._entries.setdefault(name, entry) is not entry:
            raise UserError(f"there is a {self.what} {name!r} already; choose another name")
        return entry

    def get(self, name: str) -> Entry:
        """The entry of a name, of an installed package's if it is none of ours.

        Raises:
            UserError: there is none; lists the names that there are.
        """
        if name not in self._entries:
            self._load()
        if name not in self._entries:
            raise UserError(unknown(self.what, name, self.names()))
        return self._entries[name]

    def names(self) -> tuple[str, ...]:
        """Every name, those of installed packages included, in the order they were registered."""
        self._load()
        return tuple(self._entries)

    def _load(self) -> None:
        if self.ours:
            importlib.import_module(self.ours)
        load_plugins()

    def values(self) -> tuple[Entry, ...]:
        """Every entry, in the order of :meth:`names`."""
        return tuple(self._entries[name] for name in self.names())

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self.names()
