"""Files of the user's: what hinders a write or a read is one line, and what stood there stays whole."""

import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from fbnet_mobile import files
from fbnet_mobile.documents import parse_yaml, write_json
from fbnet_mobile.engine.checkpoint import write_tensors
from fbnet_mobile.errors import FbnetError, JobError, UserError
from fbnet_mobile.files import cannot_write, locked, read_text, write_whole


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 1,000 bytes; no longer than needed, as what the tests print may go to a file too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write(path: Path, text: str) -> None:
    with write_whole(path) as partial:
        partial.write_text(text)


def test_a_full_disk_is_one_line_and_the_earlier_file_stays(tmp_path: Path) -> None:
    write(tmp_path / "log.csv", "before")
    for attempt in (
        lambda: write(tmp_path / "log.csv", 2000 * "x"),
        lambda: write_json(tmp_path / "log.csv", list(range(2000))),
        lambda: write_tensors(tmp_path / "log.csv", {"weight": torch.zeros(5000)}, "test"),
    ):
        with full_disk(), pytest.raises(JobError, match=r"^cannot write [^\n]*log\.csv: [^\n]+; free some space"):
            attempt()
    assert (tmp_path / "log.csv").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv"]


@pytest.mark.parametrize(
    "name", ["", "a\nb", "a\x1b[31mb", "x" * 300, "file/below", "zero\0byte", "folder", "pipe", "null"]
)
def test_a_path_that_cannot_be_written_is_one_line_and_nothing_is_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FbnetError) as caught:
        write(tmp_path / name if name else Path(), "mine no more")
    message = str(caught.value)
    assert message.startswith("cannot write ")
    assert message.isprintable()
    assert len(message) < 500
    assert sorted(tmp_path.rglob("*")) == before
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_folder_is_replaced_only_if_it_is_recognised(tmp_path: Path) -> None:
    package = tmp_path / "m.mlpackage"
    package.mkdir()
    (package / "Manifest.json").touch()

    def is_package(path: Path) -> bool:
        return (path / "Manifest.json").exists()

    with write_whole(package, replaces=is_package) as partial:
        partial.mkdir()
        (partial / "Manifest.json").write_text("new")
    assert (package / "Manifest.json").read_text() == "new"
    (package / "Manifest.json").rename(package / "holiday.jpg")
    with (
        pytest.raises(UserError, match="a folder stands there that is no earlier result"),
        write_whole(package, replaces=is_package),
    ):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["m.mlpackage", "holiday.jpg"]


def test_what_is_written_is_on_the_disk_before_it_is_moved_into_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut leaves the old or the new file, never an empty one under its name."""
    happened: list[tuple[str, bool]] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        happened.append((Path(f"/proc/self/fd/{descriptor}").resolve().name, (tmp_path / "a.txt").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    write(tmp_path / "a.txt", "text")
    assert happened == [("a.txt", False), (tmp_path.name, True)]


def test_leftovers_of_processes_that_are_no_more_are_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getppid()):
        (tmp_path / f"{files._SCRATCH}{files._host()}-{pid}-x").mkdir()
    write(tmp_path / "a.txt", "text")
    assert len(list(tmp_path.glob(".partial-*"))) == 1, "that of a living process stays"


@pytest.mark.parametrize(
    "taken",
    [
        "files import locked; lock = locked(path, 'it'); lock.__enter__()",
        "devices.lock import HostLock; lock = HostLock(path)",
    ],
)
def test_what_a_killed_process_has_forked_holds_no_lock(taken: str, tmp_path: Path) -> None:
    program = f"""import os, pathlib, signal, sys, time
path = pathlib.Path(sys.argv[1])
from fbnet_mobile.{taken}
if os.fork() == 0:
    print("forked", flush=True)
    os.kill(os.getppid(), signal.SIGKILL)
time.sleep(60)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as killed:
        try:
            assert killed.stdout is not None
            assert killed.stdout.readline() == b"forked\n"
            killed.wait()
            with locked(tmp_path / "lock", "the phone"):
                pass
        finally:
            os.killpg(killed.pid, signal.SIGKILL)


def test_a_lock_says_who_has_it_and_ends_with_its_process(tmp_path: Path) -> None:
    program = "import sys, pathlib, time; from fbnet_mobile.files import locked\n"
    program += "with locked(pathlib.Path(sys.argv[1]), 'it'): print('held', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", program, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            with (
                pytest.raises(
                    JobError, match=rf"^the phone is in use by process {holder.pid} on \S+ since \S+ \(.*lock\);"
                ),
                locked(tmp_path / "lock", "the phone"),
            ):
                pass
        finally:
            holder.kill()
    with locked(tmp_path / "lock", "the phone"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\nb: " + "9" * 4300, r":2: not valid YAML \(a number of more than 18 digits\)"),
        ("[" * 100_000, r":1: not valid YAML \(nested more than 40 deep\)"),
        ('"\\ud800"', r":1: not valid YAML \(half of a surrogate pair\)"),
        ("&a [*a]", r":1: not valid YAML \(a value inside itself\)"),
        ("a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)), "values"),
        ("!!int x", ": not valid YAML"),
        ("!!timestamp 2026-02-30", ": not valid YAML"),
        ("!!python/object:os.system x", "could not determine a constructor"),
        ("x" * 300_000, ": 300,000 characters; at most 262,144 are read"),
    ],
    ids=["digits", "nesting", "surrogate", "itself", "aliases", "tag", "date", "object", "size"],
)
def test_yaml_is_refused_in_one_line_before_it_takes_time_or_memory(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"^a\.yaml.*{reason}[^\n]*$"):
        parse_yaml(text, "a.yaml")


def test_a_date_is_text() -> None:
    assert parse_yaml("a: 2026-02-30\nb: 2026-01-01", "a.yaml") == {"a": "2026-02-30", "b": "2026-01-01"}


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("pipe", "binary", "missing", ".", "zero\0byte", "x" * 300, "binary/below"):
        with pytest.raises(UserError, match=r"^cannot read [^\n]*$"):
            read_text(tmp_path / name)


def test_reasons_are_told_apart() -> None:
    for number, kind, remedy in (
        (28, JobError, "free some space there"),
        (30, UserError, "choose another output path, or allow writing there"),
        (13, UserError, "choose another output path, or allow writing there"),
        (36, UserError, "choose a shorter output path"),
        (5, JobError, "give the same command again"),
    ):
        error = cannot_write(Path("a"), OSError(number, os.strerror(number)))
        assert type(error) is kind
        assert remedy in str(error)
