"""How fast images are decoded and augmented at 224 pixels: from JPEG files and from shards, beside torchvision's way.

    pip install 'fbnet-mobile[webdataset]'
    python benchmarks/data_loading.py path/to/photographs -o runs/data_loading

The photographs (a folder with a folder for each class) are written anew as JPEG files of ``--size`` pixels and as
WebDataset shards. Ours is ``training_batches`` with what a training does by default (crop, flip); torchvision's is
ImageFolder with RandomResizedCrop of the same area, RandomHorizontalFlip, and Normalize, in torch's DataLoader; both
with as many workers, to batches of normalised float32. Sides alternate; of each the best round counts, by time of the
processor (workers included), which other programs disturb less than the clock. Prints a table, writes results.json.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results_file import write_results
from training_speed import cpu_seconds

SIDES = ("our files", "our shards", "torchvision")


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description="Images a second, decoded and augmented.")
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--size", default="500x375", help="of the JPEG files (default: 500x375)")
    parser.add_argument("--count", type=int, default=640, help="images (default: 640)")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for results.json, images and shards")
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measured(options)))
        return
    write_images(options)
    best: dict[str, dict[str, float]] = {}
    for number in range(options.rounds):
        for side in SIDES[number % 3 :] + SIDES[: number % 3]:
            words = [sys.executable, __file__, *sys.argv[1:], "--side", side]
            found = json.loads(
                subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
            known = best.setdefault(side, found)
            if found["cpu_images_per_second"] > known["cpu_images_per_second"]:
                best[side] = found
            print(f"{side}: {found}", flush=True)
    theirs = best["torchvision"]["cpu_images_per_second"]
    print(f"{'':12} {'images/CPU s':>12} {'times':>6} {'images/s':>9} {'peak MB of a process':>20}")
    for side, row in best.items():
        print(
            f"{side:12} {row['cpu_images_per_second']:>12.1f} {row['cpu_images_per_second'] / theirs:>6.2f} "
            f"{row['images_per_second']:>9.1f} {row['peak_bytes'] / 1e6:>20.0f}"
        )
    write_results(options.output / "results.json", {"best": best}, options, ("torchvision", "pillow", "webdataset"))


def write_images(options: argparse.Namespace) -> None:
    """JPEG files of one size in two classes, and shards of the same."""
    from PIL import Image
    from webdataset.writer import ShardWriter

    width, height = map(int, options.size.split("x"))
    found = sorted(path for path in options.photographs.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    shutil.rmtree(options.output / "images", ignore_errors=True)
    shutil.rmtree(options.output / "shards", ignore_errors=True)
    (options.output / "shards").mkdir(parents=True)
    with ShardWriter(f"{options.output}/shards/train-%03d.tar", maxcount=200, verbose=0) as shards:
        for number in range(options.count):
            path = options.output / "images" / "train" / str(number % 2) / f"{number:05}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(found[number % len(found)]) as image:
                image.convert("RGB").resize((width, height)).save(path, quality=90)
            shards.write({"__key__": f"{number:05}", "jpg": path.read_bytes(), "cls": number % 2})


def measured(options: argparse.Namespace) -> dict[str, float]:
    """An epoch of one side, after one that warms up."""
    import torch

    torch.set_num_threads(1)
    epoch = theirs(options) if options.side == "torchvision" else ours(options)
    epoch()
    before, clock = cpu_seconds(), time.monotonic()
    count = epoch()
    cpu, wall = cpu_seconds() - before, time.monotonic() - clock
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"cpu_images_per_second": count / cpu, "images_per_second": count / wall, "peak_bytes": 1024.0 * peak}


def ours(options: argparse.Namespace) -> Callable[[], int]:
    """Epochs of ``training_batches``."""
    import torch

    from fbnet_mobile.data.data import load_data, training_batches
    from fbnet_mobile.engine.allocator import tune_allocator

    tune_allocator()  # as a training does, before it starts workers
    shards = sorted((options.output / "shards").glob("*.tar"))
    source = str(options.output / "images")
    if options.side == "our shards":
        source = f"{options.output}/shards/train-{{000..{len(shards) - 1:03}}}.tar"
    data = load_data(source, resolution=options.resolution, memory_limit=0, workers=options.workers)
    number = [0]

    def epoch() -> int:
        number[0] += 1
        batches = training_batches(
            data.train, data, options.batch_size, seed=0, epoch=number[0], device=torch.device("cpu")
        )
        return sum(len(images) for images, _ in batches)

    return epoch


def theirs(options: argparse.Namespace) -> Callable[[], int]:
    """Epochs of torchvision's data set and transforms in torch's loader."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    steps: list[Any] = [
        v2.RandomResizedCrop(options.resolution, scale=(0.35, 1)),
        v2.RandomHorizontalFlip(),
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.5,) * 3, (0.3,) * 3),
    ]
    images = ImageFolder(options.output / "images" / "train", v2.Compose(steps))
    loader = DataLoader(
        images, batch_size=options.batch_size, shuffle=True, num_workers=options.workers, drop_last=True
    )
    return lambda: sum(len(batch) for batch, _ in loader)


if __name__ == "__main__":
    main()
