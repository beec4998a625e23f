"""Kill the commands again and again at random moments, and see that the same command, typed once more, ends the same.

Each job runs a command in a folder of its own and kills it with SIGKILL: at any moment, at any moment of its work, or
just before or after one of its changes to files; then it is given again, until it has been killed often enough and has
come to its end. After each kill whatever has a result's name must be whole; in the end everything must be as after an
undisturbed run, bit for bit but for times and latencies, and nothing may be left over.

    python tools/kills.py                      # 25 kills of profile, search, train and export each
    python tools/kills.py --kills 3 export     # three of export

Ends with 1 if anything differed.
"""

import argparse
import hashlib
import importlib
import itertools
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from fbnet_mobile.blocks.network import build, calibrate_batch_norm
from fbnet_mobile.cost.bounds import cost_range
from fbnet_mobile.cost.constraint import latency_constraint
from fbnet_mobile.data.data import load_data
from fbnet_mobile.engine.checkpoint import Checkpoint, save_checkpoint
from fbnet_mobile.formats.base import format_of
from fbnet_mobile.formats.verify import export
from fbnet_mobile.latency.table import BLOCK, INVOCATION, ROUND, Conditions, LatencyTable, Measurement
from fbnet_mobile.space import load_space

ROOT = Path(__file__).resolve().parents[1]
SPACE = """
name: tiny
resolution: 16
classes: 10
stem: {out_channels: 8, stride: 2}
stages:
  - {out_channels: [8, 16], depth: 2, skip: true, expansion_ratio: [2, 3], squeeze_excite: [false, true],
     kernel_size: 3, activation: hswish}
head: {conv_channels: [32, 64]}
"""
LOADED = (
    *(
        "coremltools",
        "onnx",
        "onnxruntime",
        "ai_edge_litert.interpreter",
        "lightning_fabric",
        "tensorboardX",
        "sklearn",
    ),
    *("fbnet_mobile.measure.profile", "fbnet_mobile.search.loop", "fbnet_mobile.train.loop"),
    *(f"fbnet_mobile.cli.{name}" for name in ("profile", "search", "train", "export")),
)
"""What takes long to load, and is loaded once."""
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


@dataclass(frozen=True)
class Command:
    """What is killed.

    Attributes:
        command: without "fbnet-".
        words: its arguments; what it writes lies in the working folder.
        content: of the folder when it has ended: all that must be as undisturbed, by name.
        whole: checks what has a result's name in the folder after a kill, with what is right.
        before: what stands in the folder at the beginning.
    """

    command: str
    words: tuple[str, ...]
    content: Callable[[Path], dict[str, Any]]
    whole: Callable[[Path, dict[str, Any]], None]
    before: Callable[[Path], None] = lambda _: None


class DifferentError(Exception):
    """The folder is not as it must be."""


def digest(path: Path) -> str:
    """Of a file, or of all files of a folder with their names."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = hashlib.sha256()
    for file in files:
        if file.is_file():
            found.update(str(file.relative_to(path)).encode() + b"\0" + file.read_bytes())
    return found.hexdigest()


def names(folder: Path) -> list[str]:
    """What is in a folder and below, but for the insides of packages and TensorBoard's files."""
    # A walk goes on where a folder is removed beneath it, by a command that is at work.
    found = {
        str((Path(at) / name).relative_to(folder)) for at, *below in os.walk(folder) for name in itertools.chain(*below)
    }
    return sorted(name for name in found if ".mlpackage/" not in name and "/events." not in name)


def plain(value: Any) -> Any:
    """A state with digests in the place of tensors, and without the time that an epoch took."""
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest(), str(value.dtype), tuple(value.shape)
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items() if key != "seconds"}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return "nan" if isinstance(value, float) and math.isnan(value) else value


def tensors(path: Path) -> Any:
    """What a state or a checkpoint holds."""
    return plain(torch.load(path, map_location="cpu", weights_only=True))


def log(path: Path) -> list[Any]:
    """The rows of a log, without the time that they took."""
    rows: list[Any] = (
        pd.read_csv(path, dtype=str, keep_default_na=False).drop(columns="seconds", errors="ignore").to_dict("records")
    )
    return rows


