import ast
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fbnet_mobile

ROOT = Path(__file__).parents[2]
TOOL = runpy.run_path(str(ROOT / "tools" / "mutations.py"))
MUTATIONS = TOOL["load_mutations"]()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name.replace(" ", "-"))
def test_it_still_changes_code_that_is_there_and_names_tests_that_are(mutation: Any) -> None:
    before = (ROOT / mutation.file).read_text(encoding="utf-8")
    after = mutation.applied(before)
    assert ast.dump(ast.parse(after)) != ast.dump(ast.parse(before)), "and stays Python"
    assert mutation.tests
    for test in mutation.tests:
        path, name = test.partition("[")[0].split("::")
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")


def test_there_are_enough_of_every_kind() -> None:
    rooms = [mutation.room for mutation in MUTATIONS]
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 40
    assert min(rooms.count(room) for room in ("export", "tables", "devices")) >= 8


def test_killed_survived_and_broken_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "broken_here.py").write_text("ONE = 1\nTWO = 2\n")
    (tmp_path / "test_code.py").write_text(
        "import broken_here as code\nimport pytest\n"
        "def test_one():\n    assert code.ONE == 1\n"
        "@pytest.mark.skip\ndef test_skipped():\n    pass\n"
        "def test_wrong():\n    assert code.TWO == 3\n"
    )

    def result(old: str, test: str) -> str:
        mutation = TOOL["Mutation"]("", "", "broken_here.py", old, "5", (f"test_code.py::{test}",))
        found: str = TOOL["try_out"](mutation, tmp_path)
        return found

    assert result("1", "test_one") == "killed"
    assert result("2", "test_one") == "survived"
    assert result("3", "test_one").startswith("broken: its text stands 0 times")
    assert result("1", "test_gone") == "broken: pytest ended with code 4"
    assert (tmp_path / "broken_here.py").read_text() == "ONE = 1\nTWO = 2\n", "it is taken back"
    names = {f"test_code.py::test_{name}" for name in ("one", "skipped", "wrong")}
    assert TOOL["sound"](tmp_path, names) == {"test_code.py::test_one"}


def test_processes_that_tests_start_use_the_code_of_this_tree(tmp_path: Path) -> None:
    assert Path(fbnet_mobile.__file__).parents[1] == ROOT
    command = [sys.executable, "-c", "import fbnet_mobile; print(fbnet_mobile.__file__)"]
    shown = subprocess.run(command, cwd=tmp_path, env=os.environ, check=True, capture_output=True, text=True).stdout
    assert Path(shown.strip()).parents[1] == ROOT
