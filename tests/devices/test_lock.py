"""One job at a time on a device, in the shells and with the tools that devices have."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from fbnet_mobile.devices import DeviceBusyError, DeviceFullError, DeviceLostError, HostDevice, get_device
from fbnet_mobile.devices.lock import FOLDER, HELD, Holder, lock_script
from fbnet_mobile.devices.remote import RemoteDevice
from fbnet_mobile.errors import JobError
from tests.devices.lab import Sshd

SHELLS = {"sh": [], "bash": [], "mksh": ["toybox"], "busybox": ["busybox"]}
"""Each with where its tools come from, if not from this machine's: Android's are mksh and toybox."""
TOOLS = ("sed", "mkdir", "mv", "rm", "rmdir", "cat", "sleep", "find", "xargs", "sha256sum", "grep", "uname", "printf")


class Board(RemoteDevice):
    """This machine through a shell."""

    default_folder = "nowhere"
    unreachable_hint = "see that it is there"
    shell = ("sh",)

    def _command(self, script: str) -> list[str]:
        return [*self.shell, "-c", script]

    def _send(self, files: Mapping[str, Path], folder: str) -> None:
        for name, path in files.items():
            shutil.copyfile(path, Path(folder) / name)

    def _fetch(self, remote: str, local: Path) -> None:
        shutil.copyfile(remote, local)


Make = Callable[[], Board]


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, ...]:
    """A command that runs scripts in one of the shells, with the tools that go with it alone."""
    name, tools = request.param, SHELLS[request.param]
    if any(shutil.which(program) is None for program in (name, *tools)):
        pytest.skip(f"there is no {name} here")
    program = shutil.which(name) or name
    words = (program, "sh") if name == "busybox" else (program,)
    if not tools:
        return words
    folder = tmp_path / "tools"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tools[0]) or tools[0])
    return ("/usr/bin/env", f"PATH={folder}", *words)


@pytest.fixture
def make(shell: tuple[str, ...], tmp_path: Path) -> Make:
    """Makes devices that are all the same one."""
    place = tmp_path / "a board"
    place.mkdir()

    def board() -> Board:
        device = Board("board")
        device.shell, device.default_folder = shell, f"'{place}'"
        return device

    return board


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "a board").rglob("*") if path.is_file())


def test_a_second_job_is_told_whose_the_device_is_and_leaves_it_alone(make: Make, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("a model")
    with make() as first:
        (remote,) = first.push([tmp_path / "model"])
        with make() as second:
            assert second.facts().cores >= 1
            second.state()
            with pytest.raises(DeviceBusyError) as refused:
                second.push([tmp_path / "model"])
            with pytest.raises(DeviceBusyError):
                list(second.run(["true"]))
        assert re.match(rf"board is in use by \S+@\S+ \(.*, pid {os.getpid()}\) since 20", str(refused.value))
        assert f"remove {tmp_path}/a board/fbnet-mobile/lock there" in str(refused.value)
        assert "\n" not in str(refused.value)
        assert refused.value.exit_code == 1
        assert list(first.run(["cat", remote])) == ["a model"]
    with make() as third:
        third.push([tmp_path / "model"])
    assert not list((tmp_path / "a board").iterdir())


def test_what_a_dead_job_left_is_taken_over_and_removed(make: Make, tmp_path: Path) -> None:
    """The first is killed; the second finds what it sent, and the folders of others long dead go."""
    (tmp_path / "model").write_text("a model")
    dead = make()
    (remote,) = dead.push([tmp_path / "model"])
    assert dead._hold is not None
    dead._hold.shell.kill()
    root = tmp_path / "a board" / "fbnet-mobile"
    (held,) = (root / "lock").iterdir()
    for old in ("run-0older", "run-zz"):
        (root / old).mkdir()
        (root / old / "left").write_text("x")
    with make() as alive:
        (again,) = alive.push([tmp_path / "model"])
        assert again != remote
        assert Path(again).read_text() == "a model"
        assert not held.exists()
        assert len(list(root.glob("run-*"))) == 1
        with pytest.raises(DeviceBusyError):  # it came back too late
            dead.reconnect()
        dead.close()
        assert Path(again).exists()
    assert not list((tmp_path / "a board").iterdir())


def test_a_connection_made_again_finds_the_device_still_its_own(make: Make, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("a model")
    with make() as board:
        (remote,) = board.push([tmp_path / "model"])
        sent: list[str] = []
        board._send = lambda files, folder: sent.extend(files)  # type: ignore[method-assign]
        board.reconnect()
        assert board.push([tmp_path / "model"]) == [remote]
        assert sent == []
        with pytest.raises(DeviceBusyError):
            make().push([])
        way, board.shell = board.shell, ("false",)
        for _ in range(2):  # it is away for a while
            with pytest.raises(DeviceLostError):
                board.reconnect()
        board.shell = way
        board.reconnect()
        with pytest.raises(DeviceBusyError):
            make().push([])
    assert not list((tmp_path / "a board").iterdir())


def test_a_holder_of_a_machine_that_was_restarted_is_dead(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shell on the board may live for hours, until the kernel there gives up the connection."""
    me = Holder.me()
    monkeypatch.setattr(Holder, "me", lambda: me.model_copy(update={"boot": "another"}))
    earlier = make()
    earlier.push([])
    monkeypatch.undo()
    assert not me.is_dead()
    for changed in ({"boot": "another"}, {"born": "1"}, {"pid": 2**30}):
        assert me.model_copy(update=changed).is_dead()
        assert not me.model_copy(update={**changed, "host": "elsewhere"}).is_dead()
        assert not me.model_copy(update={**changed, "numbering": "of another container"}).is_dead()
    with make() as board:
        board.push([])
        earlier.close()
        with pytest.raises(DeviceBusyError):
            make().push([])


