"""Break the code on purpose, one change at a time, and see that a test notices.

Each mutation is applied to a copy of the tracked files, and the tests named with it run there, on the copy's code. A
mutation is killed if one of them fails, and has survived if all pass. A mutation whose text is not in its file, or
whose tests do not pass without it, is reported as such: it says nothing.

    python tools/mutations.py              # all of them
    python tools/mutations.py temperature  # those whose name has this in it
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parents[1]
TIME_LIMIT_S = 600


@dataclass(frozen=True)
class Mutation:
    """One wrong change.

    Attributes:
        name: what is wrong then.
        file: where, below the root of the project.
        old: text that stands there exactly once.
        new: what stands there instead.
        tests: what pytest is to run, as on its command line, separated by spaces.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS: tuple[Mutation, ...] = ()


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


def run_tests(tree: Path, tests: str) -> int:
    """pytest's exit code for some tests in a tree: 0 if all pass, 1 if one fails; -1 if they take too long."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests.split()]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, check=False, timeout=TIME_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return -1
    return done.returncode


def try_out(mutation: Mutation, tree: Path) -> str:
    """Apply a mutation to a tree, run its tests, take it back: "killed", "survived", or what is wrong with it."""
    path = tree / mutation.file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text.count(mutation.old) != 1:
        return f"broken: its text stands {text.count(mutation.old)} times in {mutation.file}"
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        code = run_tests(tree, mutation.tests)
    finally:
        path.write_text(text, encoding="utf-8")
    # A hang is noticed by whoever waits for the tests.
    return {0: "survived", 1: "killed", -1: "killed"}.get(code, f"broken: pytest ended with code {code}")


def main() -> int:
    """Try all mutations asked for; 0 if each was killed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="only mutations with one of these in their name")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time")
    arguments = parser.parse_args()
    chosen = [
        mutation
        for mutation in MUTATIONS
        if not arguments.names or any(name in mutation.name for name in arguments.names)
    ]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(arguments.jobs):
            copy_tree(Path(folder) / str(number))
            trees.put(Path(folder) / str(number))

        def with_tree(mutation: Mutation | None, tests: str = "") -> str:
            tree = trees.get()
            try:
                if mutation is None:
                    return "passes" if run_tests(tree, tests) == 0 else "fails"
                return try_out(mutation, tree)
            finally:
                trees.put(tree)

        with ThreadPoolExecutor(arguments.jobs) as pool:
            suites = sorted({mutation.tests for mutation in chosen})
            sound = dict(zip(suites, pool.map(lambda tests: with_tree(None, tests), suites), strict=True))

            def judged(mutation: Mutation) -> str:
                if sound[mutation.tests] == "fails":
                    return "broken: its tests fail without it"
                return with_tree(mutation)

            results = []
            for mutation, result in zip(chosen, pool.map(judged, chosen), strict=True):
                print(f"{result:9} {mutation.name}", flush=True)
                results.append(result)
    killed = results.count("killed")
    print(f"{killed} of {len(results)} mutations killed, in {time.monotonic() - started:.0f} s")
    return 0 if killed == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
