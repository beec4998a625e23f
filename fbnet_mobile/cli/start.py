"""Where the six commands begin and end, so that Ctrl-C ends them without a traceback at any moment."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module

TYPE_CHECKING = False  # until the first command is called, Ctrl-C is Python's: nothing here that takes time to load
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn


def profile() -> NoReturn:
    """fbnet-profile."""
    _start("profile")


def search() -> NoReturn:
    """fbnet-search."""
    _start("search")


def train() -> NoReturn:
    """fbnet-train."""
    _start("train")


def export() -> NoReturn:
    """fbnet-export."""
    _start("export")


def benchmark() -> NoReturn:
    """fbnet-benchmark."""
    _start("benchmark")


def report() -> NoReturn:
    """fbnet-report."""
    _start("report")


def _start(name: str) -> NoReturn:
    """Load a command and run it. Whoever has Ctrl-C ignored, as ``nohup`` does, is not overruled."""
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeded:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        import_module(f"fbnet_mobile.cli.{name}").main()
    except KeyboardInterrupt:  # just before or behind what the command itself catches
        sys.exit(130)
    finally:
        if heeded:  # Python's own end would make a traceback of it, and there is nothing left to tidy up
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(0)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End at once within an import, where what is raised may be caught, or printed and lost; raise it elsewhere."""
    within = frame
    while within is not None:
        if within.f_code.co_filename.startswith("<frozen importlib."):
            os.write(2, b"interrupted\n")
            os._exit(130)
        within = within.f_back
    signal.default_int_handler(number, frame)