@pytest.mark.parametrize("record", ["", "{}", "[1]", '{"pid": 1e400}', "x" * 5000, "\x1b[31m"])
def test_a_record_that_cannot_be_read_is_another_job(make: Make, tmp_path: Path, record: str) -> None:
    with make() as first:
        first.push([])
        (held,) = (tmp_path / "a board/fbnet-mobile/lock").iterdir()
        held.write_text(record)
        with pytest.raises(DeviceBusyError, match=r"^board is in use by another job; "):
            make().push([])


@pytest.mark.parametrize("left", ["nothing", "an empty lock", "a dead holder"])
def test_of_many_that_come_at_once_one_gets_the_device(shell: tuple[str, ...], tmp_path: Path, left: str) -> None:
    lock = tmp_path / "fbnet-mobile" / "lock"
    if left != "nothing":
        lock.mkdir(parents=True)
    if left == "a dead holder":
        (lock / "held-999999999-1-dead").touch()
    crowd = [
        subprocess.Popen(
            [*shell, "-c", lock_script(str(tmp_path), f"s{number}", "", ":", ":")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(12)
    ]
    said = [process.stdout.readline() for process in crowd if process.stdout]
    assert sum(line.startswith(FOLDER) for line in said) == 1, said
    assert sum(line.startswith(HELD) for line in said) == 11, said
    for process in crowd:
        process.communicate("close\n")
    assert not (tmp_path / "fbnet-mobile").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small or read-only disk takes root")
def test_a_full_or_read_only_folder_on_the_device_is_one_line(make: Make, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    try:
        (tmp_path / "model").write_bytes(bytes(100_000))
        (disk / "fbnet-mobile/run-dead").mkdir(parents=True)
        left = disk / "fbnet-mobile/run-dead/left"
        fill(left)
        board = make()
        board.default_folder = str(disk)
        with board:  # what fills it is a dead job's
            board.push([tmp_path / "model"])
        assert not list(disk.iterdir())

        fill(disk / "somebody's")
        with pytest.raises(DeviceFullError, match=r"^board is full: .*; make room there$"):
            board.push([tmp_path / "model"])
        (disk / "somebody's").unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(JobError, match=r"cannot make a folder on board: .*[Rr]ead-only.*; choose another place"):
            board.push([tmp_path / "model"])
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(path: Path) -> None:
    """Until the disk is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def holding(tmp_path: Path, name: str) -> "subprocess.Popen[str]":
    """Another process that uses a device."""
    program = (
        "import sys\n"
        "from fbnet_mobile.devices import get_device\n"
        f"device = get_device({name!r})\n"
        "print(next(device.run(['echo', 'mine'])), flush=True)\n"
        "sys.stdin.read()\n"
        "device.close()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    return process


def test_this_machine_has_one_job_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    other = holding(tmp_path, "host")
    with HostDevice() as host:
        host.state()
        with pytest.raises(DeviceBusyError, match=rf"^host is in use by .*, pid {other.pid}\) since "):
            list(host.run(["true"]))
        other.send_signal(signal.SIGKILL)
        other.wait()
        list(host.run(["true"]))
        with HostDevice() as another:  # of the same process
            list(another.run(["true"]))
        list(host.run(["true"]))
    finished = holding(tmp_path, "host")
    finished.communicate("")
    assert finished.returncode == 0


def test_a_board_has_one_job_at_a_time(sshd: Sshd, tmp_path: Path) -> None:
    other = holding(tmp_path, "board")
    with get_device("board") as board:
        with pytest.raises(DeviceBusyError, match=rf"^board is in use by .*, pid {other.pid}\) since "):
            list(board.run(["true"]))
        other.send_signal(signal.SIGKILL)
        other.wait()
        list(board.run(["true"]))
        assert len(list((sshd.home / "fbnet-mobile").glob("run-*"))) == 1
    assert not (sshd.home / "fbnet-mobile").exists()
