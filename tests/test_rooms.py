"""The walls of the house: which room may import which, and what loads without PyTorch."""

import ast
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fbnet_mobile"


def rows() -> list[list[str]]:
    """The rooms of each row of the map, from the ground up."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page.split("| holds |")[1].split("\n\n")[0].splitlines()[2:]
    return [
        [name.rstrip("/").removesuffix(".py") for name in re.findall(r"`(.+?)`", row.split("|")[1])] for row in table
    ]


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules of the package that a module imports, in functions too, but not those that only types need."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        yield from imported(node)


def room(module: str) -> str:
    return module.split(".")[1] if module.count(".") else ""


def test_every_room_is_on_the_map() -> None:
    there = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert sorted(itertools.chain(*rows())) == sorted(there - {"__init__", "__pycache__"} - {"py.typed"})


def test_a_room_imports_only_rooms_below_it() -> None:
    level = {name: number for number, names in enumerate(rows()) for name in names}
    upward = []
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for module in imported(ast.parse(path.read_text())):
            other = room(module) if module.startswith("fbnet_mobile.") else ""
            if own in level and other in level and level[other] > level[own]:
                upward.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not upward


LIGHT = [
    "arch",
    "space",
    "devices",
    "documents",
    "recipe",
    "progress",
    "cost.bounds",
    "cost.constraint",
    "cost.quantity",
    "latency.table",
    "measure.samples",
    "formats",
    "report.console",
    "report.records",
    *(f"blocks.{path.parent.name}.shape" for path in PACKAGE.glob("blocks/*/shape.py")),
    *(f"{path.parent.name}.recipe" for path in PACKAGE.glob("*/recipe.py")),
    *(f"api.{path.stem}" for path in PACKAGE.glob("api/*.py")),
    *(f"{path.parent.name}.results" for path in PACKAGE.glob("*/results.py")),
]


def test_plain_data_loads_without_pytorch() -> None:
    code = f"""
import importlib, sys
for name in {LIGHT}:
    importlib.import_module("fbnet_mobile." + name)
    assert "torch" not in sys.modules, name
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
