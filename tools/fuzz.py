"""Give every parser, and every command, what nobody would write, and see that it is refused in one line or read right.

Each kind of input (``tests/fuzz/targets.py``) is made by hypothesis from right inputs; those that are one text or file
are made by atheris too, which watches the branches that the code takes. Nothing may end in a traceback, take 20 s or
2 GB, write outside its folder, start a program or ask the network (``tests/fuzz/guard.py``).

    python tools/fuzz.py                          # all kinds, 100,000 inputs and more, on as many cores as there are
    python tools/fuzz.py --seed 7 --inputs 2000   # other inputs, 2,000 of each kind
    python tools/fuzz.py space table              # these kinds

The smallest input found of each kind is written to build/fuzz/, and the exit code is then 1. A count comes last.
"""

import argparse
import importlib
import mmap
import os
import resource
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

_RUNS, _GUIDED = "hypothesis", "atheris"
_MOST_BYTES = 4 * 2**30
"""Of memory that a process of ours may ask for, beyond which this machine is in danger."""
_LONGEST_INPUT = 2**15
_LIMIT_S = 3600
_PARSERS = (
    *("yaml", "fbnet_mobile.arch", "fbnet_mobile.blocks", "fbnet_mobile.space", "fbnet_mobile.recipe"),
    *("fbnet_mobile.files", "fbnet_mobile.devices", "fbnet_mobile.latency.table", "fbnet_mobile.measure.jobs"),
    *("fbnet_mobile.measure.profile", "fbnet_mobile.measure.samples", "fbnet_mobile.formats.metadata"),
    *("fbnet_mobile.cli.common", "fbnet_mobile.api.call", "fbnet_mobile.api.profile", "fbnet_mobile.report.console"),
)
"""Modules whose branches are watched, imported while that can still be arranged."""


