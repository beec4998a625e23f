"""Break the code on purpose, one change at a time, and see that a test notices.

The changes are listed in mutations.yaml, by room. Each is applied to a copy of the tracked files, and the tests named
with it run there, on the copy's code. A mutation is killed if one of them fails, and has survived if all pass. One
whose text does not stand in its file, or whose tests do not pass without it, is broken: it says nothing.

    python tools/mutations.py                     # all of them
    python tools/mutations.py export temperature  # a room, and those with this in their name
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

import yaml

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_suffix(".yaml")
TIME_LIMIT_S = 600

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Mutation:
    """One wrong change.

    Attributes:
        room: what it is a change to.
        name: what is wrong then.
        file: where, below the root of the project.
        old: text that stands there exactly once.
        new: what stands there instead.
        tests: node ids of pytest's, such as ``tests/a/test_b.py::test_c``; one of them must fail.
    """

    room: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def applied(self, text: str) -> str:
        """The file's text with the change.

        Raises:
            ValueError: the text to be changed does not stand there once.
        """
        if text.count(self.old) != 1:
            raise ValueError(f"its text stands {text.count(self.old)} times in {self.file}")
        return text.replace(self.old, self.new)


def load_mutations(path: Path = LIST) -> list[Mutation]:
    """The mutations of a list."""
    rooms: dict[str, list[dict[str, str]]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [
        Mutation(room, each["name"], each["file"], each["old"], each["new"], tuple(each["tests"].split()))
        for room, found in rooms.items()
        for each in found
    ]


def copy_tree(target: Path) -> None:
    """Copy the tracked files, as they are in the working tree, to a new folder."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    for name in filter(None, names):
        source = ROOT / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)


def run_tests(tree: Path, tests: Iterable[str], *options: str) -> tuple[int, str]:
    """pytest's exit code for some tests in a tree, 1 if one fails, -1 if they take too long; and what it prints."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", *options, *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, check=False, timeout=TIME_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return -1, ""
    return done.returncode, done.stdout


def sound(tree: Path, tests: Iterable[str]) -> set[str]:
    """Those of some tests, with all of their parameters, that are not skipped and pass in a tree."""
    tests = set(tests)
    _, said = run_tests(tree, tests, "-rpfE")
    outcomes: dict[str, set[str]] = {test: set() for test in tests}
    for outcome, ran in re.findall(r"^(PASSED|FAILED|ERROR) (\S+)", said, re.M):
        for test in {ran, ran.partition("[")[0]} & tests:
            outcomes[test].add(outcome)
    return {test for test in tests if outcomes[test] == {"PASSED"}}


def try_out(mutation: Mutation, tree: Path) -> str:
    """Apply a mutation to a tree, run its tests, take it back: "killed", "survived", or what is wrong with it."""
    path = tree / mutation.file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    try:
        path.write_text(mutation.applied(text), encoding="utf-8")
        code, _ = run_tests(tree, mutation.tests, "-x")
    except ValueError as error:
        return f"broken: {error}"
    finally:
        path.write_text(text, encoding="utf-8")
    # A hang is noticed by whoever waits for the tests.
    return {0: "survived", 1: "killed", -1: "killed"}.get(code, f"broken: pytest ended with code {code}")


class Trees:
    """Copies of the project in which work is done side by side, one piece at a time in each."""

    def __init__(self, folder: Path, count: int) -> None:
        self.count = count
        self._free: SimpleQueue[Path] = SimpleQueue()
        for number in range(count):
            copy_tree(folder / str(number))
            self._free.put(folder / str(number))

    def map(self, work: Callable[[Item, Path], Result], items: Iterable[Item]) -> Iterator[Result]:
        """What the work gives for each item and a tree, in the order of the items."""

        def in_a_tree(item: Item) -> Result:
            tree = self._free.get()
            try:
                return work(item, tree)
            finally:
                self._free.put(tree)

        with ThreadPoolExecutor(self.count) as pool:
            yield from pool.map(in_a_tree, items)


def main() -> int:
    """Try all mutations asked for; 0 if each was killed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="only these rooms, and mutations with one of these in their name")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time")
    arguments = parser.parse_args()
    chosen = [
        mutation
        for mutation in load_mutations()
        if not arguments.names or any(name == mutation.room or name in mutation.name for name in arguments.names)
    ]
    started, results = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        trees = Trees(Path(folder), arguments.jobs)
        tests = sorted({test for mutation in chosen for test in mutation.tests})
        files = [list(found) for _, found in groupby(tests, key=lambda test: test.partition("::")[0])]
        passing = set().union(*trees.map(lambda found, tree: sound(tree, found), files))
        print(f"{len(passing)} of {len(tests)} tests pass without them, in {time.monotonic() - started:.0f} s")

        def judged(mutation: Mutation, tree: Path) -> str:
            if not passing.issuperset(mutation.tests):
                return "broken: its tests fail, or are skipped, without it"
            return try_out(mutation, tree)

        for mutation, result in zip(chosen, trees.map(judged, chosen), strict=True):
            print(f"{result:9} {mutation.room}: {mutation.name}", flush=True)
            results.append(result)
    killed = results.count("killed")
    print(f"{killed} of {len(results)} mutations killed, in {time.monotonic() - started:.0f} s")
    return 0 if killed == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
