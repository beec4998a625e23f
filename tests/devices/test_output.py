"""What a program or a device prints is bounded, whatever it prints."""

import subprocess
import sys
from pathlib import Path

import pytest

from fbnet_mobile.devices import HostDevice, ProgramError, output
from fbnet_mobile.devices.output import LINE_BYTES, EndlessError, LastWords, SilentError, read_lines
from tests.devices.test_lock import Board


def started(code: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_lines_come_whole_but_not_endless() -> None:
    process = started("import sys; sys.stdout.write('a\\r\\n\\nb' + 'x' * 3000000 + '\\nend')")
    lines = list(read_lines(process))
    assert lines[:2] == ["a", ""]
    assert len(lines[2]) == LINE_BYTES
    assert lines[2:][-1] == "end"
    assert len(lines) == 4
    process.wait()


def test_of_messages_the_last_are_kept() -> None:
    process = started("import sys\nfor n in range(300000): print('word', n, file=sys.stderr)")
    words = LastWords(process)
    assert list(read_lines(process)) == []
    process.wait()
    assert words.lines()[-1] == "word 299999"
    assert sum(map(len, words.lines())) < 1 << 16


def test_silence_and_endlessness_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    process = started("import time; print('x', flush=True); time.sleep(60)")
    lines = read_lines(process, 5)
    assert next(lines) == "x"
    with pytest.raises(SilentError):
        list(read_lines(process, 0.05))
    process.kill()
    process.wait()
    monkeypatch.setattr(output, "OUTPUT_BYTES", 100_000)
    process = started("while True: print('y' * 100)")
    with pytest.raises(EndlessError):
        list(read_lines(process))
    process.kill()
    process.wait()


def test_a_program_that_does_not_stop_printing_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "OUTPUT_BYTES", 100_000)
    for device in (HostDevice(), Board("board")):
        if isinstance(device, Board):
            device.default_folder = str(tmp_path)
        with device, pytest.raises(ProgramError, match=r"yes on (host|board) printed more than"):
            list(device.run(["yes"]))
    assert not list(tmp_path.iterdir())
