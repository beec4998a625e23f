"""Against OpenSSH's own daemon on loopback."""

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from fbnet_mobile.devices import (
    DeviceFullError,
    DeviceLostError,
    DeviceState,
    HostDevice,
    ProgramError,
    SshDevice,
    get_device,
)
from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.measure.jobs import Failure, run_models, runtime_version
from fbnet_mobile.measure.plan import MeasuringPlan
from tests.devices.lab import Sshd

Record = Callable[[str, object], None]
PLAN = MeasuringPlan(warmup_ms=0, min_ms=0.1)


def remote_files(sshd: Sshd) -> list[Path]:
    return sorted(path for path in (sshd.home / "fbnet-mobile").rglob("*") if path.is_file())


def test_programs_run_and_their_end_is_told(sshd: Sshd) -> None:
    with get_device("board") as board:
        assert list(board.run(["printf", "a b\\n\\nc\\n"])) == ["a b", "", "c"]
        assert list(board.run(["printf", "no end of line"])) == ["no end of line"]
        with pytest.raises(ProgramError, match="sh on board ended with code 255: why") as ended:
            list(board.run(["sh", "-c", "echo why >&2; exit 255"]))
        assert ended.value.code == 255
        with pytest.raises(ProgramError) as ended:
            list(board.run(["sh", "-c", "kill -SEGV $$"]))
        assert ended.value.code == 139


@pytest.mark.parametrize(
    "nasty", ["a; touch hit", "$(touch hit)", "`touch hit`", "it's", 'say "hi"', "-rf", "a\nb", "ü"]
)
def test_a_name_cannot_run_anything(sshd: Sshd, nasty: str, tmp_path: Path) -> None:
    hit = f"hit-{uuid.uuid4()}"  # of this run alone: nothing that was there before counts
    nasty = nasty.replace("hit", hit)
    path = tmp_path / nasty.replace("/", "_") / f"{nasty}.tfl;ite"
    path.parent.mkdir()
    path.write_text(nasty)
    with get_device("board") as board:
        (remote,) = board.push([path])
        assert list(board.run(["cat", remote])) == nasty.split("\n")
        assert list(board.run(["printf", "%s\\n", nasty])) == nasty.split("\n")
        board.pull(remote, tmp_path / "back")
        assert (tmp_path / "back").read_text() == nasty
    with pytest.raises(UserError, match="is no address; write ssh:user@board"):
        SshDevice(f"ssh:{nasty};")
    with pytest.raises(UserError, match="is no address"):
        SshDevice(f"ssh:-oProxyCommand=touch {hit}")
    assert not list(sshd.folder.rglob(hit))
    assert not any((place / hit).exists() for place in (Path(), Path.home()))


