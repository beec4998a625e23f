"""Android devices, reached by the Android SDK's adb."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from fbnet_mobile.devices.base import DeviceFullError, DeviceLostError, register_device
from fbnet_mobile.devices.remote import RemoteDevice
from fbnet_mobile.errors import JobError, UserError

_TRANSFER_LIMIT_S = 600


class AdbDevice(RemoteDevice):
    """``adb`` for the only device attached, or ``adb:SERIAL``."""

    default_folder = "/data/local/tmp"
    unreachable_hint = "see that `adb devices` lists it as `device`"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._serial = name.partition(":")[2]
        if (":" in name and not self._serial) or not re.fullmatch(r"adb(:[\w.][\w.:\[\]-]*)?", name, re.ASCII):
            raise UserError(f"{name!r} is no device; write adb, or adb:SERIAL with a serial that `adb devices` shows")

    def _connect(self) -> None:
        attached = attached_devices()
        if not self._serial:
            if len(attached) > 1:
                names = ", ".join(f"adb:{serial}" for serial in attached)
                raise UserError(f"{len(attached)} Android devices are attached; choose one of {names}")
            if not attached:
                raise JobError("adb sees no device; attach one, allow USB debugging on it, and see `adb devices`")
            self._serial = next(iter(attached))
        if self._serial not in attached and ":" in self._serial:
            _adb("connect", self._serial)
            attached = attached_devices()
        state = attached.get(self._serial)
        if state == "unauthorized":
            raise JobError(f"{self.name} does not trust this computer; accept the question on its screen")
        if state != "device":
            raise JobError(f"{self.name} is {state or 'not attached'}; {self.unreachable_hint}")

    def _reset(self) -> None:
        if ":" in self._serial:  # over TCP: adb keeps a dead connection as `offline` until told to give it up
            _adb("disconnect", self._serial)

    def _command(self, script: str) -> list[str]:
        return ["adb", "-s", self._serial, "shell", script]

    def _send(self, files: Mapping[str, Path], folder: str) -> None:
        with tempfile.TemporaryDirectory() as staging:
            for name, path in files.items():
                copy = Path(staging) / name
                try:
                    copy.hardlink_to(path.resolve())
                except OSError:
                    shutil.copyfile(path, copy)
            done = _adb("-s", self._serial, "push", f"{staging}/.", f"{folder}/", limit_s=_TRANSFER_LIMIT_S)
        said = (done.stdout + done.stderr).strip().splitlines()
        if any("no space left" in line.lower() for line in said):
            raise DeviceFullError(f"{self.name} is full; make room in {folder}")
        if done.returncode != 0:
            raise self._lost(said)

    def _fetch(self, remote: str, local: Path) -> None:
        done = _adb("-s", self._serial, "pull", remote, str(local), limit_s=_TRANSFER_LIMIT_S)
        if done.returncode != 0:
            said = (done.stderr + done.stdout).strip().splitlines()
            raise JobError(f"cannot copy {remote} from {self.name}: {said[-1] if said else 'adb failed'}")


def attached_devices() -> dict[str, str]:
    """Serial and state (``device``, ``offline``, ``unauthorized``) of what adb sees."""
    lines = _adb("devices").stdout.splitlines()
    return dict(line.split("\t", 1) for line in lines if "\t" in line)


def _adb(*arguments: str, limit_s: float = 30) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            ["adb", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=limit_s,
        )
    except FileNotFoundError:
        raise JobError(
            "there is no adb on this machine; install the Android SDK platform-tools (Debian: apt install adb)"
        ) from None
    except subprocess.TimeoutExpired:
        raise DeviceLostError(
            f"adb {arguments[0]} did not answer within {limit_s:.0f} s; try adb kill-server"
        ) from None


register_device("adb", AdbDevice)
