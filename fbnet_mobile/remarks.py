"""What is said on stderr while work is done, unless it is to be quiet; stdout is for results."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_quiet = False


def say(line: str) -> None:
    """Write one line for people."""
    if not _quiet:
        print(line, file=sys.stderr, flush=True)  # noqa: T201


def on_terminal() -> bool:
    """Whether to draw what moves: somebody sees it, and did not ask for quiet."""
    return not _quiet and sys.stderr.isatty()


@contextmanager
def quiet() -> Iterator[None]:
    """Say and draw nothing meanwhile; errors are raised as always."""
    global _quiet
    before, _quiet = _quiet, True
    try:
        yield
    finally:
        _quiet = before
