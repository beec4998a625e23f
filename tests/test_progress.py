"""What is said and drawn meanwhile, on a terminal, in a file, and when told to be quiet."""

import os
import pty
import re
import subprocess
import sys
import threading

import pytest

PROGRAM = """
import contextlib, sys
from fbnet_mobile.progress import ProgressBar, steps
from fbnet_mobile.remarks import quiet, say
with quiet() if sys.argv[1] == "quiet" else contextlib.nullcontext():
    say("first")
    with ProgressBar("reading", 4) as bar:
        bar.advance(2, "half of it")
        bar.say("second")
        bar.advance(2)
    with ProgressBar("hidden", 4, show=False) as bar:
        bar.say("not this")
    with steps() as advance:
        advance("measuring", 1, 2)
        advance("measuring", 2, 2)
print("result")
"""


def run(how: str, *, terminal: bool, **more: str) -> str:
    """What is written to stderr; "result" must be all of stdout."""
    kept = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS"}}
    outside, inside = pty.openpty() if terminal else os.pipe()
    said: list[bytes] = []

    def read() -> None:
        try:
            while part := os.read(outside, 4096):
                said.append(part)
        except OSError:  # how a terminal says that nobody writes any more
            pass

    reader = threading.Thread(target=read)
    reader.start()
    command = [sys.executable, "-c", PROGRAM, how]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=inside, check=True, env={**kept, "TERM": "xterm-256color", **more}
    )
    os.close(inside)
    reader.join()
    os.close(outside)
    assert done.stdout == b"result\n"
    return b"".join(said).decode()


COLOUR = re.compile(r"\x1b\[[\d;]*[1-9][\d;]*m")


def test_a_terminal_has_a_bar_and_remarks_and_colours_unless_told() -> None:
    said = run("", terminal=True)
    assert all(word in said for word in ("first\r\n", "reading", "half of it", "second", "measuring"))
    assert "not this" not in said
    assert COLOUR.search(said)
    without = run("", terminal=True, NO_COLOR="1")
    assert "half of it" in without
    assert not COLOUR.search(without)


@pytest.mark.parametrize("more", [{}, {"FORCE_COLOR": "1"}])
def test_a_file_has_lines_and_no_bar(more: dict[str, str]) -> None:
    assert run("", terminal=False, **more) == "first\nsecond\nmeasuring: 2 of 2\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_quiet_is_quiet(terminal: bool) -> None:
    assert run("quiet", terminal=terminal) == ""
