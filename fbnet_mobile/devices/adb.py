"""Android devices, reached by the Android SDK's adb."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from fbnet_mobile.devices.base import TRANSPORTS, DeviceFullError, DeviceLostError
from fbnet_mobile.devices.remote import RemoteDevice, is_full
from fbnet_mobile.errors import JobError, UserError

_TRANSFER_LIMIT_S = 600


class AdbDevice(RemoteDevice):
    """``adb`` for the only device attached, or ``adb:SERIAL``."""

    default_folder = "/data/local/tmp"
    unreachable_hint = "see that `adb devices` lists it as `device`"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._serial = name.partition(":")[2]
        # A serial may hold anything that can be printed, and is never seen by a shell; adb would take -x for an option.
        if not re.fullmatch(r"adb(:[^-].*)?", name) or not name.isprintable() or len(name) > 300:
            raise UserError(f"{name!r} is no device; write adb, or adb:SERIAL with a serial that `adb devices` shows")

    def _connect(self) -> None:
        attached = attached_devices()
        if not self._serial:
            self._serial = _only(attached)
        if self._serial not in attached and ":" in self._serial:
            _adb("connect", self._serial)
            attached = attached_devices()
        state = attached.get(self._serial)
        if state == "unauthorized":
            raise JobError(f"{self.name} does not trust this computer; accept the question on its screen")
        if state != "device":
            raise JobError(f"{self.name} is {state or 'not attached'}; {self.unreachable_hint}")

    @classmethod
    def present(cls) -> list[str]:
        """What adb sees; nothing if there is no adb, which matters only to those who have a phone."""
        try:
            return [f"adb:{serial}" for serial in attached_devices()]
        except JobError:
            return []

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
        if is_full(said):
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
    rows = [line.rpartition("\t") for line in _adb("devices").stdout.splitlines()]
    return {serial: state.strip() for serial, tab, state in rows if tab}


def _only(attached: Mapping[str, str]) -> str:
    """The serial of the one device that can be used, or of the only one at all."""
    usable = [serial for serial, state in attached.items() if state == "device"] or list(attached)
    if len(usable) > 1:
        names = ", ".join(f"adb:{serial}" for serial in usable)
        raise UserError(f"{len(usable)} Android devices are attached; choose one of {names}")
    if not usable:
        raise JobError("adb sees no device; attach one, allow USB debugging on it, and see `adb devices`")
    return usable[0]


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


TRANSPORTS.add("adb", AdbDevice)