def table_content(path: Path) -> Any:
    """A table's rows but for latencies and rounds."""
    loaded = LatencyTable.load(path)
    rows = {key: row for key, row in loaded.rows.items() if key[0] != ROUND}
    return {
        "conditions": {name: value for name, value in vars(loaded.conditions).items() if name != "date"},
        "rows": sorted((*key, row.source, row.rounds) for key, row in rows.items()),
    }


def run_content(folder: Path) -> dict[str, Any]:
    """Of a search or a training."""
    found: dict[str, Any] = {"names": names(folder)}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".pt":
            found[name] = tensors(path)
        elif path.suffix == ".csv":
            found[name] = log(path)
        elif path.suffix in (".yaml", ".json"):
            found[name] = path.read_text()
    return found


def run_whole(folder: Path, right: dict[str, Any]) -> None:
    """Whatever is there of a search or a training is of one of its epochs."""
    for path in sorted(folder.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        name = str(path.relative_to(folder))
        if path.suffix == ".pt":
            tensors(path)
        elif path.suffix == ".csv":
            rows = log(path)
            same(rows, right[name][: len(rows)], name)
        elif path.suffix in (".yaml", ".json"):
            same(path.read_text(), right[name], name)


def profile_content(folder: Path) -> dict[str, Any]:
    """Of a profile."""
    return {
        "names": names(folder),
        "table": table_content(folder / "host.csv"),
        "options": (folder / "host.csv.args.yaml").read_text(),
    }


def profile_whole(folder: Path, right: dict[str, Any]) -> None:
    """The table is there or not."""
    if (folder / "host.csv").exists():
        same(table_content(folder / "host.csv"), right["table"], "host.csv")


def exported(path: Path) -> Any:
    """What an export wrote, or its record without the time that it took."""
    return plain(json.loads(path.read_text())) if path.suffix == ".json" else digest(path)


def export_content(folder: Path) -> dict[str, Any]:
    """Of an export."""
    return {"names": names(folder), **{path.name: exported(path) for path in sorted(folder.iterdir())}}


def export_whole(folder: Path, right: dict[str, Any], before: Path) -> None:
    """The file is the old one, of the folder ``before``, or the new one."""
    for path in folder.iterdir():
        rights = (right.get(path.name), exported(before / path.name) if (before / path.name).exists() else "")
        if not path.name.startswith(".") and exported(path) not in rights:
            raise DifferentError(f"{path.name} is neither the old file nor the new one")


def same(found: Any, right: Any, what: str) -> None:
    """Complain of the first difference."""
    if isinstance(found, dict) and isinstance(right, dict):
        for name in sorted(found.keys() | right.keys(), key=str):
            same(found.get(name), right.get(name), f"{what}.{name}" if what else str(name))
    elif found != right:
        raise DifferentError(f"{what}: {found!r:.200} instead of {right!r:.200}")


class Jobs:
    """Killed runs of one command."""

    def __init__(self, command: Command, work: Path, rng: random.Random) -> None:
        self.command, self.rng = command, rng
        self.work = work
        work.mkdir(parents=True)
        whole = self._fresh("undisturbed")
        begun = time.monotonic()
        code, said, changes = self._run(whole, 0, None)
        self.seconds, self.changes = time.monotonic() - begun, changes
        if code != 0:
            raise SystemExit(f"fbnet-{command.command} {' '.join(command.words)} fails undisturbed: {said}")
        self.right = command.content(whole)

    def run(self, kills: int) -> tuple[int, int]:
        """Kill so often; gives how many kills there were, and how many jobs came out wrong."""
        killed = wrong = 0
        for number in itertools.count(1):
            if killed >= kills:
                break
            folder = self._fresh(str(number))
            at, problem = self._job(folder, kills - killed)
            killed += len(at)
            wrong += problem != ""
            about = f"{self.command.command} {self.command.words[-1]} {number}"
            print(f"{about}: killed {', '.join(at) or 'never'}: {problem or 'same'}", flush=True)
        return killed, wrong

    def _job(self, folder: Path, most: int) -> tuple[list[str], str]:
        at: list[str] = []
        try:
            while True:
                how = self.rng.choice(("any", "work", "change")) if len(at) < min(most, 6) else None
                code, said, _ = self._run(folder, *self._moment(how))
                if code == -signal.SIGKILL:
                    at.append(str(how))
                    self.command.whole(folder, self.right)
                    continue
                if code != 0:
                    raise DifferentError(f"ended with {code}: {said}")
                same(self.command.content(folder), self.right, "")
                return at, ""
        except Exception as error:  # whatever a damaged file makes of it
            return at, f"{type(error).__name__}: {error}"

    def _moment(self, how: str | None) -> tuple[int, tuple[float, bool] | None]:
        """Before which change, or after how long, from the first sign of work on or from the start."""
        if how is None:
            return 0, None
        if how == "change":
            return self.rng.randint(1, max(self.changes, 1)), None
        return 0, (self.rng.uniform(0, self.seconds if how == "any" else self.seconds / 3), how == "work")

    def _fresh(self, name: str) -> Path:
        folder = self.work / name
        folder.mkdir()
        self.command.before(folder)
        return folder

    def _run(self, folder: Path, at: int, after: tuple[float, bool] | None) -> tuple[int, str, int]:
        """Its exit code, its last words, and how often it changed files."""
        count = self.work / "count"
        before = names(folder)
        with tempfile.TemporaryFile() as said:
            process = self._start(folder, at, count, said.fileno())
            code = None
            if after is not None:
                seconds, from_work = after
                while from_work and (code := ended(process, 0)) is None and names(folder) == before:
                    time.sleep(0.01)
                if code is None and (code := ended(process, seconds)) is None:
                    # Alone, as `kill -9` does; or with all that it started, as when a machine goes down.
                    (os.killpg if self.rng.random() < 0.5 else os.kill)(process, signal.SIGKILL)
            if code is None and (code := ended(process, 600)) is None:
                os.killpg(process, signal.SIGKILL)
                raise DifferentError("it does not end")
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
        changes = int(count.read_text()) if code == 0 else 0
        return code, lines[-1][:300] if lines else "", changes

    def _start(self, folder: Path, at: int, count: Path, said: int) -> int:
        """Begin the command in a fork of this process, which has loaded all that takes long to load."""
        temporary = self.work / "tmp"
        temporary.mkdir(exist_ok=True)
        process = os.fork()
        if process:
            return process
        code = 70
        try:
            os.setsid()
            os.chdir(folder)
            nothing = os.open(os.devnull, os.O_RDWR)
            for stream, target in enumerate((nothing, nothing, said)):
                os.dup2(target, stream)
            tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)
            done = watch_changes(folder, at)
            sys.argv = [f"fbnet-{self.command.command}", *self.command.words]
            try:
                importlib.import_module(f"fbnet_mobile.cli.{self.command.command}").main()
            except SystemExit as end:
                code = int(end.code or 0)
            count.write_text(str(done()))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)


