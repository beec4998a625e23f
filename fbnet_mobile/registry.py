"""Named things that can be added from outside: blocks, formats, device transports, costs, losses, strategies, ..."""

import difflib
import importlib.metadata
from collections.abc import Collection, Iterator
from functools import cache
from typing import Generic, TypeVar

from fbnet_mobile.errors import UserError

Entry = TypeVar("Entry")

PLUGINS = "fbnet_mobile.plugins"
"""The group of entry points whose modules register what an installed package adds."""


def unknown(what: str, name: str, known: Collection[str]) -> str:
    """One line for a name that is not known, with the nearest known one and the whole list.

    >>> unknown("format", "tflit", ["onnx", "tflite"])
    "unknown format 'tflit'; did you mean 'tflite'? choose one of onnx, tflite"
    """
    shown = name if len(name) <= 40 else name[:37] + "..."
    near = difflib.get_close_matches(name[:80], known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {what} {shown!r}; {hint}choose one of {', '.join(known)}"


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
    """

    def __init__(self, what: str) -> None:
        self.what = what
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
            load_plugins()
        if name not in self._entries:
            raise UserError(unknown(self.what, name, self.names()))
        return self._entries[name]

    def names(self) -> tuple[str, ...]:
        """Every name, those of installed packages included, in the order they were registered."""
        load_plugins()
        return tuple(self._entries)

    def values(self) -> tuple[Entry, ...]:
        """Every entry, in the order of :meth:`names`."""
        return tuple(self._entries[name] for name in self.names())

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self.names()
