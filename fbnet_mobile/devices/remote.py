"""What devices behind a command have in common: ssh and adb differ in how a script and files get there."""

import contextlib
import hashlib
import re
import secrets
import shlex
import subprocess
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from fbnet_mobile.devices.base import (
    Device,
    DeviceBusyError,
    DeviceFacts,
    DeviceFullError,
    DeviceLostError,
    DeviceState,
    ProgramError,
)
from fbnet_mobile.devices.lock import FOLDER, HELD, Holder, busy, lock_script
from fbnet_mobile.devices.output import OUTPUT_BYTES, EndlessError, LastWords, SilentError, read_lines
from fbnet_mobile.devices.settings import ranges
from fbnet_mobile.devices.system import FACTS, STATE, fast_cores, fields, first, parse_facts, parse_state
from fbnet_mobile.errors import JobError

# Written by the remote shell around a program's output. What comes before is a greeting of the login shell. adb ends
# with 0 when the daemon dies, ssh with 255 both for a lost connection and for a program that ended so: only the second
# line says that a program ended, and how.
_BEGIN, _END = "__FBNET_BEGUN", "__FBNET_ENDED="


@dataclass(frozen=True)
class _Found:
    """What is found out once per connection: Python if any, the fastest cores."""

    python: str | None
    fast_cores: tuple[int, ...]


@dataclass(frozen=True)
class _Hold:
    """The device being ours: the folder for our files, and the shell there that holds the lock."""

    folder: str
    shell: "subprocess.Popen[bytes]"
    lines: Iterator[str]


