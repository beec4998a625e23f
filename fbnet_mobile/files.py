"""Files of the user's: written whole or not at all, locked while in use, read with errors of one line."""

import errno
import functools
import json
import os
import re
import shlex
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from fbnet_mobile.errors import FbnetError, JobError, UserError, shown

_SCRATCH = ".partial-"
_DAY_S = 24 * 3600
_TEXT_BYTES = 2**28


def exists(path: Path) -> bool:
    """Whether something is at a path that a user gave; nothing is where no file can be, as at a name too long."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_regular(path: Path) -> bool:
    """Whether a path is a file with contents: no folder, device or pipe."""
    return path.is_file()


def cannot_write(path: Path, error: OSError) -> FbnetError:
    """The one line for whatever hindered a write: what, why, and what to do about it."""
    if isinstance(error, shutil.Error):  # of a folder of files: the reasons are there as text only
        known = re.search(r"\[Errno (\d+)\]", str(error))
        error = OSError(int(known[1]), os.strerror(int(known[1]))) if known else OSError("it could not be copied")
    start, reason = f"cannot write {shown(path)}", (error.strerror or str(error)).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        place = Path(error.filename) if isinstance(error.filename, str) else path
        elsewhere = place.is_absolute() and path.absolute().parent not in (place, *place.parents)
        where = f"in {shown(place)}" if elsewhere else "there"
        return JobError(f"{start}: {reason}; free some space {where} and give the same command again")
    if error.errno == errno.ENAMETOOLONG:
        return UserError(f"{start}: the name is too long; choose a shorter output path")
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.ELOOP, errno.EISDIR):
        return UserError(f"{start}: {reason}; choose another output path")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(f"{start}: {reason}; choose another output path, or allow writing there")
    return JobError(f"{start}: {reason}; give the same command again, or choose another output path")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what hinders the writes of a block into ``cannot_write``'s line.

    Raises:
        UserError: the path is at fault: no permission, a name too long, below a file.
        JobError: what it lies on is: full, or broken.
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error
    except UnicodeEncodeError as error:
        raise UserError(f"cannot write {shown(path)}: its name is not text; choose another output path") from error
    except ValueError as error:
        if "embedded null" not in str(error):
            raise
        raise UserError(f"cannot write {shown(path)}: a name has no zero bytes; choose another output path") from error


def refuse_foreign(path: Path, replaces: Callable[[Path], bool] = is_regular) -> None:
    """Refuse to write where something stands that is no earlier result; to be called before the work begins.

    Raises:
        UserError: something stands there that ``replaces`` does not recognise, or the path is empty or has control
            characters in it.
    """
    name = os.fspath(path)
    if not path.name:
        raise UserError(f"cannot write '{shown(name)}': it names no file; choose another output path")
    if not all(character.isprintable() or "\udc80" <= character <= "\udcff" for character in name):
        raise UserError(f"cannot write {shown(name)}: control characters in a name; choose another output path")
    with writing(path):
        if os.path.lexists(path) and not replaces(path):
            what = "a folder" if path.is_dir() else "a file" if path.is_file() else "no regular file, but something,"
            raise UserError(
                f"cannot write {shown(path)}: {what} stands there that is no earlier result; "
                "choose another output path, or remove it"
            )


@contextmanager
def write_whole(path: Path, *, replaces: Callable[[Path], bool] = is_regular) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to, and move it into place if the block succeeds.

    The temporary path has the name of ``path`` and does not exist yet: write a file or make a folder there. If the
    block raises, or the machine stops, what stood at ``path`` is untouched; what a process that was killed left behind
    is removed by the next one that writes beside it. A link is followed, not replaced.

    Args:
        path: where to.
        replaces: whether what stands at ``path`` is an earlier result of the same kind, which alone is replaced.

    Raises:
        UserError: the folder cannot be created or written to, or something else stands at ``path``.
        JobError: the disk is full or broken.
    """
    refuse_foreign(path, replaces)
    with writing(path):
        place = path.resolve() if path.is_symlink() else path
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = scratch_folder(place.parent)
    try:
        with writing(path):
            partial = scratch / place.name
            yield partial
            _sync_tree(partial)
            if place.is_dir() and not place.is_symlink():
                # Aside rather than away, so that one of the two is whole whenever this is stopped.
                place.rename(scratch / "replaced")
            partial.replace(place)
            _sync(place.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def scratch_folder(parent: Path) -> Path:
    """Make a folder for what is not finished; those there of processes that were killed are removed first."""
    _remove_leftovers_once(parent)
    return Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{_host()}-{os.getpid()}-", dir=parent))


def _sync(path: Path) -> None:
    """Wait until a file or the names in a folder are on the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no folder
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot
            raise
    finally:
        os.close(descriptor)


def _sync_tree(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            _sync_tree(child)
    _sync(path)


def _host() -> str:
    return "".join(character if character.isalnum() else "_" for character in socket.gethostname())[:40]


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that are no more were writing in a folder when they died."""
    for leftover in folder.glob(f"{_SCRATCH}*-*-*"):
        host, pid, _ = leftover.name.removeprefix(_SCRATCH).rsplit("-", 2)
        with suppress(OSError, ValueError):
            # Of another machine's processes nothing is known.
            dead = not _alive(int(pid)) if host == _host() else time.time() - leftover.stat().st_mtime > _DAY_S
            if dead:
                shutil.rmtree(leftover, ignore_errors=True)


@functools.cache
def _remove_leftovers_once(folder: Path) -> None:
    """Once for each folder and process: the folder may be large."""
    remove_leftovers(folder)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the file ``path`` for this process while the block runs; it says who holds it, and is removed after.

    A lock ends with its process, however that ends.

    Args:
        path: of the lock file.
        what: is in use then, for the message.

    Raises:
        JobError: another process holds it; says which.
        UserError: the file cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _take(path, what)
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": shlex.join([Path(sys.argv[0] or "python").name, *sys.argv[1:]])[:200],
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    try:
        keep_from_forks(descriptor)
        with writing(path):
            os.truncate(descriptor, 0)
            os.write(descriptor, (json.dumps(holder) + "\n").encode())
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # while it is held, so that nobody holds a file that is then removed
        give_back(descriptor)


_LOCKS: set[int] = set()


def keep_from_forks(descriptor: int) -> None:
    """Let no process that is forked from now on hold a lock of ours, as it would when we are killed and it goes on."""
    _LOCKS.add(descriptor)


def give_back(descriptor: int) -> None:
    """Close a lock that was kept from forks."""
    _LOCKS.discard(descriptor)
    os.close(descriptor)


def _without_locks() -> None:
    if not _LOCKS:
        return
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor in _LOCKS:
        os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_without_locks)


