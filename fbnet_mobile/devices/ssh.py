"""Boards reached by OpenSSH, with the user's own configuration, keys, agent and jump hosts."""

import contextlib
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from fbnet_mobile.devices.base import TRANSPORTS, DeviceFullError
from fbnet_mobile.devices.output import LINE_BYTES, LastWords
from fbnet_mobile.devices.remote import RemoteDevice, is_full
from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.files import scratch_folder, write_whole

_MARK = "__FBNET_FILE"


class SshDevice(RemoteDevice):
    """``ssh:[user@]board[:port]``; ``board`` may be a Host of ~/.ssh/config."""

    tools = (*RemoteDevice.tools, "tar")

    default_folder = '"${XDG_CACHE_HOME:-$HOME/.cache}"'

    def __init__(self, name: str) -> None:
        super().__init__(name)
        match = re.fullmatch(r"ssh:((?:\w[\w.-]*@)?(?:\w[\w.-]*|\[[0-9a-fA-F:.%\w]+\]))(?::(\d+))?", name, re.ASCII)
        if match is None:
            raise UserError(f"{name!r} is no address; write ssh:user@board or ssh:user@board:port")
        self._address, self._port = match[1].replace("[", "").replace("]", ""), match[2]
        self.unreachable_hint = f"see that `{' '.join(['ssh', *self._port_option(), self._address, 'true'])}` works"
        self._control: str | None = None

    def _port_option(self) -> list[str]:
        return ["-p", self._port] if self._port else []

    def _options(self) -> list[str]:
        if shutil.which("ssh") is None:
            raise JobError("there is no ssh on this machine; install OpenSSH's client (Debian: openssh-client)")
        if self._control is None:
            self._control = str(scratch_folder(Path("/tmp")))  # a socket's path may be about 100 bytes long
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "ServerAliveInterval": "5",
            "ServerAliveCountMax": "3",
            "ControlMaster": "auto",
            "ControlPath": f"{self._control}/s",
            "ControlPersist": "60",
        }
        return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]

    def _command(self, script: str) -> list[str]:
        # The login shell may be any; single quotes mean the same to all of them.
        quoted = "'" + script.replace("'", "'\\''") + "'"
        return ["ssh", "-T", *self._options(), *self._port_option(), "--", self._address, f"exec sh -c {quoted}"]

    def _send(self, files: Mapping[str, Path], folder: str) -> None:
        # Not through _lines: this one has an input. tar's own exit code is that of ssh.
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                self._command(f"cd {shlex.quote(folder)} && exec tar -xf -"),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
            assert process.stdin is not None
            try:
                with contextlib.suppress(BrokenPipeError), process.stdin:
                    _write_tar(process.stdin, files)
            except BaseException:
                process.kill()
                raise
            code = process.wait()
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
        if code == 255:
            raise self._lost(lines)
        if is_full(lines):
            raise DeviceFullError(f"{self.name} is full: {lines[0]}; make room in {folder}")
        if code != 0:
            raise JobError(f"cannot put files on {self.name}: {lines[0] if lines else f'tar ended with code {code}'}")

    def _fetch(self, remote: str, local: Path) -> None:
        # By cat, as a small board may have neither scp nor an sftp server; behind whatever the login shell says first.
        with write_whole(local) as partial, partial.open("wb") as file:
            process = subprocess.Popen(
                self._command(f"echo; echo {_MARK}; exec cat {shlex.quote(remote)}"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            messages = LastWords(process)
            assert process.stdout is not None
            with process.stdout:
                while (line := process.stdout.readline(LINE_BYTES)) and line.strip() != _MARK.encode():
                    pass
                shutil.copyfileobj(process.stdout, file)
            if process.wait() != 0:
                said = messages.lines()
                raise JobError(f"cannot copy {remote} from {self.name}: {said[-1] if said else 'the connection broke'}")

    def _end(self) -> None:
        if self._control is not None:
            # One that does not answer ends by itself, when nobody has used it for ControlPersist.
            with contextlib.suppress(subprocess.TimeoutExpired, OSError):
                subprocess.run(
                    ["ssh", "-o", f"ControlPath={self._control}/s", "-O", "exit", "--", self._address],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    check=False,
                    timeout=10,
                )
            shutil.rmtree(self._control, ignore_errors=True)
            self._control = None


def _write_tar(stream: IO[bytes], files: Mapping[str, Path]) -> None:
    with tarfile.open(fileobj=stream, mode="w|") as archive:
        for name, path in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = path.stat().st_size, 0o700
            with path.open("rb") as content:
                archive.addfile(member, content)


TRANSPORTS.add("ssh", SshDevice)
