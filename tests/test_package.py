"""What is published: what both distributions hold, and that all pages say the same version."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from fbnet_mobile.cli.completion import COMMANDS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LEFT_OUT = ("__pycache__", ".venv", ".git", ".*cache", ".hypothesis", "site", "runs", "build", "dist", "*.egg-info")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The files of the source distribution, without its folder, those of the wheel from it, and its description."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, folder / "tree", ignore=shutil.ignore_patterns(*LEFT_OUT))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(folder / "tree")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(source) as opened, zipfile.ZipFile(wheel) as zipped:
        return {
            "source": {member.name.partition("/")[2] for member in opened if member.isfile()},
            "wheel": set(zipped.namelist()),
            "description": {
                zipped.read(name).decode().partition("\n\n")[2]
                for name in zipped.namelist()
                if name.endswith("/METADATA")
            },
        }


def files(folder: Path) -> set[str]:
    """Of the tree, as the distributions name them."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package_with_all_its_data(built: dict[str, set[str]]) -> None:
    own = files(ROOT / "fbnet_mobile")
    assert {"fbnet_mobile/py.typed", "fbnet_mobile/zoo/fbnetv2-f1.yaml"} <= own
    assert {name for name in built["wheel"] if ".dist-info/" not in name} == own
    assert any(name.endswith("/LICENSE") for name in built["wheel"])


def test_the_source_distribution_holds_what_tests_and_tools_need(built: dict[str, set[str]]) -> None:
    for folder in ("fbnet_mobile", "tests", "tools", "benchmarks", "docs", "latency_tables"):
        assert files(ROOT / folder) <= built["source"]
    pages = {"README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "mkdocs.yml"}
    assert pages <= built["source"]


def test_the_description_is_the_readme_without_links_that_lead_nowhere_on_a_package_index(
    built: dict[str, set[str]],
) -> None:
    (description,) = built["description"]
    each = [child for token in MarkdownIt("commonmark").parse(description) for child in token.children or ()]
    links = [str(child.attrs.get("href", child.attrs.get("src", ""))) for child in each if child.attrs]
    assert links == ["https://arxiv.org/abs/2004.05565"]
    assert "\n- use my own images: data (docs/data.md); my own search space: spaces (docs/spaces.md)\n" in description
    headings = re.findall(r"^#+ .+", (ROOT / "README.md").read_text(), re.M)
    assert re.findall(r"^#+ .+", description, re.M) == headings


def test_the_version_and_the_commands_are_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest is not None
    assert (citation["version"], newest[1]) == (PROJECT["version"],) * 2
    assert (citation["license"], citation["title"]) == (PROJECT["license"], PROJECT["name"])
    assert tuple(PROJECT["scripts"]) == COMMANDS