def test_files_go_in_one_batch_are_reused_and_are_removed(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for number in range(2000):
        paths.append(tmp_path / f"{number}.tflite")
        paths[-1].write_bytes(number.to_bytes(4, "big") * 100)
    sent: list[int] = []
    send = SshDevice._send

    def counted(self: SshDevice, files: Mapping[str, Path], folder: str) -> None:
        sent.append(len(files))
        send(self, files, folder)

    monkeypatch.setattr(SshDevice, "_send", counted)
    with get_device("board") as board:
        remote = board.push(paths)
        assert board.push(paths) == remote
        assert sent == [2000]
        assert Path(remote[7]).read_bytes() == paths[7].read_bytes()
        Path(remote[7]).write_bytes(b"cut")
        board.reconnect()
        assert board.push([*paths, paths[3]])[7] == remote[7]
        assert sent == [2000, 1]
        assert Path(remote[7]).read_bytes() == paths[7].read_bytes()
    assert remote_files(sshd) == []


def test_it_says_what_it_is(sshd: Sshd) -> None:
    with get_device("board") as board:
        facts, state, host = board.facts(), board.state(), HostDevice()
        assert (facts.cpu, facts.memory_mb) == (host.facts().cpu, host.facts().memory_mb)
        assert facts.cores == os.cpu_count()
        assert state.load_1m is not None
        assert state.affinity[0].isdigit()


def test_a_greeting_of_the_login_shell_is_not_an_answer(sshd: Sshd, tmp_path: Path) -> None:
    """bash reads ~/.bashrc when sshd runs it; other shells have such files too."""
    greeting = sshd.home / ".bashrc"
    greeting.write_text("echo; echo Welcome to this board; printf 'no end of line'\n")
    (tmp_path / "model").write_text("a\nmodel")
    try:
        with get_device("board") as board:
            assert list(board.run(["echo", "answer"])) == ["answer"]
            assert next(iter(board.run([board.python, "--version"]))).startswith("Python 3")
            (remote,) = board.push([tmp_path / "model"])
            board.pull(remote, tmp_path / "back")
            assert (tmp_path / "back").read_text() == "a\nmodel"
            assert board.facts().cpu == HostDevice().facts().cpu
    finally:
        greeting.unlink()


def test_its_state_is_told_or_it_is_lost(sshd: Sshd) -> None:
    with get_device("board") as board:
        assert board.state().load_1m is not None
        sshd.stop()
        try:
            with pytest.raises(DeviceLostError, match="cannot reach board"):
                board.state()
            with pytest.raises(DeviceLostError):
                get_device("board").state()
        finally:
            sshd.start()
        board.reconnect()
        assert board.state().load_1m is not None


def test_closing_never_fails(sshd: Sshd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    board = get_device("board")
    list(board.run(["true"]))
    assert isinstance(board, SshDevice)
    real = subprocess.run

    def late(command: list[str], **options: object) -> object:
        if "exit" in command:
            raise subprocess.TimeoutExpired(command, 10)
        return real(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", late)
    board.close()
    board.close()


def test_the_runner_and_the_state_of_affinity(sshd: Sshd, models: list[Path]) -> None:
    with get_device("board") as board, HostDevice() as host:
        board.settings = board.settings.model_copy(update={"affinity": "0"})
        assert list(board.run(["sh", "-c", "grep Cpus_allowed_list /proc/self/status"])) == ["Cpus_allowed_list:\t0"]
        assert board.state().affinity == "0"
        assert runtime_version(board, "litert") == runtime_version(host, "litert")
        samples = dict(run_models(board, "litert", 1, models, PLAN))
        assert list(samples) == [0, 1, 2]
        assert all(sample.min_us > 0 for sample in samples.values())


@pytest.fixture
def reconnections(monkeypatch: pytest.MonkeyPatch) -> list[SshDevice]:
    made: list[SshDevice] = []
    again = SshDevice.reconnect
    monkeypatch.setattr(SshDevice, "reconnect", lambda self: (made.append(self), again(self)))
    return made


def test_a_connection_that_breaks_in_mid_block_is_made_again(
    sshd: Sshd, models: list[Path], reconnections: list[SshDevice], record_property: Record
) -> None:
    with get_device("board") as board:
        board.settings = board.settings.model_copy(update={"pause_s": 0.3})
        done = []
        for number, sample in run_models(board, "litert", 1, models * 4, PLAN):
            done.append(number)
            assert not isinstance(sample, Failure)
            if number in {2, 7}:
                time.sleep(0.1)
                sshd.kill_sessions()
        assert done == list(range(12))
        assert len(reconnections) >= 2
    record_property("faults", 2)


def test_a_board_that_reboots_is_waited_for_and_gets_its_files_again(
    sshd: Sshd, models: list[Path], reconnections: list[SshDevice], record_property: Record
) -> None:
    with get_device("board") as board:
        board.settings = board.settings.model_copy(update={"pause_s": 0.3})
        done = []
        for number, sample in run_models(board, "litert", 1, models * 2, PLAN):
            done.append(number)
            assert not isinstance(sample, Failure)
            if number == 1:
                sshd.stop()
                for path in remote_files(sshd):
                    path.unlink()
                threading.Timer(1.5, sshd.start).start()
        assert done == list(range(6))
        assert reconnections
    record_property("faults", 1)


def test_a_board_that_stays_away_ends_the_job_in_one_line(
    sshd: Sshd, models: list[Path], record_property: Record
) -> None:
    record_property("faults", 1)
    with get_device("board") as board:
        board.settings = board.settings.model_copy(update={"reconnect_s": 1.0, "pause_s": 0.3})
        run = run_models(board, "litert", 1, models * 10, PLAN)
        next(run)
        sshd.stop()
        try:
            with pytest.raises(
                JobError, match=r"does not come back: .*run the same command again to continue"
            ) as error:
                list(run)
            assert "\n" not in str(error.value)
            with pytest.raises(DeviceLostError, match="Connection refused; see that `ssh -p"):
                SshDevice(sshd.name).facts()
        finally:
            sshd.start()


def test_a_stranger_s_key_is_refused_in_one_line(sshd: Sshd) -> None:
    with pytest.raises(JobError, match=r"Permission denied .*; see that `ssh -p .* works"):
        SshDevice(sshd.name.replace(sshd.name.split(":")[1].split("@")[0], "nobody-here")).facts()


@pytest.fixture
def faulty(sshd: Sshd, tmp_path: Path) -> Path:
    """A Python on the board in which files whose last byte is C, H or G crash, hang or garble LiteRT."""
    folder = tmp_path / "faults"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        "from ai_edge_litert import interpreter\n"
        "class Faulty(interpreter.Interpreter):\n"
        "    def __init__(self, model_path, num_threads):\n"
        "        with open(model_path, 'rb') as file: fault = file.read()[-1:]\n"
        "        if fault == b'C': os.kill(os.getpid(), 11)\n"
        "        if fault == b'H': time.sleep(1000)\n"
        "        if fault == b'G': os.write(1, b'\\xff{\"model\": 1, \"run')\n"
        "        super().__init__(model_path=model_path, num_threads=num_threads)\n"
        "interpreter.Interpreter = Faulty\n"
    )
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python


def test_a_model_that_crashes_hangs_or_garbles_costs_itself_alone(
    sshd: Sshd, faulty: Path, models: list[Path], record_property: Record
) -> None:
    record_property("faults", 5)
    bad = []
    for fault in (b"C", b"H", b"G"):
        bad.append(models[0].with_name(f"{fault.decode()}.tflite"))
        bad[-1].write_bytes(models[0].read_bytes() + fault)
    broken = models[0].with_name("broken.tflite")
    broken.write_bytes(b"not a model")
    with get_device("board") as board:
        board.settings = board.settings.model_copy(update={"python": str(faulty), "model_limit_s": 3.0})
        ordered = [models[0], bad[0], models[1], bad[1], broken, bad[2], models[2]]
        samples = list(run_models(board, "litert", 1, ordered, PLAN))
        assert [number for number, _ in samples] == list(range(7))
        errors = {number: sample.reason for number, sample in samples if isinstance(sample, Failure)}
        assert set(errors) == {1, 3, 4, 5}
        assert errors[1] == "segmentation fault"
        assert errors[3] == "took too long"
        assert errors[4].startswith("ValueError: ")
        assert errors[5] == "what board said of it could not be read"
        with pytest.raises(JobError, match="failed on 5 models in a row, the last with: segmentation fault"):
            list(run_models(board, "litert", 1, [bad[0]] * 9, PLAN))


def test_a_board_that_says_nothing_is_given_up(sshd: Sshd) -> None:
    with get_device("board") as board:
        board.settings = board.settings.model_copy(update={"model_limit_s": 0.5})
        lines = board._lines("sleep 5", "sleep", 0.5)
        with pytest.raises(DeviceLostError, match="board said nothing for 0 s"):
            list(lines)


def test_a_missing_runtime_or_python_is_named_with_the_remedy(sshd: Sshd, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    bare.chmod(0o755)
    with get_device("board") as board:
        board.settings = board.settings.model_copy(update={"python": str(bare)})
        with pytest.raises(JobError, match="install litert there: python3 -m pip install ai-edge-litert"):
            runtime_version(board, "litert")
        board.settings = board.settings.model_copy(update={"python": "/nowhere/python"})
        with pytest.raises(JobError, match=r"ended with code 127.*not found"):
            runtime_version(board, "litert")


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small disk takes root")
def test_a_disk_that_is_too_small_takes_smaller_batches_or_is_called_full(
    sshd: Sshd, models: list[Path], tmp_path: Path, record_property: Record
) -> None:
    record_property("faults", 2)
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], check=True)
    try:
        padded = []
        for number in range(6):
            padded.append(tmp_path / f"padded{number}.tflite")
            padded[-1].write_bytes(models[0].read_bytes() + bytes(40_000 + number))
        huge = tmp_path / "huge.tflite"
        huge.write_bytes(bytes(200_000))
        with get_device("board") as board:
            board.settings = board.settings.model_copy(update={"folder": str(disk)})
            samples = list(run_models(board, "litert", 1, padded, PLAN))
            assert [number for number, _ in samples] == list(range(6))
            assert not any(isinstance(sample, Failure) for _, sample in samples)
            with pytest.raises(DeviceFullError, match=r"board is full: .*; make room"):
                list(run_models(board, "litert", 1, [huge], PLAN))
        assert not any(disk.iterdir())
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_hot_board_is_waited_for_or_its_samples_are_marked(
    sshd: Sshd, models: list[Path], monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    record_property("faults", 2)
    readings = [80.0, 50.0]
    state = SshDevice.state

    def warm(self: SshDevice) -> DeviceState:
        return replace(state(self), temperature_c=readings.pop(0) if len(readings) > 1 else readings[0])

    monkeypatch.setattr(SshDevice, "state", warm)
    with get_device("board") as board:
        board.settings = board.settings.model_copy(update={"cool_below_c": 60.0, "cool_at_most_s": 20.0})
        assert all(sample.hot_c is None for _, sample in run_models(board, "litert", 1, models, PLAN))
        readings = [80.0]
        board.settings = board.settings.model_copy(update={"cool_at_most_s": 0.1})
        assert all(sample.hot_c == 80.0 for _, sample in run_models(board, "litert", 1, models, PLAN))
