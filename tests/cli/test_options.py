"""Options and recipes: each field has an option and each option a field; a file of options counts as the options do."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import pytest
import yaml

from fbnet_mobile.api.call import described
from fbnet_mobile.cli import benchmark, export, profile, report, search, train
from fbnet_mobile.cli.common import CommonOptions, Program, _command, run
from fbnet_mobile.formats.base import FORMATS
from fbnet_mobile.latency.table import STATISTICS
from fbnet_mobile.measure.recipe import ProfileRecipe
from fbnet_mobile.recipe import build, option, plain, recipe_fields

PROGRAMS = {
    program.name: program
    for module in (profile, search, train, export, benchmark, report)
    for program in [module.PROGRAM]
}
GIVEN: dict[str, dict[str, Any]] = {
    "profile": {"output": "t.csv", "space": "fbnetv2-f", "rounds": 3, "budget": "3m", "threads": 2},
    "search": {"output": "run", "data": "digits", "target_latency": ["12ms", "9ms"], "max_macs": "60M", "alpha": 0.3},
    "train": {"output": "run", "data": "digits", "architecture": "fbnetv2-f1", "augmentations": ["flip", "crop"]},
    "export": {"output": "m.tflite", "checkpoint": "best.pt", "tolerance": 0.5, "dynamic_batch": True},
    "benchmark": {"models": ["a.tflite", "b.onnx"], "device": "board", "output": "r.json"},
    "report": {"runs": ["runs/search", "host.csv"], "output": "r.html"},
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_field_has_an_option_and_every_option_a_field(name: str) -> None:
    program = PROGRAMS[name]
    parts = [part for part in (program.options, program.instead, CommonOptions) if part is not None]
    names = [item.name for part in parts for item in recipe_fields(part)]
    params = {param.name: param for param in _command(program).params}
    assert len(set(names)) == len(names), "two fields share a name"
    assert set(params) == set(names)
    for part in parts:
        for item in recipe_fields(part):
            assert item.option.help, f"{item.name} has no help"
            written = [*params[item.name].opts, *params[item.name].secondary_opts]
            assert item.option.argument or f"--{item.name.replace('_', '-')}" in written
            assert item.required or item.default is not None or item.option.shown, f"{item.name}: default not said"


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_recipe_is_the_same_from_words_from_yaml_and_from_its_own_fields(name: str) -> None:
    program, given = PROGRAMS[name], GIVEN[name]
    options = build(program.options, given)
    kept = yaml.safe_load(yaml.safe_dump(plain(options)))
    assert {key: kept[key] for key in given} == given
    assert build(program.options, kept) == options

    from fbnet_mobile.api.call import command_line

    words = command_line(name, options).split()[1:]
    called: dict[str, Any] = {}
    _run(program, words, called)
    assert build(program.options, called) == options


def _run(program: Program, words: list[str], called: dict[str, Any]) -> None:
    """What the work would be called with."""

    def work(**given: Any) -> dict[str, Any]:
        called.update(given)
        return called

    fields = {**vars(program), "work": work, "lines": lambda _: []}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [f"fbnet-{program.name}", *words])
        with pytest.raises(SystemExit) as ended:
            run(Program(**fields))
    assert not ended.value.code


def test_the_command_line_counts_before_the_file_and_the_file_before_the_default(tmp_path: Path) -> None:
    path = tmp_path / "args.yaml"
    path.write_text(
        "architecture: fbnetv2-f1\ndata: digits\noutput: run\nepochs: 7\nbatch-size: 8\ndevices: 2\nteacher: x.pt\n"
    )
    called: dict[str, Any] = {}
    _run(train.PROGRAM, ["--config", str(path), "--epochs", "9", "-o", "other"], called)
    options = build(train.PROGRAM.options, called)
    recipe = options.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.teacher) == (9, 8, 0.1, "x.pt")
    assert (options.task.output, options.machine.devices) == (Path("other"), "2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 7\n", "unknown option 'epoch' for fbnet-train; did you mean 'epochs'?"),
        ("epochs: seven\n", "epochs is seven; give a whole number from 1"),
        ("epochs: true\n", "epochs is True; give a whole number from 1"),
        ("learning_rate: .nan\n", "learning_rate is nan; give a finite number above 0"),
        ("- epochs\n", "holds no options; write lines such as epochs: 30"),
        ("epochs: [1\n", "not valid YAML"),
        ("output:\n", "output is empty; give a value or leave it out"),
        ("output: ''\n", "output is empty; give a path"),
    ],
)
def test_a_file_of_options_that_is_wrong_is_one_line(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "args.yaml"
    path.write_text(text)
    words = ["--config", str(path), "--architecture", "fbnetv2-f1", "--data", "digits"]
    words += [] if text.startswith("output") else ["-o", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", ["fbnet-train", *words])
    with pytest.raises(SystemExit) as ended:
        train.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in said
    assert said.count("\n") == 1


def test_choices_that_are_known_elsewhere_too_agree() -> None:
    known = {item.name: item for item in recipe_fields(ProfileRecipe)}
    assert known["statistic"].option.choices == STATISTICS
    assert all(
        precision in known["precision"].option.help for entry in FORMATS.values() for precision in entry.precisions
    )


def test_importing_the_package_loads_nothing_that_is_slow() -> None:
    code = (
        "import sys, fbnet_mobile as fm; assert not {'torch', 'numpy', 'pandas', 'pydantic'} & set(sys.modules);"
        "assert fm.__version__; fm.load_space('small'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_says_the_value_of_a_default_and_what_there_may_be() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Recipe:
        epochs: int = option(30, low=1, high=99, help="Passes.")
        quick: bool = option(False, help="Or not.")
        mode: Literal["one", "two"] = option("two", help="Which.")
        table: str | None = option(None, shown="none", help="File.")
        output: Path = option(help="Folder.")

    assert {item.name: described(item) for item in recipe_fields(Recipe)} == {
        "epochs": "[default: 30; from 1 to 99]",
        "quick": "[default: no]",
        "mode": "[default: two; one of one, two]",
        "table": "[default: none]",
        "output": "[required]",
    }


def test_help_is_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    context = click.Context(_command(train.PROGRAM))
    text = context.get_help()
    headings = [line for line in text.splitlines() if line and not line.startswith(" ") and line.endswith(":")]
    assert headings == [
        "Network:",
        "Images:",
        "Training:",
        "Teacher:",
        "Augmentation:",
        "Machine:",
        "Instead of training:",
        "Other:",
    ]
