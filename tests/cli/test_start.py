"""Ctrl-C while a command is loaded, while it loads what it needs, and when it is done: real signals to processes."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fbnet_mobile.cli.completion import COMMANDS

START = "import sys; from fbnet_mobile.cli.start import {0}; sys.argv = ['fbnet-{0}', *sys.argv[1:]]; {0}()"


def heed() -> None:
    """Whoever runs the tests in the background has Ctrl-C ignored, which processes inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(program: str, *words: str, stdout: int = subprocess.PIPE) -> "subprocess.Popen[str]":
    """A command as an installation starts it, by a Python that says on stderr what it has loaded."""
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    command = [sys.executable, "-c", program, *words]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=heed)


@pytest.fixture
def nobody_reads() -> Iterator[int]:
    """Where a command waits when it prints its result, so that it is not done before the signal comes."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b" " * 4096)
    os.set_blocking(write, True)
    yield write
    os.close(read)
    os.close(write)


def after_import(process: "subprocess.Popen[str]", module: str) -> None:
    """Send Ctrl-C as soon as Python says that it has loaded a module."""
    assert process.stderr is not None
    for line in process.stderr:
        if re.search(rf"\| +{re.escape(module)}$", line):
            process.send_signal(signal.SIGINT)
            return
    pytest.fail(f"{module} is not loaded")


@pytest.mark.parametrize("command", [name.removeprefix("fbnet-") for name in COMMANDS])
def test_while_the_command_is_loaded(command: str, nobody_reads: int) -> None:
    process = start(START.format(command), "--version", stdout=nobody_reads)
    after_import(process, "click.core")
    assert "Traceback" not in process.communicate(timeout=60)[1]
    assert process.returncode == 130


@pytest.mark.parametrize("module", ["numpy._core.multiarray", "torch._C", "torch"])
def test_while_it_loads_what_it_needs(module: str, tmp_path: Path, nobody_reads: int) -> None:
    words = ("--model", "fbnetv2-f1", "-o", str(tmp_path / "f1.tflite"))
    process = start(START.format("export"), *words, stdout=nobody_reads)
    after_import(process, module)
    said = process.communicate(timeout=60)[1]
    assert "Traceback" not in said
    assert "interrupted" in said
    assert process.returncode == 130


def test_a_library_that_catches_everything_does_not_keep_a_command_running(tmp_path: Path) -> None:
    (tmp_path / "careless.py").write_text(
        "import time\nprint('loading', flush=True)\ntry:\n    time.sleep(60)\nexcept BaseException:\n    pass\n"
    )
    program = """if True:
        import signal
        from fbnet_mobile.cli.start import _interrupt
        signal.signal(signal.SIGINT, _interrupt)
        import careless
        print("it goes on")
    """
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "interrupted\n")
    assert process.returncode == 130


def test_when_the_result_is_printed() -> None:
    process = start(START.format("report"), "--version")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("fbnet-mobile ")
    process.send_signal(signal.SIGINT)
    assert "Traceback" not in process.communicate(timeout=60)[1]
    # It was done, or stopped on its way out, by the signal itself: which shells call 130.
    assert process.returncode in (0, 130, -signal.SIGINT)


def test_who_has_it_ignored_is_not_overruled() -> None:
    ignoring = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {START.format('report')}"
    process = start(ignoring, "--version")
    after_import(process, "click.core")
    assert process.communicate(timeout=60)[0].startswith("fbnet-mobile ")
    assert process.returncode == 0
