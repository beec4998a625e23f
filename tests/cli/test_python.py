"""The example of docs/python.md as it stands there, and each of its steps again from the options kept beside it."""

import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import fbnet_mobile as fm
import fbnet_mobile.search.loop
from fbnet_mobile.errors import UserError
from fbnet_mobile.latency.table import LatencyTable

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the example was run."""
    path = tmp_path_factory.mktemp("python")
    page = (ROOT / "docs" / "python.md").read_text()
    (space,), (example,) = (re.findall(rf"```{language}\n(.*?)```", page, re.S) for language in ("yaml", "python"))
    (path / "tiny.yaml").write_text(space)
    done = subprocess.run([sys.executable, "-c", example], cwd=path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"predicted \S+ us, measured \S+ us\naccuracy \S+% on 179 images\n", done.stdout), (
        "only what the example prints is on stdout"
    )
    return path


Again = Callable[..., dict[str, Any]]


@pytest.fixture
def again(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Again:
    """Run a command with the options of a file and another output; gives the JSON that it prints."""
    monkeypatch.chdir(folder)

    def run(command: str, options: str, output: str, *more: str) -> dict[str, Any]:
        capfd.readouterr()
        monkeypatch.setattr("sys.argv", [f"fbnet-{command}", "--config", options, "-o", output, "--json", *more])
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(f"fbnet_mobile.cli.{command}").main()
        said = capfd.readouterr()
        assert not ended.value.code, said.err
        found: dict[str, Any] = json.loads(said.out, parse_constant=pytest.fail)
        return found

    return run


def test_a_profile_is_repeated(folder: Path, again: Again) -> None:
    record = again("profile", "run/host.csv.args.yaml", "again.csv")
    first, second = (LatencyTable.load(folder / name) for name in ("run/host.csv", "again.csv"))
    assert set(first.blocks()) == set(second.blocks())
    assert record["table"] == "again.csv"
    assert (record["blocks"], record["networks"]) == (len(first.blocks()), len(first.networks()))
    assert (record["estimated"], record["complete_with"]) == (0, "")
    kept = [yaml.safe_load((folder / name).read_text()) for name in ("run/host.csv.args.yaml", "again.csv.args.yaml")]
    assert kept[1] == {**kept[0], "output": "again.csv"}


def test_a_search_is_repeated_and_its_limit_is_the_largest_network(folder: Path, again: Again) -> None:
    record = again("search", "run/search/args.yaml", "again")
    first, second = ((folder / name / "architecture.yaml").read_text() for name in ("run/search", "again"))
    assert first == second
    (found,) = record["found"]
    (limit,) = found["limits"]
    assert limit["limit"] < 1000, "no network of the space takes 1 ms"
    assert 0.98 * limit["limit"] <= limit["value"] <= limit["limit"]
    # Beside what is said of the table, whose warnings depend on the machine.
    (remark,) = (each for each in record["remarks"] if each.startswith("no network of space tiny has latency on host"))
    assert " above " in remark
    assert remark.endswith(" instead of 1000.0 us")
    assert [row["epoch"] for row in found["history"]] == [1, 2]


def test_a_training_is_repeated(again: Again) -> None:
    again("train", "run/train/args.yaml", "trained")
    first, second = (
        again("train", "run/train/args.yaml", name) for name in ("run/train", "trained")
    )  # both are done, so that nothing is trained here
    for record in (first, second):
        for row in record["history"]:
            row.pop("seconds")
        record.pop("checkpoint")
    assert first == second


def test_an_export_is_repeated(folder: Path, again: Again) -> None:
    of_table = (folder / "run/host.csv.args.yaml").read_text()
    record = again("export", "run/model.tflite.args.yaml", "run/host.tflite")
    assert (folder / "run/model.tflite").read_bytes() == (folder / "run/host.tflite").read_bytes()
    assert (folder / "run/host.csv.args.yaml").read_text() == of_table, "that of a table of the same stem"
    assert record["file"]["inputs"] == 179
    assert record["latency"] is None


def test_a_benchmark_is_repeated_and_its_file_is_what_it_prints(folder: Path, again: Again) -> None:
    record = again("benchmark", "run/benchmark.json.args.yaml", "again.json")
    assert record == json.loads((folder / "again.json").read_text())
    (model,) = record["models"]
    assert model["model"] == "run/model.tflite"
    assert model["predicted_us"] > 0
    assert model["no_prediction"] == ""
    assert model["latency"]["min_us"] > 0

    (model,) = again("benchmark", "run/benchmark.json.args.yaml", "again.json", "--threads", "2")["models"]
    assert model["predicted_us"] is None
    assert model["no_prediction"] == "the number of threads is 2, that of the latency table 1"


def test_functions_say_what_is_wrong_as_the_commands_do() -> None:
    with pytest.raises(UserError, match="unknown option 'epoch'; did you mean 'epochs'"):
        fm.train(architecture="fbnetv2-f1", data="digits", output="run", epoch=3)
    with pytest.raises(UserError, match="output is missing; give it"):
        fm.search(data="digits")
    assert fm.search is fbnet_mobile.search, "the room of that name, which can be called"
    signature = inspect.signature(fm.search)
    assert signature.parameters["learning_rate"].default == 0.1
    assert signature.parameters["data"].default is inspect.Parameter.empty
    assert "momentum: Of the weights. [default: 0.9" in fbnet_mobile.api.search.search.__doc__
