"""The documentation: links lead somewhere, and commands are commands that run as they stand.

Every command that a page shows is read by the options of the command itself, and run: the README's first, the others
in the folder that it leaves. What is not run says so before it, or on top of its page, for one of four reasons, and who
runs it instead: ``<!-- not run: hardware, a phone; tests/search with this machine for it -->``.
"""

import ast
import dataclasses
import importlib
import inspect
import io
import itertools
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from PIL import Image
from sklearn.datasets import load_digits
from webdataset.writer import ShardWriter

import fbnet_mobile as fm
from fbnet_mobile.api.call import option_names
from fbnet_mobile.cli.common import CommonOptions, run
from fbnet_mobile.recipe import build, recipe_fields
from fbnet_mobile.space import load_space

ROOT = Path(__file__).parents[1]
DOCS, PACKAGE = ROOT / "docs", ROOT / "fbnet_mobile"
README = ROOT / "README.md"
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("latency_tables/*.md")})
PROGRAMS = {
    f"fbnet-{name}": importlib.import_module(f"fbnet_mobile.cli.{name}").PROGRAM
    for name in ("profile", "search", "train", "export", "benchmark", "report")
}
FOREIGN = {"--help", "--extra-index-url", "--max-energy", "--max-NAME"}
"""Options in the text that are none of the commands' own: click's, pip's, and those that a quantity brings."""


class Block(NamedTuple):
    """What stands in a fence: on which page and line, in which language, and why it is not run if it is not."""

    page: Path
    line: int
    language: str
    text: str
    excuse: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def inlines(page: Path) -> Iterator[Token]:
    for token in tokens(page):
        yield from token.children or ()


def blocks(*pages: Path) -> list[Block]:
    found = []
    for page in pages:
        each = tokens(page)
        of_all = excuse(each[0])
        for before, token in itertools.pairwise([Token("", "", 0), *each]):
            if token.type in ("fence", "code_block"):
                assert token.map is not None
                why = excuse(before) or of_all
                found.append(Block(page, token.map[0] + 1, token.info, token.content, why))
    return found


def excuse(token: Token) -> str:
    """Why the commands behind a comment are not run."""
    found = re.search(r"<!-- not run: ((?:hardware|download|time|set-up), .+?) -->", token.content)
    return found[1] if found and token.type == "html_block" else ""


def anchors(page: Path) -> set[str]:
    """Of the headings, as forges and the site make them."""
    each = itertools.pairwise(tokens(page))
    titles = [after.content for before, after in each if before.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> list[str]:
    found = [str(token.attrs.get("href", token.attrs.get("src", ""))) for token in inlines(page)]
    return [link for link in found if link and not urlparse(link).scheme]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
        elif DOCS in page.parents and (DOCS not in target.parents or target.is_dir()):
            dead.append(f"{link} (no file in docs/, so not on the site)")
    assert not dead, f"{page.relative_to(ROOT)} links to {', '.join(dead)}"


def test_files_that_the_text_names_are_there() -> None:
    form = re.compile(r"`((?!runs?/)[a-z_]+(?:/[\w.-]+)+\.(?:py|sh|md|json|csv|txt|yaml))`")
    named = {name for page in PAGES for name in form.findall(page.read_text(encoding="utf-8"))}
    assert {"cost/within.py", "benchmarks/results/int8.json"} <= named
    assert [name for name in sorted(named) if not any((place / name).exists() for place in (ROOT, PACKAGE))] == []


def test_every_page_is_reached_from_the_index() -> None:
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in links(DOCS / "index.md")}
    assert set(DOCS.glob("*.md")) - {DOCS / "index.md"} <= linked


