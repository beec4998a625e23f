"""The whole job on this machine: profile, search, train, export, benchmark, and a table and a page of what came out.

    python tools/demo.py [--data digits | FOLDER | NAME] [--data-root FOLDER]

Each command is printed before it runs, so that it can be typed again. What is already there is used again.
"""

import argparse
import json
import math
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fbnet_mobile.cost.bounds import cost_range
from fbnet_mobile.cost.constraint import latency_constraint
from fbnet_mobile.data.data import glimpse
from fbnet_mobile.errors import FbnetError
from fbnet_mobile.latency.table import LatencyTable
from fbnet_mobile.search.choose import choose_space
from fbnet_mobile.space import SearchSpace, load_space
from fbnet_mobile.train.recipe import TrainRecipe

IMAGES_SEEN = {"small": (135_000, 180_000), "photo": (60_000, 60_000)}
MOST_EPOCHS = 25
"""How many images two CPU cores get through in a few minutes when searching and when training, by the space; the number
of epochs follows from the data."""
BENCHMARK_IMAGES = 300
"""Test images that every exported file is run on: evaluating a Core ML package without a Mac takes the longest."""
TAKEN: dict[str, float] = {}
"""Seconds that each command took."""
FILES = {"tflite": "model.tflite", "onnx": "model.onnx", "coreml": "model.mlpackage"}


def main() -> int:
    """Run the demo; its exit code is that of the first command that fails."""
    parser = argparse.ArgumentParser(description="Profile, search, train, export and benchmark on this machine.")
    parser.add_argument("--data", default="digits", help="as for fbnet-search (default: digits)")
    parser.add_argument("--data-root", help="where torchvision keeps its data sets")
    arguments = parser.parse_args()
    try:
        demo(arguments.data, arguments.data_root)
    except FbnetError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


def demo(source: str, root: str | None) -> None:
    """Run the commands and print the table."""
    started = time.monotonic()
    seen = glimpse(source, root=Path(root) if root else None)
    # No larger one: the demo is to take minutes.
    space = load_space("small" if choose_space(seen)[0].name == "small" else "photo").with_classes(len(seen.classes))
    run = run_folder(source)
    images = ["--data", source, *(["--data-root", root] if root else [])]
    searched, trained = (epochs(most, seen.training) for most in IMAGES_SEEN[space.name])

    host = ["--device", "host"]
    table = run / "host.csv"
    fbnet("profile", *host, "--runtime", "litert", "--space", space.name, *images, "-o", table)
    target_us = choose_target(space, table)

    search, train = run / "search", run / "train"
    limits = ["--latency-table", table, "--target-latency", f"{target_us}us"]
    fbnet("search", "--plan", *limits, *images, "--epochs", searched)
    fbnet("search", *limits, *images, "--epochs", searched, "-o", search)
    few = ["--batch-size", max(2, seen.training // 8)] if seen.training < 8 * TrainRecipe.batch_size else []
    fbnet("train", "--architecture", search / "architecture.yaml", *images, "--epochs", trained, *few, "-o", train)
    checkpoint = train / "best.pt"
    files = [run / name for name in FILES.values()]
    for file_format, path in zip(FILES, files, strict=True):
        fbnet("export", "--checkpoint", checkpoint, "--format", file_format, "-o", path)
    report, page = run / "benchmark.json", run / "report.html"
    fbnet(
        "benchmark", checkpoint, *files, *host, "--latency-table", table, *images, "--images", BENCHMARK_IMAGES,
        "-o", report,
    )  # fmt: skip
    fbnet("report", run, "-o", page)
    summarise(run, report, target_us)
    print("Seconds: " + ", ".join(f"{seconds:.0f} {command}" for command, seconds in TAKEN.items()))
    print(f"The whole took {time.monotonic() - started:.0f} s. To look at: {page}")


def fbnet(command: str, *arguments: object) -> None:
    """Print one of the commands and run it."""
    words = [f"fbnet-{command}", *map(str, arguments)]
    print(f"\n$ {shlex.join(words)}", flush=True)
    started = time.monotonic()
    subprocess.run([str(Path(sys.executable).parent / words[0]), *words[1:]], check=True)
    TAKEN[command] = TAKEN.get(command, 0.0) + time.monotonic() - started


def run_folder(source: str) -> Path:
    """runs/demo, or a folder beside it if that holds a demo on other images."""
    run = Path("runs/demo")
    mark = run / "data.txt"
    if mark.exists() and mark.read_text() != source:
        run = run.with_name(f"demo-{Path(source).name}")
        mark = run / "data.txt"
    run.mkdir(parents=True, exist_ok=True)
    mark.write_text(source)
    return run


def epochs(budget: int, images: int) -> int:
    """Epochs for which a budget of images lasts."""
    return max(1, min(MOST_EPOCHS, round(budget / images)))


def choose_target(space: SearchSpace, path: Path) -> int:
    """A latency in us in the middle of what the space reaches on this machine, by ratio, in two digits."""
    table = LatencyTable.load(path)
    reach = cost_range(space, latency_constraint(space, table, math.inf))
    return int(float(f"{math.sqrt(reach.lowest * reach.highest):.2g}"))


def summarise(run: Path, report: Path, target_us: float) -> None:
    """Print what came out."""
    content = json.loads(report.read_text())
    title = f"{content['models'][0]['images']} test images; one image at a time on {content['facts']['cpu']}, 1 thread"
    table = Table(title=title, title_justify="left")
    for name in ("file", "runtime", "accuracy", "size", "target", "predicted", "measured: min", "median"):
        table.add_column(name, justify="left" if name in {"file", "runtime"} else "right")
    for model in content["models"]:
        latency = model["latency"]
        table.add_row(
            Path(model["model"]).name,
            f"{model['runtime']} {model['runtime_version']}",
            f"{model['accuracy']:.2%}",
            f"{model['size_bytes'] / 1e3:.0f} kB",
            f"{target_us:.0f} us" if model["predicted_us"] else "",
            f"{model['predicted_us']:.1f} us" if model["predicted_us"] else "",
            f"{latency['min_us']:.1f} us" if latency else "needs a Mac" if model["runtime"] == "coreml" else "",
            f"{latency['median_us']:.1f} us" if latency else "",
        )
    print()
    Console(width=120).print(table)
    written = ", ".join(["host.csv", "search/", "train/", *FILES.values(), "benchmark.json", "report.html"])
    print(f"Everything was written to {run}/: {written}")


if __name__ == "__main__":
    sys.exit(main())
