"""What a program may not do with an input, however odd: watched from inside the process that reads it."""

import os
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fbnet_mobile.errors import FbnetError

TIME_LIMIT_S = 20
MEMORY_LIMIT_MB = 2000

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    **dict.fromkeys(("os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.truncate", "shutil.rmtree"), (0,)),
    **dict.fromkeys(("os.link", "os.symlink"), (1,)),
    "os.rename": (0, 1),
}
"""Events that change the file system, and which of their arguments are paths."""
_RUNS = {"os.system", "os.exec", "os.spawn", "os.posix_spawn", "subprocess.Popen", "pickle.find_class"}


class MisbehavedError(AssertionError):
    """The program did what no input may make it do."""


class _Watch:
    """An audit hook cannot be removed, so there is one, and it looks only while an input is being read."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.installed = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in _RUNS:
            raise MisbehavedError(f"ran something: {event} {arguments!r:.300}")
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES:
            self._inside(event, arguments[0])
        for place in _CHANGES.get(event, ()):
            self._inside(event, arguments[place])

    def _inside(self, event: str, path: Any) -> None:
        if not isinstance(path, str | bytes) or self.folder is None:
            return
        # Not Path.resolve, which would itself open things while the hook looks.
        whole = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        allowed = (self.folder, "/dev/null", "/proc/self", "/dev/shm")
        if not whole.startswith(allowed):
            raise MisbehavedError(f"wrote outside its folder: {event} {whole}")


_WATCH = _Watch()


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Run a block that reads an odd input; an ``FbnetError`` of one short line is the right answer to it.

    Args:
        folder: where alone it may write; temporary files go there too.

    Raises:
        MisbehavedError: it wrote elsewhere, started a program, unpickled, took over 20 s or 2 GB, or its error is
            not one short line.
        Exception: whatever it let escape, which a user would see as a traceback.
    """
    if not _WATCH.installed:
        sys.addaudithook(_WATCH)
        _WATCH.installed = True
    before, tempfile.tempdir = tempfile.tempdir, str(folder)

    def late(*_: object) -> None:
        raise MisbehavedError(f"took more than {TIME_LIMIT_S} s")

    previous = signal.signal(signal.SIGALRM, late)
    signal.alarm(TIME_LIMIT_S)
    _WATCH.folder = str(folder)
    try:
        yield
    except FbnetError as error:
        _WATCH.folder = None
        text = str(error)
        if "\n" in text or not text.isprintable() or len(text) > 2000:
            raise MisbehavedError(f"not one short line: {text!r:.3000}") from error
    finally:
        _WATCH.folder = None
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
        tempfile.tempdir = before
    used_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if used_mb > MEMORY_LIMIT_MB:
        raise MisbehavedError(f"took {used_mb:.0f} MB")