def watch_changes(folder: Path, at: int) -> Callable[[], int]:
    """Let this process kill itself before its change number ``at`` to files; gives what tells how many there were."""
    own, count = os.getpid(), 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & 3
        if event in CHANGES or writes:
            name = arguments[0]
            if isinstance(name, str) and (not name.startswith("/") or name.startswith(str(folder))):
                if os.getpid() != own:
                    return
                count += 1
                if count == at:
                    os.kill(own, signal.SIGKILL)

    sys.addaudithook(watch)
    return lambda: count


def ended(process: int, seconds: float) -> int | None:
    """The exit code of a process that ends within so many seconds, negative if it was killed."""
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.005)


def commands(work: Path, space_text: str = SPACE) -> dict[str, tuple[Command, ...]]:
    """What there is to kill, by the name of the command; writes what they read."""
    space_file, table_file, architecture, checkpoint = (
        work / name for name in ("tiny.yaml", "table.csv", "net.yaml", "net.pt")
    )
    space_file.write_text(space_text)
    space = load_space(str(space_file))
    conditions = Conditions("host", "a processor", "litert", "1", 1, "fp32", "min", str(space_file), "2026-01-01")
    latencies_us = {(INVOCATION, ""): 1.0}
    latencies_us |= {(BLOCK, block.key): 2.0 + number % 7 for number, block in enumerate(space.candidates())}
    rows = {key: Measurement(*6 * (latency_us,), 100, 4, 0.01) for key, latency_us in latencies_us.items()}
    table = LatencyTable(conditions, rows)
    table.save(table_file)
    reach = cost_range(space, latency_constraint(space, table, math.inf))
    low, high = (reach.lowest + share * (reach.highest - reach.lowest) for share in (0.3, 0.7))

    network = space.architecture(space.draw(random.Random(0)), "killed")
    network.save(architecture)
    torch.manual_seed(0)
    module = calibrate(build(network))
    classes = load_data("digits", resolution=16, show_progress=False).classes
    mean, std = (0.3, 0.5, 0.7), (0.2, 0.3, 0.4)
    save_checkpoint(checkpoint, Checkpoint(network.to_yaml(), module.state_dict(), classes, mean, std, 16, 0.1))
    exported = ("--checkpoint", str(checkpoint), "--data", "digits", "--images", "20")
    old = work / "export" / "before"

    def another_first(folder: Path) -> None:
        """An earlier export, of another network."""
        for name in ("m.tflite", "m.onnx", "m.mlpackage"):
            earlier = old / name
            if not earlier.exists():
                old.mkdir(parents=True, exist_ok=True)
                export(nn.Flatten(), earlier, format=format_of(earlier).name, input_shape=(1, 3, 4, 4))
            (shutil.copytree if earlier.is_dir() else shutil.copy2)(earlier, folder / name)

    data = ("--data", "digits", "--limit", "400", "--batch-size", "32")
    search = (
        "--latency-table",
        str(table_file),
        "--target-latency",
        f"{low:.1f}us,{high:.1f}us",
        "--epochs",
        "4",
        "--warmup",
        "0.5",
    )
    exports = (("m.tflite", "fp32"), ("m.onnx", "int8"), ("m.mlpackage", "fp32"), ("m.tflite", "int8"))
    return {
        "profile": (
            Command(
                "profile",
                ("--space", str(space_file), "--rounds", "2", "--networks", "4", "-o", "host.csv"),
                profile_content,
                profile_whole,
            ),
        ),
        "search": (Command("search", (*search, *data, "--tensorboard", "-o", "run"), run_content, run_whole),),
        "train": (
            Command(
                "train",
                ("--architecture", str(architecture), *data, "--epochs", "6", "-o", "run"),
                run_content,
                run_whole,
            ),
        ),
        "export": tuple(
            Command(
                "export",
                (*exported, "--precision", precision, "-o", name),
                export_content,
                lambda folder, right: export_whole(folder, right, old),
                another_first,
            )
            for name, precision in exports
        ),
    }


