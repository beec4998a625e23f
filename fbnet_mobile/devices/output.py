"""What a program prints, line by line as it comes, and bounded, whatever it prints."""

import collections
import os
import select
import subprocess
import threading
from collections.abc import Iterator

LINE_BYTES = 1 << 20
"""A line is cut at this length."""

OUTPUT_BYTES = 1 << 28
"""More than this, in a single run, is no output of ours any more."""

_LAST_BYTES = 1 << 14


class SilentError(Exception):
    """Nothing came for as long as was allowed."""


class EndlessError(Exception):
    """More came than ``OUTPUT_BYTES``."""


class LastWords(threading.Thread):
    """Reads a program's stderr while it runs, so that it never waits for us, and keeps the end of it.

    Args:
        process: started with ``stderr=PIPE``.
    """

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        super().__init__(daemon=True)
        assert process.stderr is not None
        self._stream = process.stderr
        self._chunks: collections.deque[bytes] = collections.deque()
        self.start()

    def run(self) -> None:
        """Until the stream ends."""
        kept = 0
        with self._stream:
            while data := os.read(self._stream.fileno(), _LAST_BYTES):
                self._chunks.append(data)
                kept += len(data)
                while kept - len(self._chunks[0]) >= _LAST_BYTES:
                    kept -= len(self._chunks.popleft())

    def lines(self) -> list[str]:
        """The last lines that are not empty, after the program has ended."""
        self.join(timeout=1)  # ssh's shared connection, which stays, may hold the stream open
        text = b"".join(list(self._chunks)).decode(errors="replace")
        return [line.strip() for line in text.splitlines() if line.strip()]


def read_lines(process: "subprocess.Popen[bytes]", silence_s: float | None = None) -> Iterator[str]:
    """Lines of a program's stdout, without their ends, as they come.

    Args:
        process: started with ``stdout=PIPE``.
        silence_s: how long it may say nothing; None for any time.

    Raises:
        SilentError: nothing came for ``silence_s``.
        EndlessError: it printed more than ``OUTPUT_BYTES``.
    """
    assert process.stdout is not None
    rest, total = b"", 0
    while True:
        if not select.select([process.stdout], [], [], silence_s)[0]:
            raise SilentError
        data = os.read(process.stdout.fileno(), 1 << 16)
        if not data:
            break
        total += len(data)
        if total > OUTPUT_BYTES:
            raise EndlessError
        *lines, rest = (rest + data).split(b"\n")
        yield from map(_text, lines)
        rest = rest[:LINE_BYTES]
    if rest:
        yield _text(rest)


def _text(line: bytes) -> str:
    return line[:LINE_BYTES].decode(errors="replace").rstrip("\r")
