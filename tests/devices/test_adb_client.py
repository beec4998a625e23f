"""What is done with what ``adb`` says, by a stand-in of it; ``test_adb.py`` has the real one and a real daemon."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fbnet_mobile.devices import AdbDevice, get_device
from fbnet_mobile.errors import JobError, UserError

ADB = """#!/bin/sh
if [ "$1" = -s ]; then serial=$2; shift 2; fi
case $1 in
devices) printf 'List of devices attached\\n'; cat {folder}/attached; echo;;
shell) echo "$serial" >>{folder}/asked; shift; exec sh -c "$1";;
push) cp -r "$2" "$3";;
pull) cp "$2" "$3";;
connect | disconnect) echo "$1ed to $2";;
esac
"""

Attach = Callable[[str], None]


@pytest.fixture
def attach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attach:
    """Says what is attached."""
    (tmp_path / "adb").write_text(ADB.format(folder=tmp_path))
    (tmp_path / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(AdbDevice, "default_folder", str(tmp_path / "phone"))
    return lambda text: (tmp_path / "attached").write_text(text) and None


@pytest.mark.parametrize(
    "serial", ["39281FDJH", "Nexus 5 of me", "emulator-5554", "[fe80::1]:5555", "????????????", "a;b"]
)
def test_any_serial_that_adb_shows_can_be_named(serial: str, attach: Attach, tmp_path: Path) -> None:
    attach(f"other\tdevice\n{serial}\tdevice\n")
    assert f"adb:{serial}" in AdbDevice.present()
    (tmp_path / "model").write_text("a model")
    with get_device(f"adb:{serial}") as phone:
        (remote,) = phone.push([tmp_path / "model"])
        assert list(phone.run(["cat", remote])) == ["a model"]
        phone.pull(remote, tmp_path / "back")
    assert (tmp_path / "back").read_text() == "a model"
    assert set((tmp_path / "asked").read_text().splitlines()) == {serial}
    assert not list((tmp_path / "phone").iterdir())


@pytest.mark.parametrize(
    "name", ["adb:", "adb:-x", "adb:a\nb", "adb:\x1b[0m", "adb:\ud800", "adb:" + "a" * 400, "adbx"]
)
def test_what_no_serial_is(name: str) -> None:
    with pytest.raises(UserError, match=r"write adb, or adb:SERIAL|unknown device"):
        get_device(name)
    with pytest.raises(UserError):
        AdbDevice(name)


def test_what_cannot_be_used_does_not_make_it_ask(attach: Attach) -> None:
    attach("emulator-5554\toffline\nphone\tdevice\nold\tunauthorized\n")
    with get_device("adb") as phone:
        assert phone.facts().cores >= 1
    attach("emulator-5554\toffline\nphone\tdevice\ntablet\tdevice\n")
    with pytest.raises(UserError, match=r"^2 Android devices are attached; choose one of adb:phone, adb:tablet$"):
        AdbDevice("adb").facts()
    attach("phone\tunauthorized\n")
    with pytest.raises(JobError, match="does not trust this computer"):
        AdbDevice("adb").facts()
    attach("phone\tno permissions (missing udev rules? user is in the plugdev group)\n")
    with pytest.raises(JobError, match=r"adb is no permissions \(missing udev"):
        AdbDevice("adb").facts()
    attach("")
    with pytest.raises(JobError, match="adb sees no device"):
        AdbDevice("adb").facts()