def _take(path: Path, what: str) -> int:
    try:
        import fcntl
    except ImportError:  # Windows
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise JobError(f"{what} is in use by {holder}; wait until that has ended, or end it") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                os.close(descriptor)
                raise
            return descriptor  # a file system without locks
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)  # the holder before removed it between our two calls


def _holder(descriptor: int) -> str:
    try:
        known = json.loads(os.read(descriptor, 4096))
        who = f"process {int(known['pid'])} on {shown(known['host'])}"
        return f"{who} since {shown(known['since'])} ({shown(known['command'])})"
    except (ValueError, KeyError, TypeError):
        return "another process"


def read_text(path: Path) -> str:
    """The text of a user's file.

    Raises:
        UserError: it is missing, not readable, no regular file, larger than 256 MiB or not text.
    """
    try:
        if path.exists() and not path.is_dir() and not path.is_file():
            raise UserError(f"cannot read {shown(path)}: it is no regular file")
        if path.is_file() and path.stat().st_size > _TEXT_BYTES:
            raise UserError(f"cannot read {shown(path)}: it has more than {_TEXT_BYTES // 2**20} MiB")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {shown(path)}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {shown(path)}: not a text file") from error
    except ValueError as error:  # a zero byte in the name
        raise UserError(f"cannot read {shown(path)}: {error}") from error