def commands(block: Block) -> list[str]:
    """The commands of a block; with ``$`` before them if their output stands there too."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "console":
        return [line[2:] for line in lines if line.startswith("$ ")]
    if block.language == "bash":
        return [line for line in lines if line.strip() and not line.startswith("#")]
    return [line for line in lines if re.match(r"(\$ )?(fbnet-|make |pip )", line)]


SHOWN = [(block, command) for block in blocks(*PAGES) for command in commands(block)]


@pytest.mark.parametrize(("block", "command"), SHOWN, ids=[f"{block}-{command.split()[0]}" for block, command in SHOWN])
def test_a_command_is_one(block: Block, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command, comments=True)
    name, *arguments = words
    if name in PROGRAMS:
        monkeypatch.chdir(tmp_path)
        parse(name, arguments, monkeypatch)
    elif name == "make":
        made = (ROOT / "Makefile").read_text(encoding="utf-8")
        for word in arguments:
            assert re.search(rf"^{word.partition('=')[0]}( \?=|:)", made, re.M), f"the Makefile has no {word}"
    elif words[:2] == ["pip", "install"]:
        with (ROOT / "pyproject.toml").open("rb") as file:
            extras = tomllib.load(file)["project"]["optional-dependencies"]
        for extra in re.findall(r"\[(.+?)\]", command):
            assert extra in extras
    elif name == "cp":
        assert (ROOT / arguments[0]).exists()
    else:
        (script,) = (word for word in words if word.startswith("benchmarks/"))
        text = (ROOT / script).read_text(encoding="utf-8")
        for option in (word.partition("=")[0] for word in words if word.startswith("--")):
            assert re.search(rf"{option}\b", text), f"{script} has no {option}"


def parse(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the options and make the recipe, and do nothing."""
    program = PROGRAMS[name]
    if "--config" in arguments:
        path = Path(arguments[arguments.index("--config") + 1])
        path.parent.mkdir(parents=True)
        path.write_text("architecture: fbnetv2-f1\ndata: digits\n")

    def work(**given: Any) -> None:
        build(program.options, given)

    def look(asked: Any, others: dict[str, Any]) -> tuple[Any, Any] | None:
        return (asked, lambda _: []) if any(vars(asked).values()) else None

    changed = dataclasses.replace(program, work=work, look=look, lines=lambda _: [])
    monkeypatch.setattr("sys.argv", [name, *arguments])
    with pytest.raises(SystemExit) as ended:
        run(changed)
    assert not ended.value.code


OPTIONS = {
    name: {
        written
        for part in (program.options, program.instead, CommonOptions)
        if part is not None
        for item in recipe_fields(part)
        for names in option_names(item)
        for written in names.split("/")
    }
    for name, program in PROGRAMS.items()
}


def test_options_in_the_text_are_those_of_the_command_before_them_or_of_any() -> None:
    scripts = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("benchmarks/*.py"))
    anybody = {*itertools.chain(*OPTIONS.values()), *re.findall(r'"(--[\w-]+)"', scripts)}
    stale = [
        f"{page.relative_to(ROOT)}: {token.content}"
        for page in PAGES
        for token in inlines(page)
        if token.type == "code_inline"
        for option in re.findall(r"(?<![\w-])--[\w-]+", token.content)
        if option not in FOREIGN | OPTIONS.get(token.content.split()[0], anybody)
    ]
    assert not stale


@pytest.mark.parametrize("block", [each for each in blocks(*PAGES) if each.language == "python"], ids=str)
def test_python_is_python_and_its_keywords_are_options(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Call) and re.match(r"fm\.[a-z]+$", ast.unparse(node.func)):
            function = getattr(fm, ast.unparse(node.func)[3:])
            given = {keyword.arg for keyword in node.keywords}
            assert given - {None} <= set(inspect.signature(function).parameters), ast.unparse(node)


@pytest.mark.parametrize(
    "block", [each for each in blocks(*PAGES) if each.language == "yaml" and "\nstages:" in each.text], ids=str
)
def test_a_space_is_one(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(block.text)
    assert load_space(str(path)).name


def test_messages_that_are_explained_are_those_of_the_code() -> None:
    said = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                said.append("".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values))
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `(.+?)`", page, re.M)
    assert len(messages) > 40
    assert not [message for message in messages if not any(has_in_order(text, message.split("...")) for text in said)]


