"""What all commands have in the same way: names of options, the version, quiet, and completion in a real bash."""

import os
import pty
import select
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fbnet_mobile import __version__
from fbnet_mobile.cli import benchmark, export, profile, report, search, train
from fbnet_mobile.cli.common import Program, run
from fbnet_mobile.cli.completion import COMMANDS
from fbnet_mobile.errors import JobError
from fbnet_mobile.recipe import RecipeField, recipe_fields
from fbnet_mobile.remarks import say
from fbnet_mobile.space import SearchSpace, packaged_spaces
from tests.conftest import MakeFolder

PROGRAMS = [module.PROGRAM for module in (profile, search, train, export, benchmark, report)]
Type = Callable[..., tuple[str, str]]


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"no {shell}")


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Type:
    """Run a command that succeeds: what it prints on stdout and on stderr."""

    def call(program: Program, *words: str) -> tuple[str, str]:
        monkeypatch.setattr("sys.argv", [f"fbnet-{program.name}", *words])
        with pytest.raises(SystemExit) as ended:
            run(program)
        said = capfd.readouterr()
        assert not ended.value.code, said.err
        return said.out, said.err

    return call


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_every_command_says_its_version(program: Program, typed: Type) -> None:
    assert typed(program, "--version", "--quiet") == (f"fbnet-mobile {__version__}\n", "")
    assert f"fbnet-{program.name}" in COMMANDS


def test_an_option_of_several_commands_is_of_one_kind() -> None:
    kinds: dict[str, dict[str, Any]] = {}

    def kind(item: RecipeField) -> tuple[Any, ...]:
        return item.kind, item.option.names, item.option.commas, item.option.known, item.option.choices

    for program in PROGRAMS:
        for item in recipe_fields(program.options):
            kinds.setdefault(item.name, {})[program.name] = kind(item)
    differ = {name: found for name, found in kinds.items() if len(set(found.values())) > 1}
    # A network has one resolution, a space several, a file two sides.
    assert set(differ) == {"resolution"}


def test_quiet_leaves_the_result(typed: Type) -> None:
    def work(**_: object) -> str:
        say("meanwhile")
        return "result"

    program = replace(report.PROGRAM, work=work, lines=str.splitlines)
    assert typed(program) == ("result\n", "meanwhile\n")
    assert typed(program, "-q") == ("result\n", "")
    assert typed(program, "--quiet", "--json") == ('"result"\n', "")
    assert typed(program) == ("result\n", "meanwhile\n"), "quiet no longer than asked for"


@pytest.mark.parametrize(
    ("words", "classes"),
    [((), 3), (("--classes", "red,blue"), 2), (("--num-classes", "7", "--classes", "red,blue"), 7)],
)
def test_a_profile_finds_images_as_a_search_does(
    words: tuple[str, ...],
    classes: int,
    make_folder: MakeFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def measure(space: SearchSpace, *_: object, **__: object) -> None:
        raise JobError(f"{space.classes} classes")

    monkeypatch.setattr("fbnet_mobile.measure.profile.profile", measure)
    images = make_folder({"blue": 10, "green": 10, "red": 10})
    monkeypatch.setattr(
        "sys.argv", ["fbnet-profile", "-q", "--data", str(images), *words, "-o", str(tmp_path / "t.csv")]
    )
    with pytest.raises(SystemExit) as ended:
        profile.main()
    assert (ended.value.code, capfd.readouterr().err) == (1, f"error: {classes} classes\n")


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands as an installation has them, of this tree."""
    folder = tmp_path_factory.mktemp("bin")
    for name in COMMANDS:
        path = folder / name
        path.write_text(
            f"#!{sys.executable}\nfrom fbnet_mobile.cli.{name.removeprefix('fbnet-')} import main\nmain()\n"
        )
        path.chmod(0o755)
    return folder


def complete(bin_folder: Path, *words: str) -> list[str]:
    """What bash offers for the last word after the Tab key."""
    quoted = " ".join(f"'{word}'" for word in words)
    program = f"""
    PATH={bin_folder}:$PATH
    source <(fbnet-report --completion bash)
    COMP_WORDS=({quoted}) COMP_CWORD={len(words) - 1}
    declared=($(complete -p {words[0]}))
    for ((i = 0; i < ${{#declared[@]}}; i++)); do [ "${{declared[i]}}" = -F ] && completing=${{declared[i + 1]}}; done
    compopt() {{ printf '%s %s\\n' "$@"; }}
    $completing {words[0]}
    [ -z "$COMPREPLY" ] || printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split("\n")[:-1]


@needs("bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("fbnet-train", "--le"), ["--learning-rate"]),
        (("fbnet-profile", "--space", ""), [*packaged_spaces()]),
        (("fbnet-profile", "--space", "mine"), ["-o default"]),  # a file, which is readline's affair
        (("fbnet-search", "--data", "d"), ["digits"]),
        (("fbnet-export", "--for", "o"), ["openvino", "ort-web"]),
        (("fbnet-export", "--precision", "i"), ["int8"]),
        (("fbnet-benchmark", "--runtime", "lite"), ["litert"]),
        (("fbnet-report", "runs/"), ["-o default"]),
    ],
    ids=" ".join,
)
def test_bash_completes(words: tuple[str, ...], offered: list[str], bin_folder: Path) -> None:
    assert complete(bin_folder, *words) == offered


SHELLS = {
    "zsh": (["zsh", "-f", "-i"], 'autoload -U compinit; compinit -u -D; eval "$(fbnet-report --completion zsh)"'),
    "fish": (["fish", "--no-config", "-i"], "fbnet-report --completion fish | source"),
}
"""How each is started on a terminal, without anybody's settings, and what our page says to put into its own."""


def press_tab(shell: str, typed: str, expected: str, bin_folder: Path, home: Path) -> None:
    """Type a line and the Tab key into a shell on a terminal, in a folder, until what is expected stands there."""
    started, prepares = SHELLS[shell]
    control, terminal = pty.openpty()
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "HOME": str(home), "TERM": "dumb"}
    process = subprocess.Popen(
        ["setsid", "--ctty", *started], stdin=terminal, stdout=terminal, stderr=terminal, env=environment, cwd=home
    )
    os.close(terminal)

    def until(text: str) -> None:
        seen = ""
        while text not in seen:
            assert select.select([control], [], [], 60)[0], seen
            seen += os.read(control, 65536).decode(errors="replace")

    try:
        os.write(control, f"{prepares}; echo rea''dy\n".encode())
        until("ready\r\n")
        os.write(control, f"{typed}\t".encode())
        until(expected)
    finally:
        process.kill()
        process.wait()
        os.close(control)


@pytest.mark.parametrize("shell", [pytest.param(name, marks=needs(name)) for name in SHELLS])
@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("fbnet-train --le", "--learning-rate "),
        ("fbnet-profile --space pho", "--space photo "),
        ("fbnet-export --checkpoint train/be", "--checkpoint train/best.pt "),
    ],
)
def test_zsh_and_fish_complete(shell: str, typed: str, shown: str, bin_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "best.pt").touch()
    press_tab(shell, typed, shown, bin_folder, tmp_path)
