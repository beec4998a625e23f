"""A short form of ``make fuzz``: each kind of input, the same every time; and the small cases that were found."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from fbnet_mobile.errors import UserError
from tests.fuzz import seeds
from tests.fuzz.generate import smallest
from tests.fuzz.guard import MisbehavedError, guarded
from tests.fuzz.targets import TARGETS, Reader, Target, own_folder

CASES = Path(__file__).parents[1] / "cases"
INPUTS = {"run-folder": 8, "model-file": 8, "image-folder": 15, "command-line": 15, "journal": 15, "table": 20}
BY_KIND = {target.kind: target for target in TARGETS}


def read(target: Target, content: Any) -> bool:
    """Whether an input is accepted."""
    with own_folder() as folder, guarded(folder) as outcome:
        target.run(content, folder)
    return outcome.refused is None


@pytest.fixture(scope="module", autouse=True)
def _reader() -> Iterator[None]:
    yield
    Reader.of_all().end()


@pytest.mark.parametrize("target", TARGETS, ids=[target.kind for target in TARGETS])
def test_what_nobody_would_write_is_refused_in_one_line(target: Target) -> None:
    target.prepare()

    @settings(
        max_examples=INPUTS.get(target.kind, 40),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(target.strategy)
    def all_of_them(content: Any) -> None:
        read(target, content)

    all_of_them()


@pytest.mark.parametrize("target", [target for target in TARGETS if target.guided()], ids=lambda target: target.kind)
def test_what_the_inputs_are_made_of_is_right(target: Target) -> None:
    target.prepare()
    assert all(read(target, content) for content in target.guided())


@pytest.mark.parametrize("words", seeds.COMMANDS, ids=" ".join)
def test_the_command_lines_that_are_spoiled_are_right(words: list[str]) -> None:
    BY_KIND["command-line"].prepare()
    assert read(BY_KIND["command-line"], words)


def hang(*_: Any) -> None:
    while True:
        pass


def wait(*_: Any) -> None:
    time.sleep(60)


def leak(*_: Any) -> None:
    Path("/tmp/fuzz-outside").write_text("x")


def run_something(*_: Any) -> None:
    import subprocess

    subprocess.run(["true"], check=False)


def two_lines(*_: Any) -> None:
    raise UserError("a\nb")


def divide(*_: Any) -> None:
    try:
        raise ZeroDivisionError("planted")
    except LookupError:
        pass


def swallow(*_: Any) -> None:
    """As code that takes whatever happens for a damaged file."""
    try:
        leak()
    except Exception as error:
        raise UserError("damaged") from error


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        (hang, MisbehavedError, "took more than 0.2 s"),
        (wait, MisbehavedError, "had not ended after 2.0 s"),
        (leak, MisbehavedError, "wrote outside its folder: open /tmp/fuzz-outside"),
        (swallow, MisbehavedError, "wrote outside its folder: open /tmp/fuzz-outside"),
        (run_something, MisbehavedError, "ran something: subprocess.Popen"),
        (two_lines, MisbehavedError, "not one short line"),
        (divide, ZeroDivisionError, "planted"),
    ],
)
def test_a_fault_of_a_parser_is_found(
    fault: Any, error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.fuzz.guard.TIME_LIMIT_S", 0.2)
    monkeypatch.setattr("fbnet_mobile.arch.architecture.parse_yaml", fault)
    with pytest.raises(error, match=said):
        read(BY_KIND["architecture"], seeds.ARCHITECTURES[0].encode())
    assert not Path("/tmp/fuzz-outside").exists()


def test_what_fails_is_made_small() -> None:
    assert smallest(b"some bytes, and an X among them", lambda data: b"X" in data) == b"X"
    assert smallest(["train", "--seed", "X"], lambda words: "X" in words) == ["X"]


# One for each kind of fault that was found; see ../cases/README.md.


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("devices", "devices-control-character.yaml", "pi: python: control characters are not allowed"),
        ("table", "table-longer-line.csv", "lines have more values than there are columns"),
        ("architecture", "architecture-4401-digits.yaml", ":10: not valid YAML"),
        ("space", "space-tiny-step.yaml", "resolution: range from 0 to 1 in steps of 1e-09"),
    ],
)
def test_a_case_is_refused(kind: str, name: str, said: str) -> None:
    target, content = BY_KIND[kind], (CASES / name).read_bytes()
    target.prepare()
    with own_folder() as folder, guarded(folder) as outcome:
        target.run(content, folder)
    assert said in str(outcome.refused)


def test_statistics_that_contradict_one_another_are_no_sample(tmp_path: Path) -> None:
    from fbnet_mobile.measure.benchmark_model import parse_output

    whole = seeds.OUTPUTS[0].split("__FBNET")[0]
    assert parse_output(whole.splitlines()) is not None
    assert parse_output(whole.replace("min=32810", "min=35000").splitlines()) is None
    # Far apart, but in order: a table of it can be read again.
    BY_KIND["benchmark-model"].run(seeds.OUTPUTS[0].replace("min=32810", "min=1").encode(), tmp_path)


def test_a_model_file_that_brings_its_reader_down_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    target = BY_KIND["model-file"]
    target.prepare()
    monkeypatch.setattr(Reader, "_now", None)
    with monkeypatch.context() as patch:
        patch.setattr("tests.fuzz.targets._read_model", lambda _: os.kill(os.getpid(), signal.SIGKILL))
        with pytest.raises(MisbehavedError, match="killed by signal 9"):
            read(target, seeds.models()[0])
    assert read(target, seeds.models()[0])
    Reader.of_all().end()
