"""Devices behind a command of one's own: ``sandbox:FOLDER`` runs programs by a shell in a folder of this machine."""

import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from fbnet_mobile.devices import TRANSPORTS, RemoteDevice
from fbnet_mobile.errors import UserError


class SandboxDevice(RemoteDevice):
    """All that a transport has to say; locks, checks of what was sent, and faults are not its business.

    A container would be ``["docker", "exec", "-i", NAME, "sh", "-c", script]``; standard input must be passed on.
    """

    unreachable_hint = "see that the folder is there"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.folder = Path(name.partition(":")[2])
        if not self.folder.is_dir():
            raise UserError(f"{name!r} is no sandbox; write sandbox:FOLDER with a folder that exists")
        self.default_folder = shlex.quote(str(self.folder))

    def _command(self, script: str) -> list[str]:
        return ["env", "--chdir", str(self.folder), "sh", "-c", script]

    def _send(self, files: Mapping[str, Path], folder: str) -> None:
        for name, path in files.items():
            shutil.copyfile(path, Path(folder) / name)

    def _fetch(self, remote: str, local: Path) -> None:
        shutil.copyfile(remote, local)


TRANSPORTS.add("sandbox", SandboxDevice)
