"""One job at a time on a device: two would measure each other.

This machine is locked by a file, as its kernel gives the lock back whatever happens to its holder. On another device
the lock is a folder, and its holder a shell there that lives as long as our connection to it: one whose shell is gone,
because the computer at this end, the connection or the device itself went down, is dead, which any other computer sees.
"""

import fcntl
import getpass
import os
import shlex
import socket
import sys
import tempfile
import time
import weakref
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fbnet_mobile.devices.base import DeviceBusyError
from fbnet_mobile.files import give_back, keep_from_forks


class Holder(BaseModel):
    """Who uses a device."""

    model_config = ConfigDict(frozen=True, strict=True)

    user: str = Field(max_length=100)
    host: str = Field(max_length=100)
    numbering: str = Field(max_length=100)
    boot: str = Field(max_length=100)
    pid: int = Field(ge=1, le=2**31)
    born: str = Field(max_length=100)
    command: str = Field(max_length=100)
    since: str = Field(max_length=100)

    @classmethod
    def me(cls) -> Self:
        """This process."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a number without a name, as in a container
            user = str(os.getuid())
        return cls(
            user=user[:100],
            host=socket.gethostname()[:100],
            numbering=_numbering(),
            boot=_boot(),
            pid=os.getpid(),
            born=_born(os.getpid()),
            command=Path(sys.argv[0]).name[:100],
            since=time.strftime("%Y-%m-%d %H:%M"),
        )

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """From JSON; None if it says nothing that can be read."""
        try:
            return cls.model_validate_json(text[:2000])
        except ValidationError:
            return None

    def is_dead(self) -> bool:
        """Whether it was a process of this machine and is no more; False of any other machine's or container's."""
        if (self.host, self.numbering) != (socket.gethostname()[:100], _numbering()):
            return False
        return self.boot != _boot() or _born(self.pid) != self.born

    def __str__(self) -> str:
        text = f"{self.user}@{self.host} ({self.command}, pid {self.pid}) since {self.since}"
        return "".join(letter if letter.isprintable() else "?" for letter in text)


def busy(name: str, holder: Holder | None, place: str) -> DeviceBusyError:
    """The line for a device that somebody else uses; ``place`` is where the lock is."""
    return DeviceBusyError(
        f"{name} is in use by {holder or 'another job'}; two jobs would measure each other: wait for its end, or stop "
        f"it (if there is no such job any more, remove {place} there)"
    )


class HostLock:
    """The lock of this machine, one for all devices of a process that are it; given back when it is forgotten.

    Raises:
        DeviceBusyError: another process has it.
    """

    def __init__(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = Holder.parse(os.pread(descriptor, 2000, 0).decode(errors="replace"))
            os.close(descriptor)
            raise busy("host", holder, str(path)) from None
        keep_from_forks(descriptor)
        weakref.finalize(self, give_back, descriptor)
        if os.fstat(descriptor).st_uid == os.getuid():
            os.fchmod(descriptor, 0o666)  # for whoever else uses this machine
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, Holder.me().model_dump_json().encode(), 0)

    @classmethod
    def take(cls) -> "HostLock | None":
        """Of this process already, or taken now; None if this machine has no place for it."""
        path = Path(tempfile.gettempdir()) / "fbnet-mobile.lock"
        lock = _host_locks.get(path)
        if lock is None:
            try:
                lock = cls(path)
            except OSError:
                return None
            _host_locks[path] = lock
        return lock


_host_locks: weakref.WeakValueDictionary[Path, HostLock] = weakref.WeakValueDictionary()


HELD, FOLDER = "__FBNET_HELD=", "__FBNET_FOLDER="
"""What the script prints before the holder's name and record, and before our folder if we have the lock now."""


