"""A disk that is full or read-only, at every write of every command: one line, and the same command goes on later."""

import gc
import importlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.kills import Command, commands, export_content, names, same

ROOT = Path(__file__).parents[2]
FEW_BLOCKS = """
name: few
resolution: 16
classes: 10
stem: {out_channels: 8, stride: 2}
stages:
  - {out_channels: [8, 16], depth: 1, skip: true, expansion_ratio: 2, squeeze_excite: false, kernel_size: 3,
     activation: relu}
head: {conv_channels: 32}
"""
EXPORTS = 4
CASES = ["profile", "search", "train", "benchmark", *(f"export-{number}" for number in range(EXPORTS))]
MOST_KB = 1024
PAGE_KB = 4


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 1 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MOST_KB}k", "tmpfs", path]
    if os.name != "posix" or os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a file system of 1 MB")
    monkeypatch.chdir(path)
    yield path
    monkeypatch.chdir(tmp_path)
    if subprocess.run(["umount", path], check=False).returncode:
        subprocess.run(["umount", "--lazy", path], check=True)
        pytest.fail("something in it was left open")


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Command]:
    """Every command, with what it reads."""
    work = tmp_path_factory.mktemp("inputs")
    made = commands(work, FEW_BLOCKS)
    exports = {f"export-{number}": command for number, command in enumerate(made["export"])}
    words = (str(work / "net.pt"), "--data", "digits", "--images", "20", "-o", "b.json")
    benchmark = Command("benchmark", words, export_content, lambda *_: None)
    return {**{name: made[name][0] for name in ("profile", "search", "train")}, "benchmark": benchmark, **exports}


def leave(disk: Path, free_kb: int) -> None:
    """Fill it but for this much."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    found = os.statvfs(disk)
    taken = found.f_bavail * found.f_frsize - free_kb * 1024
    if taken > 0:
        filler.write_bytes(bytes(taken))


def call(command: Command, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Its exit code, and its one line if it failed."""
    monkeypatch.setattr("sys.argv", [f"fbnet-{command.command}", *command.words])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"fbnet_mobile.cli.{command.command}").main()
    code, lines = int(ended.value.code or 0), capfd.readouterr().err.splitlines()
    del ended
    gc.collect()  # its traceback, and the open files in it
    errors = [line for line in lines if line.startswith("error: ")]
    assert not [line for line in lines if "Traceback" in line or "Exception" in line or "Warning" in line], lines
    assert len(errors) == (code != 0), lines
    assert code in (0, 1, 2)
    if code:
        assert lines[-1] == errors[0]
    return code, "".join(errors)


def undisturbed(command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    folder.mkdir()
    command.before(folder)
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", [f"fbnet-{command.command}", *command.words])
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(f"fbnet_mobile.cli.{command.command}").main()
    assert not ended.value.code
    return command.content(folder)


def nothing_half_written(folder: Path) -> None:
    left = [name for name in names(folder) if ".partial-" in name or name.endswith("lock") or "/tmp" in name]
    assert not left


@pytest.mark.parametrize("case", CASES)
def test_with_ever_more_room_a_command_ends_as_if_there_had_been_enough(
    case: str,
    disk: Path,
    known: dict[str, Command],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = known[case]
    right = undisturbed(command, tmp_path / "undisturbed", monkeypatch)
    right["names"] = [name for name in right["names"] if not name.endswith("report.html")]  # larger than the disk
    command.before(disk)
    failed = []
    for free_kb in range(0, MOST_KB, (2 if case in ("search", "profile") else 1) * PAGE_KB):
        before = set(names(disk)) - {"filler"}
        leave(disk, free_kb)
        code, line = call(command, capfd, monkeypatch)
        (disk / "filler").unlink(missing_ok=True)
        nothing_half_written(disk)
        if code == 0:
            break
        assert code == 1
        assert "no space left on device; free some space there and give the same command again" in line
        assert before <= set(names(disk))
        command.whole(disk, right)
        failed.append(line)
    # Where an earlier file is replaced, there is room for the options beside it afterwards.
    least = {"profile": 4, "search": 4, "train": 3, "benchmark": 2}.get(case, 1)
    assert len(set(failed)) >= least, "it was stopped at several writes"
    same(command.content(disk), right, case)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", CASES)
def test_what_is_read_only_is_one_line_and_nothing_is_lost(
    case: str,
    disk: Path,
    known: dict[str, Command],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A new output, and one that was half done when the disk became full."""
    command = known[case]
    for half_done in (False, True):
        if half_done:
            command.before(disk)
            leave(disk, 6 * PAGE_KB)
            call(command, capfd, monkeypatch)
        before = files(disk)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        try:
            code, line = call(command, capfd, monkeypatch)
        finally:
            subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        assert code == 2
        assert "read-only file system; choose another output path, or allow writing there" in line
        assert files(disk) == before


@pytest.mark.parametrize("case", CASES)
def test_a_disk_that_becomes_read_only_at_a_write(
    case: str,
    disk: Path,
    known: dict[str, Command],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the output was checked and before anything is written, as where a card is pulled out."""
    command = known[case]
    command.before(disk)
    before = files(disk)
    monkeypatch.setattr("os.access", lambda *_: True)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        code, line = call(command, capfd, monkeypatch)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert code == 2
    assert "read-only file system; choose another output path, or allow writing there" in line
    assert files(disk) == before


@pytest.mark.parametrize("case", ["profile", "export-0", "export-1", "export-2", "export-3", "benchmark"])
def test_no_room_for_temporary_files_is_one_line(
    case: str,
    disk: Path,
    known: dict[str, Command],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = known[case]
    output = tmp_path / "output"
    output.mkdir()
    command.before(output)
    monkeypatch.chdir(output)
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    monkeypatch.setenv("TMPDIR", str(disk))
    leave(disk, 0)
    code, line = call(command, capfd, monkeypatch)
    if code:
        assert "o space left on device" in line
        assert code == 1
        nothing_half_written(output)
    (disk / "filler").unlink()
    assert call(command, capfd, monkeypatch)[0] == 0


@pytest.mark.parametrize("case", ["search", "train"])
def test_when_the_first_process_cannot_write_the_others_end_too(
    case: str, known: dict[str, Command], tmp_path: Path
) -> None:
    """Two processes as torchrun starts them, on two machines: nobody ends the one when the other has."""
    words = [*known[case].words, "--accelerator", "cpu", "--devices", "2"]
    if case == "search":
        first = words[words.index("--target-latency") + 1].split(",")[0].removesuffix("us")
        (tmp_path / "run" / f"{float(first):g}us").mkdir(parents=True)
        (tmp_path / "run" / f"{float(first):g}us" / "tensorboard").write_text("no folder")
    else:
        (tmp_path / "run" / "results.csv").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    program = f"from fbnet_mobile.cli.{case} import main; main()"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, *words],
            cwd=tmp_path,
            env={**os.environ, **world, "RANK": rank, "LOCAL_RANK": rank, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        said = [process.communicate(timeout=300)[1].splitlines()[-1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [2, 1]
    assert said[0].startswith("error: cannot write run/")
    assert said[1] == said[0].replace("error: ", "error: the first process failed: ")
