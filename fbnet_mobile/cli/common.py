"""What the five commands share: error lines, progress, units."""

import functools
import os
import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import typer

from fbnet_mobile.errors import FbnetError, UserError, advice


def run(command: Callable[..., None], example: str) -> None:
    """Run one command function as a program: options from its signature, one line and an exit code for an error."""

    @functools.wraps(command)
    def reporting(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except FbnetError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt as error:
            print(f"interrupted{advice(error)}", file=sys.stderr)
            raise typer.Exit(130) from None
        except BrokenPipeError:  # the reader of our output went away, as `| head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None

    # OpenMP's threads spin while they wait for one another, which beside another busy program slows a training step
    # several times over. Read when torch is loaded, hence set here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(epilog=f"Example: {example}", context_settings={"help_option_names": ["-h", "--help"]})(reporting)
    try:
        code = app(standalone_mode=False)
    except Exception as error:
        # What typer raises for an option that is missing, misspelt or out of range; its class is not public.
        if not hasattr(error, "format_message"):
            raise
        print(f"error: {error.format_message().rstrip('.')}; see --help", file=sys.stderr)
        code = 2
    sys.exit(code)


def parse_latency_us(text: str) -> float:
    """Microseconds from text such as ``12ms``, ``350us`` or ``0.1s``.

    Raises:
        UserError: no number with one of these units.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s)\s*", text)
    if match is None or float(match[1]) == 0:
        raise UserError(f"{text!r} is not a latency; write a number with its unit, such as 12ms or 350us")
    return float(match[1]) * {"us": 1.0, "ms": 1e3, "s": 1e6}[match[2]]


def parse_count(text: str) -> float:
    """A number from text such as ``1.5M``, ``300k`` or ``20000``.

    Raises:
        UserError: no positive number with one of these ends.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMG]?)\s*", text)
    if match is None or float(match[1]) == 0:
        raise UserError(f"{text!r} is not a count; write a number such as 1.5M or 300k")
    return float(match[1]) * {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}[match[2]]


def parse_seconds(text: str) -> float:
    """Seconds from text such as ``90s``, ``3m`` or ``1h``.

    Raises:
        UserError: no number with one of these units.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|h)\s*", text)
    if match is None:
        raise UserError(f"{text!r} is not a length of time; write a number with its unit, such as 90s or 3m")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def format_latency(latency_us: float) -> str:
    """A latency for people: milliseconds from 1 ms up, microseconds below."""
    return f"{latency_us / 1e3:.3f} ms" if latency_us >= 1e3 else f"{latency_us:.1f} us"


def progress_steps() -> AbstractContextManager[Callable[[str, int, int], None]]:
    """See ``engine.progress``, whose library is not loaded for ``--help``."""
    from fbnet_mobile.engine.progress import progress_steps as steps

    return steps()