def lock_script(base: str, session: str, dead: str, first: str, last: str) -> str:
    """The script of the shell that holds a device's lock; it ends with its input, and cleans up if that says ``close``.

    Under ``base`` it makes ``fbnet-mobile/lock/held-PID-BORN-SESSION`` and ``fbnet-mobile/run-SESSION``. POSIX sh as
    dash, mksh and busybox speak it. The steps by which the lock changes hands are atomic: ``mkdir``, and ``mv`` of a
    name that only the last holder had. A run's folder that was left behind becomes ours, with what was sent to it.

    Args:
        base: shell text for the folder.
        session: our name; a lock of that name is ours from before the connection broke.
        dead: the name of a holder that is known to be dead, or nothing.
        first: what to run when the lock is taken.
        last: what to run before it is given back.
    """
    record = shlex.quote(Holder.me().model_dump_json())
    return f"""
born() {{
  set -- $(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null)
  case $1 in Z | X) set -- ;; esac
  echo "${{20:-0}}"
}}
root={base}/fbnet-mobile
mkdir -p "$root" && cd "$root" && root=$(pwd) || exit 1
lock=$root/lock folder=$root/run-{session} me=held-$$-$(born $$)-{session} tries=0
sign() {{ printf '%s\\n' {record} | cat >"$lock/$me"; }}  # cat says why it cannot, unlike some shells
while :; do
  mkdir -p "$root" || exit 1
  if mkdir "$lock" 2>/dev/null; then
    if ! sign; then
      [ -e "$lock/$me" ] || {{ tries=$((tries + 1)); continue; }}  # taken to be abandoned, and removed, before it was
      rm -rf "$root"/run-*  # what dead runs left behind may be what fills the disk
      sign || {{ rm -f "$lock/$me"; rmdir "$lock"; exit 1; }}
    fi
    set -- "$lock"/held-*
    [ $# = 1 ] && break
    rm -f "$lock/$me"  # whoever took this lock to be abandoned removed it before it was signed, and somebody else came
    continue
  fi
  held=
  for file in "$lock"/held-*; do [ -e "$file" ] && held=${{file##*/}}; done
  if [ -z "$held" ]; then
    # Taken or given back this very moment; or whoever took it was killed before it could say so.
    tries=$((tries + 1))
    if [ $tries -gt 2 ] && rmdir "$lock" 2>/dev/null; then
      tries=0  # whoever comes first now has as long to sign it
      continue
    fi
    [ $tries -gt 8 ] && {{ mkdir "$lock" && rmdir "$lock"; exit 1; }}
    sleep 1
    continue
  fi
  rest=${{held#held-}}
  pid=${{rest%%-*}} rest=${{rest#*-}}
  born=${{rest%%-*}} session=${{rest#*-}}
  if [ "$session" = {session} ] || [ "$held" = {shlex.quote(dead)} ] || [ "$(born "$pid")" != "$born" ]; then
    mv "$lock/$held" "$lock/$me" 2>/dev/null || continue
    sign
    break
  fi
  echo "{HELD}$held $lock $(cat "$lock/$held")"
  exit 0
done
leave() {{
  {last}
  rm -f "$lock/$me"; rmdir "$lock"; cd /; rmdir "$root" 2>/dev/null
}}
{{ {first}
}} || {{ leave; exit 1; }}
for old in "$root"/run-*; do
  if [ "$old" = "$folder" ] || [ ! -d "$old" ]; then continue; fi
  if [ -d "$folder" ]; then rm -rf "$old"; else mv "$old" "$folder"; fi
done
mkdir -p "$folder" || {{ leave; exit 1; }}
echo "{FOLDER}$folder"
read -r word
[ -e "$lock/$me" ] || exit 0
[ "$word" = close ] && rm -rf "$folder"
leave
exit 0
"""


def _boot() -> str:
    """What tells one start of this machine from another; nothing where there is no such thing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _numbering() -> str:
    """What tells apart containers, which count processes of their own; nothing where there is no such thing."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())[:100]
    except OSError:
        return ""


def _born(pid: int) -> str:
    """What tells a process from a later one of the same number; nothing if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass
    return "alive"