class RemoteDevice(Device):
    """A device reached by commands of this machine.

    A transport says how a script runs there (``_command``), how files are sent (``_send``) and fetched (``_fetch``).
    Files are put into one folder that is this job's alone, under the name of their content, so that what is there
    already is not sent again and no file's own name ever reaches a shell. :meth:`close` removes that folder; one that
    a killed job left behind is taken over by the next.
    """

    default_folder: str
    """Shell text for the folder in which ours is made."""

    tools: ClassVar[tuple[str, ...]] = ("sha256sum", "find", "xargs")

    grace_s = 30.0
    """How much longer than one model may take the device may say nothing."""

    unreachable_hint: str
    """What to try if the device does not answer."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._place: _Found | None = None
        self._hold: _Hold | None = None
        self._ours = False  # whether it is to be held, also after a connection that was lost
        self._present: set[str] = set()
        self._session = secrets.token_hex(6)

    @abstractmethod
    def _command(self, script: str) -> list[str]:
        """The command of this machine that runs a shell script on the device."""

    @abstractmethod
    def _send(self, files: Mapping[str, Path], folder: str) -> None:
        """Copy files into a folder on the device under the names given, all in one go."""

    @abstractmethod
    def _fetch(self, remote: str, local: Path) -> None:
        """Copy one file from the device."""

    def _connect(self) -> None:
        """Begin a connection, if the transport has such a thing."""

    def _end(self) -> None:
        """End the connection."""

    def _reset(self) -> None:
        """End a connection that was lost."""
        self._end()

    def facts(self) -> DeviceFacts:
        """Read by its shell from the system."""
        self._found()
        return parse_facts(self._shell(FACTS))

    def state(self) -> DeviceState:
        """Read by its shell from the system."""
        try:
            cores = self._cores()
            state = parse_state(self._shell(STATE))
        except DeviceLostError:
            raise
        except JobError as error:
            raise DeviceLostError(str(error)) from error
        return replace(state, affinity=ranges(cores)) if cores else state

    @property
    def python(self) -> str:
        """The one of devices.yaml, or python3 on the device's path."""
        own = self.settings.python
        python = own if own and not own.startswith("~") else self._found().python
        if python is None:
            raise JobError(
                f"{self.name} has no python3; install it there, or say where it is in devices.yaml (python:); "
                "on Android, Google's benchmark_model needs none (--benchmark-binary)"
            )
        return python

    def push(self, paths: Sequence[Path]) -> list[str]:
        """Send what is not there yet in one go; checked by SHA-256 after the transfer."""
        names = [_content_name(path) for path in paths]
        files = dict(zip(names, paths, strict=True))
        folder = self._held().folder
        if missing := {name: path for name, path in files.items() if name not in self._present}:
            self._send(missing, folder)
            self._present = self._listed(folder)
            if damaged := sorted(set(files) - self._present):
                raise DeviceLostError(f"{len(damaged)} of {len(files)} files did not arrive whole on {self.name}")
        return [f"{folder}/{name}" for name in names]

    def pull(self, remote: str, local: Path) -> None:
        """By the transport's own copy."""
        self._found()
        self._fetch(remote, local)

    def run(self, argv: Sequence[str]) -> Iterator[str]:
        """On the cores that the settings choose; killed if it says nothing for longer than a model may take."""
        self._held()
        cores = self._cores()
        mask = ["taskset", f"{sum(1 << core for core in cores):x}"] if cores else []
        silence_s = self.settings.model_limit_s + self.grace_s
        yield from self._lines(shlex.join([*mask, *argv]), Path(argv[0]).name, silence_s)

    def reconnect(self) -> None:
        """From nothing: what is on the device is looked at again, which stays ours."""
        self._let_go()
        self._reset()
        self._place = None
        self._found()
        if self._ours:
            self._held()

    def clean(self) -> None:
        """Empty our folder; not an error if the device is gone."""
        if self._hold is not None:
            self._present = set()
            folder = shlex.quote(self._hold.folder)
            try:
                self._shell(f"rm -rf {folder}; mkdir {folder}")
            except JobError:
                self._let_go()

    def close(self) -> None:
        """Remove what was put there, let others use the device, and end the connection; never an error."""
        if self._hold is not None:
            assert self._hold.shell.stdin is not None
            try:
                self._hold.shell.stdin.write(b"close\n")
                self._hold.shell.stdin.close()
                for _ in self._hold.lines:
                    pass
            except (JobError, OSError):
                pass
            self._let_go()
        self._place, self._ours = None, False
        self._end()

    def _cores(self) -> tuple[int, ...]:
        return self.settings.cores(self._found().fast_cores)

    def _found(self) -> _Found:
        """What the device is; connects if that is not done yet."""
        if self._place is None:
            self._connect()
            own = self.settings.python
            python = _path(own) if own else '"$(command -v python3 || command -v python)"'
            found = fields(self._shell(f'echo "python "{python}\n{FACTS}'))
            self._place = _Found(first(found, "python"), fast_cores(found.get("core", [])))
        return self._place

    def _held(self) -> _Hold:
        """The device being ours, from the first call on.

        Raises:
            DeviceBusyError: another job uses it.
        """
        self._found()
        if self._hold is None:
            self._hold = self._take() or self._take()
            if self._hold is None:
                raise DeviceBusyError(f"{self.name} is being taken by another job; try again")
            self._ours = True
            self._present = self._listed(self._hold.folder)
        return self._hold

    def _take(self, dead: str = "") -> _Hold | None:
        """Take the lock; None if it changed hands meanwhile."""
        base = _path(self.settings.folder) if self.settings.folder else self.default_folder
        fixed = "cmd power set-fixed-performance-mode-enabled {}" if self.settings.fixed_performance else ":"
        script = lock_script(base, self._session, dead, f"{fixed.format('true')} >&2", f"{fixed.format('false')} >&2")
        shell = self._start(script, subprocess.PIPE)
        lines = self._read(shell, "the lock", 60)
        held = ""
        try:
            for line in lines:
                if line.startswith(FOLDER):
                    return _Hold(line.removeprefix(FOLDER), shell, lines)
                if line.startswith(HELD):
                    held = line.removeprefix(HELD)
        except ProgramError as error:
            raise JobError(
                f"cannot make a folder on {self.name}: {error.said}; choose another place (folder:) in devices.yaml"
            ) from error
        name, _, rest = held.partition(" ")
        place, _, record = rest.partition(" {")
        holder = Holder.parse("{" + record)
        if not held or dead:
            return None
        if holder is not None and holder.is_dead():
            return self._take(dead=name)
        raise busy(self.name, holder, place)

    def _let_go(self) -> None:
        """Forget the lock; the shell that holds it ends when it notices."""
        if self._hold is not None:
            self._hold.shell.kill()
            self._hold.shell.wait()
            if self._hold.shell.stdin is not None:
                with contextlib.suppress(OSError):
                    self._hold.shell.stdin.close()
        self._hold, self._present = None, set()

    def _listed(self, folder: str) -> set[str]:
        """Names of the files that are there whole, as their content says."""
        script = f"cd {shlex.quote(folder)} && find . -type f | xargs sha256sum 2>/dev/null; :"
        whole = set()
        for line in self._shell(script, silence_s=300):
            digest, _, name = line.partition(" ")
            name = name.strip().removeprefix("*").removeprefix("./")
            if name.startswith(digest[:_DIGITS]) and len(digest) == 64:
                whole.add(name)
        return whole

    def _shell(self, script: str, silence_s: float = 30) -> list[str]:
        try:
            return list(self._lines(script, "a shell script", silence_s))
        except ProgramError as error:  # ours, not one that the caller asked for
            raise JobError(str(error)) from error

    def _lines(self, script: str, program: str, silence_s: float) -> Iterator[str]:
        """Lines of a script's output; raises as :meth:`_read` does."""
        return self._read(self._start(script), program, silence_s)

    def _start(self, script: str, stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
        # Its own group of commands in ( ): an `exit` ends only that, and the last line still comes.
        whole = f"echo; echo {_BEGIN}\n(\n{script}\n)\ncode=$?; echo; echo {_END}$code"
        return subprocess.Popen(self._command(whole), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def _read(self, process: "subprocess.Popen[bytes]", program: str, silence_s: float) -> Iterator[str]:
        """Lines of the output of a script that was started, up to the line that says that it ended.

        Raises:
            ProgramError: it ended with another code than 0, or does not stop printing.
            DeviceLostError: the connection broke before it ended, or nothing came for ``silence_s``.
        """
        code, greeting, begun = None, "", False
        messages = LastWords(process)
        try:
            blank = False  # an empty line is held back: the one before the last line is ours
            for line in read_lines(process, silence_s):
                if not begun:
                    begun = line == _BEGIN
                    greeting = greeting or line
                elif line.startswith(_END) and line[len(_END) :].isdecimal():
                    code = int(line[len(_END) :][:5])
                    break
                else:
                    if blank:
                        yield ""
                    blank = not line
                    if line:
                        yield line
        except SilentError:
            raise DeviceLostError(f"{self.name} said nothing for {silence_s:.0f} s") from None
        except EndlessError:
            raise ProgramError(f"{program} on {self.name} printed more than {OUTPUT_BYTES >> 20} MB", 1) from None
        finally:
            if code is None:
                process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        said = messages.lines()
        if code is None:
            if greeting and not begun and process.returncode != 255:
                raise JobError(f"{self.name} has no shell that we know; it answered {greeting[:80]!r}")
            raise self._lost(said)
        if code != 0:
            if is_full(said):
                raise DeviceFullError(f"{self.name} is full: {said[-1]}; make room there")
            last = said[-1] if said else "it said nothing"
            raise ProgramError(f"{program} on {self.name} ended with code {code}: {last}", code, last)

    def _lost(self, said: Sequence[str]) -> DeviceLostError:
        last = said[-1].strip() if said else "the connection broke"
        return DeviceLostError(f"cannot reach {self.name}: {last}; {self.unreachable_hint}")


def is_full(messages: Sequence[str]) -> bool:
    """Whether a program's messages say that a disk is full."""
    signs = ("no space left", "quota exceeded", "wrote only")
    return any(sign in message.lower() for message in messages for sign in signs)


def _path(text: str) -> str:
    """Shell text for a path on the device, whose home a leading ``~`` is."""
    return '"$HOME"' + shlex.quote(text[1:]) if text.startswith("~") else shlex.quote(text)


_DIGITS = 24


def _content_name(path: Path) -> str:
    """What a file is called on the device: the beginning of its SHA-256, and its suffix if that is harmless."""
    suffix = path.suffix if re.fullmatch(r"\.\w+", path.suffix, re.ASCII) else ""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGITS] + suffix
