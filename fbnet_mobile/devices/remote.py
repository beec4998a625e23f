"""What devices behind a command have in common: ssh and adb differ in how a script and files get there."""

import hashlib
import os
import re
import select
import shlex
import subprocess
import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fbnet_mobile.devices.base import (
    Device,
    DeviceFacts,
    DeviceFullError,
    DeviceLostError,
    DeviceState,
    ProgramError,
)
from fbnet_mobile.devices.settings import cores_of
from fbnet_mobile.devices.system import FACTS, STATE, fast_cores, fields, first, parse_facts, parse_state
from fbnet_mobile.errors import JobError

# Written by the remote shell behind a program's output: adb ends with 0 when the daemon dies, ssh with 255 both for a
# lost connection and for a program that ended so. Only this line says that a program ended, and how.
_END = "__FBNET_ENDED="


@dataclass(frozen=True)
class _Place:
    """What is found out once per connection: the folder for our files, Python if any, the fastest cores."""

    folder: str
    python: str | None
    fast_cores: tuple[int, ...]


class RemoteDevice(Device):
    """A device reached by commands of this machine.

    Files are put into one folder that is ours alone, under the name of their content, so that what is there already is
    not sent again and no file's own name ever reaches a shell. :meth:`close` removes that folder.
    """

    default_folder: str
    """Shell text for the folder in which ours is made."""

    grace_s = 30.0
    """How much longer than one model may take the device may say nothing."""

    unreachable_hint: str
    """What to try if the device does not answer."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._place: _Place | None = None
        self._present: set[str] = set()

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
        """Read by its shell from the system; all unknown if the device is lost, which the next job deals with."""
        try:
            self._found()
            return parse_state(self._shell(STATE))
        except DeviceLostError:
            return parse_state([])

    @property
    def python(self) -> str:
        """The one of devices.yaml, or python3 on the device's path."""
        python = self.settings.python or self._found().python
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
        folder = self._found().folder
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
        place, affinity = self._found(), self.settings.affinity
        cores = place.fast_cores if affinity == "fast" else cores_of(affinity) if affinity != "all" else ()
        mask = ["taskset", f"{sum(1 << core for core in cores):x}"] if cores else []
        silence_s = self.settings.model_limit_s + self.grace_s
        yield from self._lines(shlex.join([*mask, *argv]), Path(argv[0]).name, silence_s)

    def reconnect(self) -> None:
        """From nothing: what is on the device is looked at again."""
        self._reset()
        self._place, self._present = None, set()
        self._found()

    def clean(self) -> None:
        """Empty our folder; not an error if the device is gone."""
        if self._place is not None:
            self._present = set()
            try:
                self._shell(f"rm -rf {shlex.quote(self._place.folder)}; mkdir {shlex.quote(self._place.folder)}")
            except JobError:
                self._place = None

    def close(self) -> None:
        """Remove what was put there and end the connection."""
        if self._place is not None:
            try:
                if self.settings.fixed_performance:
                    self._shell("cmd power set-fixed-performance-mode-enabled false")
                self._shell(f"rm -rf {shlex.quote(self._place.folder)}")
            except JobError:
                pass
            self._place = None
        self._end()

    def _found(self) -> _Place:
        if self._place is None:
            self._connect()
            base = shlex.quote(self.settings.folder) if self.settings.folder else self.default_folder
            script = (
                f'folder={base}/fbnet-mobile; mkdir -p "$folder" && cd "$folder" && echo "folder $(pwd)" || exit 1\n'
            )
            script += 'echo "python $(command -v python3 || command -v python)"\n'
            if self.settings.fixed_performance:
                script += "cmd power set-fixed-performance-mode-enabled true >&2 || exit 1\n"
            found = fields(self._shell(script + FACTS))
            folder = first(found, "folder")
            if folder is None:
                raise JobError(f"{self.name} has no shell that we know; it answered {' '.join(found)[:80]!r}")
            self._place = _Place(folder, first(found, "python"), fast_cores(found.get("core", [])))
            self._present = self._listed(folder)
        return self._place

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
        """Lines of a script's output up to the end marker.

        Raises:
            ProgramError: it ended with another code than 0.
            DeviceLostError: the connection broke before it ended, or nothing came for ``silence_s``.
        """
        code = None
        # Its own group of commands in ( ): an `exit` ends only that, and the marker still comes.
        whole = f"(\n{script}\n)\ncode=$?; echo; echo {_END}$code"
        with tempfile.TemporaryFile() as messages:
            process = subprocess.Popen(
                self._command(whole), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages
            )
            try:
                blank = False  # an empty line is held back: the one before the marker is ours
                for line in _split_lines(process, silence_s, self.name):
                    if line.startswith(_END) and line[len(_END) :].isdigit():
                        code = int(line[len(_END) :])
                        break
                    if blank:
                        yield ""
                    blank = not line
                    if line:
                        yield line
            finally:
                if code is None:
                    process.kill()
                process.wait()
                assert process.stdout is not None
                process.stdout.close()
            messages.seek(0)
            said = messages.read().decode(errors="replace").strip().splitlines()
        if code is None:
            raise self._lost(said)
        if code != 0:
            last = said[-1] if said else "it said nothing"
            if any("no space left" in line.lower() for line in said):
                raise DeviceFullError(f"{self.name} is full: {last}; make room there")
            raise ProgramError(f"{program} on {self.name} ended with code {code}: {last}", code)

    def _lost(self, said: Sequence[str]) -> DeviceLostError:
        last = said[-1].strip() if said else "the connection broke"
        return DeviceLostError(f"cannot reach {self.name}: {last}; {self.unreachable_hint}")


def _split_lines(process: "subprocess.Popen[bytes]", silence_s: float, name: str) -> Iterator[str]:
    assert process.stdout is not None
    rest = b""
    while True:
        if not select.select([process.stdout], [], [], silence_s)[0]:
            raise DeviceLostError(f"{name} said nothing for {silence_s:.0f} s")
        data = os.read(process.stdout.fileno(), 1 << 16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")


_DIGITS = 24


def _content_name(path: Path) -> str:
    """What a file is called on the device: the beginning of its SHA-256, and its suffix if that is harmless."""
    suffix = path.suffix if re.fullmatch(r"\.\w+", path.suffix, re.ASCII) else ""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGITS] + suffix