class Counts:
    """How many inputs there were, and how many were refused: a file, so that they outlive a process that dies."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(16))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 16)

    def read(self) -> tuple[int, int]:
        """Inputs, and those refused."""
        inputs, refused = struct.unpack("qq", self._map[:])
        return inputs, refused

    def add(self, refused: bool) -> None:
        """Count an input."""
        inputs, before = self.read()
        self._map[:] = struct.pack("qq", inputs + 1, before + refused)


@dataclass(frozen=True)
class Result:
    """What came of one kind by one way of making inputs."""

    kind: str
    way: str
    inputs: int
    refused: int
    found: str
    seconds: float


def one(kind: str, count: Callable[[bool], None], last: Path) -> Callable[[Any], None]:
    """A function that gives one input to a target, and keeps it in ``last`` meanwhile."""
    from tests.fuzz.guard import guarded
    from tests.fuzz.targets import TARGETS, own_folder, written

    target = next(target for target in TARGETS if target.kind == kind)
    target.prepare()

    def give(content: Any) -> None:
        last.write_bytes(written(content))
        with own_folder() as folder, guarded(folder) as outcome:
            target.run(content, folder)
        count(outcome.refused is not None)

    return give


def by_hypothesis(kind: str, inputs: int, seed: int, out: Path) -> int:
    """Make inputs from right ones; 1 if one is found, after it was made as small as it can be."""
    import hypothesis
    from hypothesis import HealthCheck, Phase

    from tests.fuzz.generate import smallest
    from tests.fuzz.targets import TARGETS, written

    target = next(target for target in TARGETS if target.kind == kind)
    last = out / f"{kind}.last"
    give = one(kind, Counts(out / f"{kind}.{_RUNS}").add, last)
    failing: list[Any] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @hypothesis.given(target.strategy)
    def all_of_them(content: Any) -> None:
        try:
            give(content)
        except BaseException:
            failing[:] = [content]
            raise

    try:
        all_of_them()
    except Exception as error:
        _say(traceback.format_exc())
        content, found = failing[-1], type(error)
        if not isinstance(content, tuple):
            content = smallest(content, lambda data: _fails(give, data, found))
        _keep(out, kind, written(content))
        return 1
    last.unlink(missing_ok=True)
    return 0


def by_atheris(kind: str, inputs: int, seed: int, out: Path) -> int:
    """Make inputs of which each takes a branch that none before took; 1 if one is found."""
    import atheris

    with atheris.instrument_imports(include=["fbnet_mobile", "yaml"], enable_loader_override=False):
        for module in _PARSERS:
            importlib.import_module(module)
        from tests.fuzz.generate import smallest
        from tests.fuzz.targets import TARGETS

    target = next(target for target in TARGETS if target.kind == kind)
    counts = Counts(out / f"{kind}.{_GUIDED}")
    give = one(kind, counts.add, out / f"{kind}.last")
    corpus = out / f"{kind}.corpus"
    corpus.mkdir(exist_ok=True)
    for number, content in enumerate(target.guided()):
        (corpus / str(number)).write_bytes(content)

    def test(content: bytes) -> None:
        try:
            give(content)
        except Exception as error:
            _say(traceback.format_exc())
            found = type(error)
            _keep(out, kind, smallest(content, lambda data: _fails(give, data, found)))
            os._exit(1)
        if counts.read()[0] >= inputs:
            os._exit(0)

    options = [f"-seed={seed + 1}", f"-max_len={_LONGEST_INPUT}", "-timeout=60", "-rss_limit_mb=0"]
    atheris.Setup([sys.argv[0], *options, "-verbosity=0", f"-artifact_prefix={out}/{kind}-", str(corpus)], test)
    atheris.Fuzz()
    return 0


def _fails(give: Callable[[Any], None], content: Any, found: type[Exception]) -> bool:
    """Whether an input fails in the same way."""
    try:
        give(content)
    except Exception as error:
        return type(error) is found
    return False


def _keep(out: Path, kind: str, content: bytes) -> None:
    (out / f"{kind}.found").write_bytes(content)


def _say(text: str) -> None:
    print(text[-6000:], file=sys.stderr, flush=True)


def start(kind: str, way: str, inputs: int, seed: int, out: Path) -> Result:
    """Run one kind in a process of its own, which may die of what it reads."""
    for old in (f"{kind}.found", f"{kind}.{way}"):
        (out / old).unlink(missing_ok=True)
    said, begun = out / f"{kind}.{way}.log", time.monotonic()
    command = [sys.executable, __file__, kind, "--way", way, "--inputs", str(inputs), "--seed", str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    with said.open("w") as log:
        process = subprocess.Popen(
            [*command, "--out", str(out)], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            code = process.wait(_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    seconds = time.monotonic() - begun
    found = ""
    if code:
        kept = out / f"{kind}.found"
        if not kept.exists() and (out / f"{kind}.last").exists():  # it died, or hung, in native code
            (out / f"{kind}.last").rename(kept)
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"see {said}"
        found = f"{kept}: {how}"
    counted = Counts(out / f"{kind}.{way}").read()
    return Result(kind, way, *counted, found, seconds)


def main() -> int:
    """Run the kinds asked for; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="of input; all by default")
    parser.add_argument("--seed", type=int, default=0, help="decides the inputs")
    parser.add_argument("--inputs", type=int, help="of each kind and way, instead of its own number")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="kinds at a time")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "fuzz", help="folder of what is found")
    parser.add_argument("--way", choices=(_RUNS, _GUIDED), help="in this process, by this way alone")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.way:
        resource.setrlimit(resource.RLIMIT_DATA, (_MOST_BYTES, _MOST_BYTES))
        run = by_hypothesis if asked.way == _RUNS else by_atheris
        return run(asked.kinds[0], asked.inputs, asked.seed, asked.out.resolve())
    from tests.fuzz.targets import TARGETS

    if unknown := set(asked.kinds) - {each.kind for each in TARGETS}:
        parser.error(f"no kind {sorted(unknown)[0]}; there are {', '.join(each.kind for each in TARGETS)}")
    chosen = [each for each in TARGETS if not asked.kinds or each.kind in asked.kinds]
    jobs: list[tuple[str, str, int]] = []
    for each in chosen:
        jobs.append((each.kind, _RUNS, asked.inputs or each.inputs))
        if each.guided():
            jobs.append((each.kind, _GUIDED, asked.inputs or each.inputs // 2))
    with ThreadPoolExecutor(asked.jobs) as pool:
        results = list(pool.map(lambda job: start(job[0], job[1], job[2], asked.seed, asked.out.resolve()), jobs))
    print(f"{'kind':16} {'by':10} {'inputs':>8} {'refused':>8} {'accepted':>8} {'found':>6} {'s':>5}")
    for result in results:
        accepted = result.inputs - result.refused
        print(f"{result.kind:16} {result.way:10} {result.inputs:8} {result.refused:8} {accepted:8} ", end="")
        print(f"{int(bool(result.found)):6} {result.seconds:5.0f}")
    print(f"{sum(result.inputs for result in results)} inputs, seed {asked.seed}")
    found = [result.found for result in results if result.found]
    for line in found:
        print(f"found {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
