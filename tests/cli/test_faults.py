"""What a command line may hold that no command can do: one short line, before any work, and nothing is written."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fbnet_mobile.cli.common import one_line
from fbnet_mobile.errors import JobError

TRAIN = ("train", "--architecture", "fbnetv2-f1", "--data", "digits")
LONG = "x" * 5000


def call(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", [f"fbnet-{words[0]}", *words[1:]])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"fbnet_mobile.cli.{words[0]}").main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("profile", "-o", "a.csv", "--num-classes", "0"), "num_classes is 0; give a whole number from 1 to"),
        (("profile", "-o", "a.csv", "--num-classes", "1000000000"), "num_classes is 1000000000; give a whole"),
        (("profile", "-o", "a.csv", "--networks", "1000000000"), "networks is 1000000000; give a whole number from 0"),
        (("profile", "-o", ""), "output is empty; give a path"),
        (("profile", "-o", "/"), "cannot write '/': it names no file; choose another output path"),
        (("profile", "-o", "."), "cannot write '.': it names no file; choose another output path"),
        (("profile", "-o", f"{LONG}.csv"), "the name is too long; choose a shorter output path"),
        (("profile", "-o", "/dev/null"), "cannot write /dev/null: no regular file"),
        (("profile", "-o", "net.yaml/a.csv"), "net.yaml is not a folder; choose another output path"),
        (("profile", "-o", "net.yaml", "--space", "net.yaml"), "cannot write net.yaml: it is one of the inputs"),
        (("profile", "-o", "a.csv", "--space", "a\nb"), "unknown space 'a\\nb'"),
        (("profile", "-o", "a.csv", "--space", LONG), "unknown space 'xxxxx"),
        (("train", "--architecture", LONG, "--data", "digits", "-o", "out"), "unknown network 'xxxxx"),
        (("benchmark", "m.tflite", "--by-block"), "--by-block: no file is run by onnxruntime or openvino"),
        (("benchmark", f"{LONG}.tflite"), "there is no model at xxxxx"),
        (("profile", "--check-device", LONG), "unknown device"),
        ((*TRAIN, "-o", "out", "--seed", "4294967296"), "seed is 4294967296; give a whole number from 0 to 4294967295"),
        ((*TRAIN, "-o", "out", "--learning-rate", "nan"), "learning_rate is nan; give a finite number above 0"),
        ((*TRAIN, "-o", "out", "--accelerator", "tpu"), "unknown accelerator 'tpu'"),
        ((*TRAIN, "-o", "out", "--mixed-precision", "8-bit"), "unknown mixed precision '8-bit'"),
        ((*TRAIN, "-o", "out", "--devices", "0"), "'0' is not a number of devices; give one from 1 to 1024, or auto"),
        ((*TRAIN, "-o", "net.yaml"), "cannot write net.yaml: a file stands there that is no earlier result"),
        ((*TRAIN, "-o", f"deep/{LONG}"), "the name is too long; choose a shorter output path"),
        ((*TRAIN, "-o", "out", "--epochs", "two"), "'two' is not a valid integer"),
        (("export", "--model", "a\nb", "-o", "m.onnx"), "unknown network 'a\\nb'"),
        (("export", "--model", "fbnetv2-f1", "-o", ""), "output is empty"),
        (("search", "--data", "digits", "--space", "small", "--max-macs", "nan", "-o", "out"), "'nan' is not a count"),
        (("benchmark", "m.tflite", "-o", "m.tflite"), "cannot write m.tflite: it is one of the inputs"),
        (("benchmark", "m.tflite", "-o", "link.json"), "cannot write link.json: it is one of the inputs"),
        (("benchmark", "m.tflite", "-o", "best.pt"), "best.pt: a file stands there that is no earlier"),
        (("benchmark", "m.tflite", "-o", "other.json"), "other.json: a file stands there that is no earlier"),
        (("benchmark", "m.tflite", "-o", "/dev/null"), "no regular file"),
        (("benchmark", "m.tflite", "-o", "images"), "a folder stands there that is no earlier result"),
        (("benchmark", "m.tflite", "-o", "kept.json"), "cannot write kept.json.args.yaml: a file stands there that is"),
    ],
)  # fmt: skip
def test_one_line_at_once_and_nothing_is_written(
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for name, text in (
        ("net.yaml", "name: x\n"),
        ("m.tflite", "a model"),
        ("best.pt", "weights"),
        ("other.json", '{"models": []}'),
        ("kept.json.args.yaml", "of something else"),
    ):
        (tmp_path / name).write_text(text)
    (tmp_path / "link.json").symlink_to("m.tflite")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert call(words, monkeypatch) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert message in said.err
    assert said.err.count("\n") == 1
    assert len(said.err) < 600
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_cannot_be_written_to_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user without permission; root, who runs tests in a container, has every one."""
    from fbnet_mobile.api.call import check_output
    from fbnet_mobile.errors import UserError

    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(UserError, match="permission denied; choose another output path, or allow"):
        check_output(tmp_path / "a.csv")
    with pytest.raises(UserError, match="permission denied; choose another output path, or allow"):
        check_output(tmp_path / "not" / "there" / "yet")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "error: too little memory: what was asked for does not fit; take fewer"),
        (MemoryError("Unable to allocate 9.3 GiB for an array"), "error: too little memory: 9.3 GiB were asked for"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000 bytes. Error code 12"),
            "error: too little memory: 4000 bytes were asked for at once; take fewer images at a time",
        ),
        (OSError(28, "No space left on device", "run/x"), "error: run/x: No space left on device"),
    ],
)
def test_too_little_memory_or_space_is_one_line(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("fbnet_mobile.zoo.zoo_names", fail)
    assert call(("benchmark", "--list-models"), monkeypatch) == 1
    shown = capfd.readouterr().err
    assert shown.startswith(said)
    assert shown.count("\n") == 1


def test_an_interrupted_command_promises_only_what_is_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fbnet_mobile.measure.profile.profile", interrupt)
    monkeypatch.setattr("fbnet_mobile.zoo.load_network", interrupt)
    for words, said in (
        (("profile", "-o", "a.csv"), "interrupted; the same command continues where it was\n"),
        (("export", "--model", "fbnetv2-f1", "-o", "m.onnx"), "interrupted; the same command begins again\n"),
        (("benchmark", "--list-models"), "interrupted\n"),
    ):
        assert call(words, monkeypatch) == 130
        assert capfd.readouterr().err.splitlines(keepends=True)[-1] == said


def test_json_is_all_there_is_on_stdout_even_when_libraries_print(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from fbnet_mobile.api import benchmark

    published = benchmark.published

    def printing() -> object:
        sys.stdout.write("from Python\n")
        os.write(1, b"from C\n")
        return published()

    monkeypatch.setattr(benchmark, "published", printing)
    assert call(("benchmark", "--list-models", "--json"), monkeypatch) == 0
    said = capfd.readouterr()
    assert len(json.loads(said.out)["networks"]) == 14
    assert "from C" in said.err


def test_a_terminal_without_the_letters_of_a_path_still_shows_it(tmp_path: Path) -> None:
    program = "from fbnet_mobile.cli.train import main; main()"
    words = ["--architecture", "fbnetv2-f1", "--data", "m\udcffd\u00e4", "-o", "out"]
    for locale in ("C", "C.UTF-8"):
        done = subprocess.run(
            [sys.executable, "-c", program, *map(os.fsencode, words)],
            capture_output=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "LC_ALL": locale, "PYTHONIOENCODING": "ascii"},
        )
        assert done.returncode == 2
        assert done.stderr.startswith(b"error: ")
        assert b"xff" in done.stderr
        assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc\x1b[31m", "a\\nb\\tc\\x1b[31m"),
        ("x" * 199, "x" * 199),
        ("no " + "x" * 5000 + " there", "no " + "x" * 60 + "..." + "x" * 60 + " there"),
        ("images für später", "images für später"),
    ],
)
def test_a_message_is_one_line_and_shows_names_that_can_be_read(text: str, shown: str) -> None:
    assert one_line(text) == shown


def test_a_message_of_many_words_is_shortened(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(("profile", *["{a: " * 400] * 3), monkeypatch) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: Got unexpected extra arguments ({a: {a: ")
    assert len(said) < 1600


@pytest.mark.parametrize(
    ("limit", "message"), [("2k", "no network of space small has macs of at most 2,000"), ("x", "'x' is not a count")]
)
def test_limits_are_checked_before_the_images_are_read(
    limit: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def read(*_: object, **__: object) -> None:
        pytest.fail("the images were read")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fbnet_mobile.data.data.load_data", read)
    words = ("search", "--data", "digits", "--space", "small", "--max-macs", limit, "-o", "run")
    assert call(words, monkeypatch) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_with_as_many_class_names_as_there_are_not_logits_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "classes": ("a", "b", "c")}, tmp_path / "odd.pt")
    monkeypatch.chdir(tmp_path)
    assert call(("export", "--checkpoint", "odd.pt", "-o", "m.tflite"), monkeypatch) == 2
    assert "odd.pt: 3 class names for 10 logits; train it again" in capfd.readouterr().err
    assert not (tmp_path / "m.tflite").exists()


def test_a_search_by_a_table_whose_rows_are_all_equal_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from fbnet_mobile.latency.table import BLOCK, LatencyTable, Measurement
    from tests.fuzz import seeds

    def search(*_: object, **__: object) -> None:
        raise JobError("the search begins")

    monkeypatch.setattr("fbnet_mobile.search.loop.search", search)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(seeds.SPACES[0])
    same = Measurement(5.0, *[5.0] * 5, 50, 4, 0.01)
    rows = {(BLOCK, block.key): same for block in seeds.SPACE.candidates()}
    LatencyTable(seeds.conditions(), rows).save(tmp_path / "t.csv")
    words = ("--latency-table", "t.csv", "--space", "space.yaml", "--data", "digits", "--limit", "100")
    assert call(("search", *words, "--target-latency", "1ms", "-o", "run"), monkeypatch) == 1
    said = capfd.readouterr().err
    assert "t.csv: every block takes the same 5 us, by which none can be chosen" in said


def list_models(redirected: str) -> "subprocess.CompletedProcess[str]":
    """What a shell says of the list of published networks as JSON, its streams redirected."""
    program = "from fbnet_mobile.cli.benchmark import main; main()"
    return subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" --list-models --json {redirected}', sys.executable, program],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_result_that_cannot_be_printed_is_one_line() -> None:
    done = list_models("> /dev/full")
    assert (done.returncode, done.stderr) == (1, "error: cannot print the result: no space left on device\n")


def test_closed_streams_are_no_fault() -> None:
    assert (list_models(">&-").returncode, list_models(">&-").stderr) == (0, "")
    done = list_models("2>&- <&-")
    assert len(json.loads(done.stdout)["networks"]) == 14