def calibrate(module: nn.Module) -> nn.Module:
    """Give batch norms the statistics of noise."""
    calibrate_batch_norm(module, torch.randn(4, 3, 16, 16))
    return module


def main() -> int:
    """Kill, and say what came of it."""
    known = ("profile", "search", "train", "export")
    parser = argparse.ArgumentParser(description="Kill the commands at random moments; the same must come out.")
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=f"of {', '.join(known)} (default: all)")
    parser.add_argument("--kills", type=int, default=25, help="of each command (default: 25)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    arguments = parser.parse_args()
    for name in arguments.commands:
        if name not in known:
            parser.error(f"no command {name}; give some of {', '.join(known)}")
    torch.set_num_threads(1)
    for module in LOADED:
        importlib.import_module(module)
    rng, all_killed, all_wrong = random.Random(arguments.seed), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        what = commands(Path(folder))
        for name in arguments.commands or known:
            variants, killed, wrong, begun = what[name], 0, 0, time.monotonic()
            for number, variant in enumerate(variants):
                share = arguments.kills * (number + 1) // len(variants) - killed
                if share:
                    one = Jobs(variant, Path(folder) / name / str(number), rng).run(share)
                    killed, wrong = killed + one[0], wrong + one[1]
            print(f"fbnet-{name}: {killed} kills, {wrong} jobs wrong, {time.monotonic() - begun:.0f} s", flush=True)
            all_killed, all_wrong = all_killed + killed, all_wrong + wrong
    print(f"{all_killed} kills, {all_wrong} jobs wrong")
    return 1 if all_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
