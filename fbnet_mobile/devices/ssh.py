"""Boards reached by OpenSSH, with the user's own configuration, keys, agent and jump hosts."""

import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from fbnet_mobile.devices.base import DeviceFullError, register_device
from fbnet_mobile.devices.remote import RemoteDevice
from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.files import write_whole


class SshDevice(RemoteDevice):
    """``ssh:[user@]board[:port]``; ``board`` may be a Host of ~/.ssh/config."""

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
            self._control = tempfile.mkdtemp(prefix="fb", dir="/tmp")  # a socket's path may be about 100 bytes long
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
                _write_tar(process.stdin, files)
                process.stdin.close()
            except BrokenPipeError:
                pass
            except BaseException:
                process.kill()
                raise
            code = process.wait()
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
        if code == 255:
            raise self._lost(lines)
        if any("no space left" in line.lower() or "wrote only" in line.lower() for line in lines):
            raise DeviceFullError(f"{self.name} is full: {lines[0]}; make room in {folder}")
        if code != 0:
            raise JobError(f"cannot put files on {self.name}: {lines[0] if lines else f'tar ended with code {code}'}")

    def _fetch(self, remote: str, local: Path) -> None:
        # By cat, as a small board may have neither scp nor an sftp server.
        with write_whole(local) as partial, partial.open("wb") as file:
            command = self._command(f"exec cat {shlex.quote(remote)}")
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE, check=False)
            if done.returncode != 0:
                said = done.stderr.decode(errors="replace").strip()
                raise JobError(f"cannot copy {remote} from {self.name}: {said or 'the connection broke'}")

    def _end(self) -> None:
        if self._control is not None:
            subprocess.run(
                ["ssh", "-o", f"ControlPath={self._control}/s", "-O", "exit", "--", self._address],
                stdin=subprocess.DEVNULL,
                capture_output=True,
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


register_device("ssh", SshDevice)
