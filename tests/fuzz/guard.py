"""What a program may not do with an input, however odd: watched from inside the process that reads it."""

import contextlib
import os
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from fbnet_mobile.errors import FbnetError

TIME_LIMIT_S = 20
"""Of processor time, so that it means the same on a machine that does something else too."""
_HANG = 10
"""After so many times the limit on the clock, what takes no processor time will not end."""
MEMORY_LIMIT_MB = 2000
LONGEST_MESSAGE = 2000

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.utime": ((0, 3),),
    "os.truncate": ((0, None),),
    "os.setxattr": ((0, None),),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.rename": ((0, 2), (1, 3)),
}
"""Events that change the file system: which of their arguments are paths, and which the folder that each is below."""
_RUNS = {"os.system", "os.exec", "os.spawn", "os.posix_spawn", "subprocess.Popen", "pickle.find_class"}
_ASKS = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}


class MisbehavedError(AssertionError):
    """The program did what no input may make it do."""


class _Stop(BaseException):
    """Ends what misbehaves, where ``except Exception`` would take a ``MisbehavedError`` for a damaged file."""


class Outcome:
    """What came of an input."""

    refused: FbnetError | None = None


class _Watch:
    """An audit hook cannot be removed, so there is one, and it looks only while an input is being read."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.problem = ""

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in _RUNS:
            self.stop(f"ran something: {event} {arguments!r:.300}")
        elif event in _ASKS:
            self.stop(f"asked the network: {event} {arguments!r:.300}")
        elif event == "open":
            if isinstance(arguments[2], int) and arguments[2] & _WRITES:
                self._inside(event, arguments[0])
        else:
            for place, below in _CHANGES.get(event, ()):
                self._inside(event, arguments[place], -1 if below is None else arguments[below])

    def stop(self, problem: str) -> None:
        self.folder, self.problem = None, problem
        raise _Stop

    def _inside(self, event: str, path: Any, below: int = -1) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        text = os.fsdecode(path)
        if below is not None and below >= 0 and not text.startswith("/"):
            text = f"/proc/self/fd/{below}/{text}"
        # A link within the folder may lead out of it, so where it leads counts; what is made or removed is the link.
        folder, name = os.path.split(text)
        whole = os.path.realpath(text) if event == "open" else f"{os.path.realpath(folder or '.')}/{name}"
        if whole not in ("/dev/null", self.folder) and not whole.startswith((f"{self.folder}/", "/proc/", "/dev/shm/")):
            self.stop(f"wrote outside its folder: {event} {whole}")


_WATCH = _Watch()
_INSTALLED: list[_Watch] = []


@contextmanager
def guarded(folder: Path) -> Iterator[Outcome]:
    """Run a block that reads an odd input; an ``FbnetError`` of one short line is a right answer to it.

    Args:
        folder: where alone it may write; temporary files go there too.

    Yields:
        What comes of it, filled in when the block ends.

    Raises:
        MisbehavedError: it wrote elsewhere, started a program, asked the network, unpickled, took over 20 s or 2 GB,
            showed a library's warning, or its error is not one short line.
        Exception: whatever it let escape, which a user would see as a traceback.
    """
    if not _INSTALLED:
        sys.addaudithook(_WATCH)
        _INSTALLED.append(_WATCH)
    outcome = Outcome()
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    begun, used_before_s = time.monotonic(), time.process_time()

    def overdue(_: int, frame: FrameType | None) -> None:
        if frame is None or frame.f_code is ours or frame.f_code.co_filename == contextlib.__file__:
            return  # the block has ended, and what ends it must not be stopped
        if time.process_time() - used_before_s >= TIME_LIMIT_S:
            _WATCH.stop(f"took more than {TIME_LIMIT_S} s")
        elif time.monotonic() - begun >= _HANG * TIME_LIMIT_S:
            _WATCH.stop(f"had not ended after {_HANG * TIME_LIMIT_S} s")

    ours = sys._getframe().f_code
    previous = signal.signal(signal.SIGALRM, overdue)
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT_S, TIME_LIMIT_S / 20)
    _forget_peak()
    _WATCH.folder, _WATCH.problem = os.path.realpath(folder), ""
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield outcome
    except FbnetError as error:
        outcome.refused = error
    except _Stop:
        pass
    except RecursionError as error:
        raise MisbehavedError("nested too deep for Python") from error
    finally:
        _WATCH.folder = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        tempfile.tempdir, sys.dont_write_bytecode = before, written
    if _WATCH.problem:
        raise MisbehavedError(_WATCH.problem)
    for warning in warned:
        if not issubclass(warning.category, DeprecationWarning | PendingDeprecationWarning | ResourceWarning):
            raise MisbehavedError(f"showed a library's warning: {warning.category.__name__}: {warning.message}")
    used_mb = _peak_mb()
    if used_mb > MEMORY_LIMIT_MB:
        raise MisbehavedError(f"took {used_mb:.0f} MB")
    if outcome.refused is not None:
        text = str(outcome.refused)
        if not text.isprintable() or not text or len(text) > LONGEST_MESSAGE:
            raise MisbehavedError(f"not one short line: {text!r:.3000}")


def _forget_peak() -> None:
    """Let the peak of memory begin anew; elsewhere than on Linux it is that of the whole process."""
    with suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:  # noqa: PTH123
        file.write("5")


def _peak_mb() -> float:
    try:
        with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