def has_in_order(text: str, parts: list[str]) -> bool:
    place = 0
    for part in parts:
        place = text.find(part.strip(), place)
        if place < 0:
            return False
    return True


RUN = [block for block in blocks(*PAGES) if commands(block) and not block.excuse]


def carry_out(block: Block, folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands(block):
            name, *arguments = words = shlex.split(command, comments=True)
            if name == "cp":
                shutil.copy(ROOT / arguments[0], arguments[1])
                continue
            assert name in PROGRAMS, f"{block}: {name} is no command that is run here; say why not before the block"
            patch.setattr("sys.argv", words)
            with pytest.raises(SystemExit) as ended:
                importlib.import_module(f"fbnet_mobile.cli.{name.removeprefix('fbnet-')}").main()
            assert not ended.value.code, f"{block}: {command}"


@pytest.fixture(scope="module")
def readme_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README's commands leave."""
    path = tmp_path_factory.mktemp("readme")
    (block,) = (each for each in RUN if each.page == README)
    carry_out(block, path)
    return path


@pytest.fixture(scope="module")
def folder(readme_folder: Path) -> Path:
    """That, and what the pages call the reader's own: photographs, shards, an architecture, a training, a device."""
    digits = load_digits()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(readme_folder)
        Path("shards").mkdir()
        with ShardWriter("shards/train-%06d.tar", maxcount=1, verbose=0) as shards:
            for number, label in enumerate(digits.target[:147]):
                picture = Image.fromarray((15 * digits.images[number]).astype("uint8"))
                content = io.BytesIO()
                picture.save(content, "PNG")
                shards.write({"__key__": f"{number}", "png": content.getvalue(), "cls": int(label)})
                for name in ("photos", "more_photos"):
                    Path(name, str(label)).mkdir(parents=True, exist_ok=True)
                    Path(name, str(label), f"{number}.png").write_bytes(content.getvalue())
        Path("A").write_text(NETWORK)
        Path("devices.yaml").write_text("NAME: {transport: host}\n")
        shutil.copytree("search", "runs/search")
        fm.train(architecture="A", data="digits", epochs=4, output="runs/train")
    return readme_folder


NETWORK = """
name: tiny
resolution: 16
blocks:
  - {kind: conv, out_channels: 16, stride: 2}
  - {kind: inverted_residual, out_channels: 24, expanded_channels: 48, stride: 2}
  - {kind: head, out_channels: 10, conv_channels: 64}
"""


def test_the_commands_of_the_readme_do_the_whole_job(readme_folder: Path) -> None:
    made = ("host.csv", "search/architecture.yaml", "train/best.pt", "model.tflite", "benchmark.json", "report.html")
    assert all((readme_folder / name).stat().st_size for name in made)


@pytest.mark.parametrize("block", [each for each in RUN if each.page != README], ids=str)
def test_commands_run_as_they_stand(block: Block, folder: Path) -> None:
    carry_out(block, folder)


def test_a_block_without_a_reason_is_run(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    fence = "```bash\nfbnet-profile --version\n```\n"
    whys = [
        "",
        "<!-- not run: time, minutes -->\n",
        "<!-- not run: -->\n",
        "<!-- not run: hardware -->\n",
        "time, long\n\n",
    ]
    page.write_text("# Page\n\n" + "\n".join(why + fence for why in whys))
    assert [block.excuse for block in blocks(page)] == ["", "time, minutes", "", "", ""]
    page.write_text("<!-- not run: download, all -->\n\n# Page\n\n" + "\n".join(why + fence for why in whys[:2]))
    assert [block.excuse for block in blocks(page)] == ["download, all", "time, minutes"]
