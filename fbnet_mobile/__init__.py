"""FBNetV2's DMaskingNAS with measured latency: profile a device, search, train, export, benchmark.

    import fbnet_mobile as fm

has ``profile, plan, search, train, evaluate, export, benchmark, report, load_space, load_network, LatencyTable``, which
load what they need when they are first used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

TYPE_CHECKING = False  # typing's takes as long to load as all else here, in which Ctrl-C is a traceback
if TYPE_CHECKING:
    from typing import Any

_FACADE = {
    "profile": "fbnet_mobile.api.profile",
    "plan": "fbnet_mobile.api.search",
    "search": "fbnet_mobile.api.search",
    "train": "fbnet_mobile.api.train",
    "evaluate": "fbnet_mobile.api.evaluate",
    "export": "fbnet_mobile.api.export",
    "benchmark": "fbnet_mobile.api.benchmark",
    "report": "fbnet_mobile.api.report",
    "load_space": "fbnet_mobile.api.load",
    "load_network": "fbnet_mobile.api.load",
    "LatencyTable": "fbnet_mobile.latency.table",
}

__all__ = [
    "LatencyTable",
    "__version__",
    "benchmark",
    "evaluate",
    "export",
    "load_network",
    "load_space",
    "plan",
    "profile",
    "report",
    "search",
    "train",
]


class _CallableRoom(ModuleType):
    """A room that is a function of the facade besides: ``fm.search(...)`` beside ``fbnet_mobile.search.loop``."""

    @property
    def _function(self) -> Any:
        name = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(_FACADE[name]), name)

    @property
    def __signature__(self) -> Any:
        import inspect

        return inspect.signature(self._function)

    def __call__(self, **options: Any) -> Any:
        return self._function(**options)


def make_callable(room: str) -> None:
    """Let the module of a room be called, as the function of the facade that has its name."""
    sys.modules[room].__class__ = _CallableRoom


def __getattr__(name: str) -> Any:
    if name == "__version__":
        found: Any = _version()
    elif name in ("report", "search", "train"):
        found = importlib.import_module(f"{__name__}.{name}")
    elif name in _FACADE:
        found = getattr(importlib.import_module(_FACADE[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("fbnet-mobile")
    except PackageNotFoundError:  # imported from a source tree that was never installed
        return "unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
