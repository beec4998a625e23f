"""How fast a training is: ours as users start it, timm's parts put together as its script does, and a bare loop.

    pip install 'fbnet-mobile[timm]'
    python benchmarks/training_speed.py -o runs/training_speed

Two networks: one of about 9 million multiply-accumulates at 32 pixels, and MobileNetV3-Large at 128. The images are
noise in memory, as JPEG decoding is benchmarks/data_loading.py's affair: pixels for ours and for timm
(benchmarks/timm_script.py), normalised tensors for the bare loop (forward, cross-entropy, backward, SGD). Each side
runs in a process of its own, the sides alternating; of each the best round counts, by time of the processor (workers
included), which other programs disturb less than the clock.
Prints a table, writes results.json.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results_file import write_results

SIDES = ("ours", "timm", "bare")
COMPILED = "ours, compiled"
NETWORKS = {
    "small at 32": ("small", 32, 4096),
    "mobilenetv3_large_100 at 128": ("timm:mobilenetv3_large_100", 128, 1536),
}
"""Of each: its name, the resolution, and the images of an epoch, which is half a minute or less on one core."""


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description="Images a second in training: ours, timm's, a bare loop.")
    parser.add_argument("--images", type=int, help="of an epoch (default: 4096 of 32 pixels, 1536 of 128)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--compiled", action="store_true", help="ours by torch.compile, too, which begins slowly")
    parser.add_argument("--side", choices=(*SIDES, COMPILED), help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for results.json")
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measured(options)))
        return
    sides = (*SIDES, COMPILED) if options.compiled else SIDES
    best: dict[str, dict[str, dict[str, float]]] = {name: {} for name in options.networks}
    for number in range(options.rounds):
        for network in options.networks:
            for side in sides[number % len(sides) :] + sides[: number % len(sides)]:
                words = [sys.executable, __file__, *sys.argv[1:], "--networks", network, "--side", side]
                done = subprocess.run(words, check=True, capture_output=True, text=True)
                found = json.loads(done.stdout.splitlines()[-1])
                known = best[network].setdefault(side, found)
                if found["cpu_images_per_second"] > known["cpu_images_per_second"]:
                    best[network][side] = found
                print(f"{network}, {side}: {found}", flush=True)
    print(f"{'':32} {'side':14} {'images/CPU s':>12} {'of bare':>8} {'images/s':>9} {'peak MB':>8}")
    for network, rows in best.items():
        for side, row in rows.items():
            share = row["cpu_images_per_second"] / rows["bare"]["cpu_images_per_second"]
            print(
                f"{network:32} {side:14} {row['cpu_images_per_second']:>12.1f} {share:>8.1%} "
                f"{row['images_per_second']:>9.1f} {row['peak_bytes'] / 1e6:>8.0f}"
            )
    write_results(options.output / "results.json", {"best": best}, options, ("timm", "torchvision"))


def measured(options: argparse.Namespace) -> dict[str, float]:
    """The second of two epochs of one side."""
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    name, resolution, images = NETWORKS[options.networks[0]]
    options.images = options.images or images
    pixels = torch.randint(0, 256, (options.images, resolution, resolution, 3), dtype=torch.uint8)
    labels = torch.arange(options.images) % 10
    epoch = {"ours": ours, COMPILED: ours, "timm": timm_epochs, "bare": bare}[options.side](
        name, resolution, pixels, labels, options
    )
    epoch()
    before, clock = cpu_seconds(), time.monotonic()
    epoch()
    cpu, wall = cpu_seconds() - before, time.monotonic() - clock
    count = options.images // options.batch_size * options.batch_size
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "cpu_images_per_second": count / cpu,
        "images_per_second": count / wall,
        "peak_bytes": 1024.0 * peak,
    }


def cpu_seconds() -> float:
    """Of this process, of those that it has waited for, and (on Linux) of those that it has, as workers stay."""
    times = os.times()
    found = times.user + times.system + times.children_user + times.children_system
    for listed in Path("/proc/self/task").glob("*/children"):
        for process in listed.read_text().split():
            with contextlib.suppress(OSError):  # it ends just now
                fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
                found += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # see proc(5)
    return found


def network(name: str, resolution: int) -> Any:
    """The module, its architecture as ours, for ten classes."""
    from training_recipe import SMALL

    from fbnet_mobile.arch import Architecture
    from fbnet_mobile.blocks.network import build
    from fbnet_mobile.zoo.importing import imported

    if name == "small":
        architecture = Architecture.from_yaml(SMALL, name)
    else:
        architecture = imported(name, resolution=resolution).architecture.with_classes(10)
    return build(architecture)


def ours(name: str, resolution: int, pixels: Any, labels: Any, options: argparse.Namespace) -> Callable[[], None]:
    """Runs of one epoch each, as fbnet-train makes them, evaluation on ten images and the checkpoint included."""
    import torch
    from lightning_fabric import Fabric

    from fbnet_mobile.data.data import Data
    from fbnet_mobile.data.sources import Pairs
    from fbnet_mobile.data.split import Split
    from fbnet_mobile.data.store import MemoryStore, OriginalStore
    from fbnet_mobile.train.loop import train
    from fbnet_mobile.train.recipe import TrainRecipe

    images, positions = Pairs(pixels, labels, "noise"), torch.arange(len(pixels))
    fitted = MemoryStore(pixels, images, positions)
    store: Any = fitted
    if resolution >= 64:
        store = OriginalStore(dict(enumerate(pixels.numpy())), images, resolution, 0)
    few = Split(fitted, positions[:10], labels[:10])
    data = Data(
        Split(store, positions, labels),
        few,
        few,
        tuple(map(str, range(10))),
        (0.5,) * 3,
        (0.3,) * 3,
        resolution,
        True,
        "noise",
        "noise",
    )
    folder = Path(tempfile.mkdtemp())
    module, made = network(name, resolution), [0]

    def epoch() -> None:
        made[0] += 1
        fabric = Fabric(accelerator="cpu", devices=1)
        recipe = TrainRecipe(epochs=1, batch_size=options.batch_size)
        train(
            module,
            data,
            recipe,
            folder / str(made[0]),
            fabric,
            architecture="",
            compiled=options.side == COMPILED,
            show_progress=False,
        )

    return epoch


def timm_epochs(
    name: str, resolution: int, pixels: Any, labels: Any, options: argparse.Namespace
) -> Callable[[], None]:
    """Epochs as timm's train.py makes them on a CPU, with its defaults."""
    from timm_script import Pictures, trained_epochs

    pictures = Pictures(pixels.numpy(), labels.tolist())
    return trained_epochs(network(name, resolution), pictures, resolution, 30, options.batch_size)


def bare(name: str, resolution: int, pixels: Any, labels: Any, options: argparse.Namespace) -> Callable[[], None]:
    """Epochs over normalised tensors in memory, in the memory format and with the allocator that are fastest here."""
    import torch
    from torch.nn import functional as F

    from fbnet_mobile.engine.allocator import tune_allocator

    tune_allocator()
    module = network(name, resolution).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    images = pixels.permute(0, 3, 1, 2).float().div_(255).sub_(0.5).div_(0.3)

    def epoch() -> None:
        module.train()
        for start in range(0, len(images) - options.batch_size + 1, options.batch_size):
            part = slice(start, start + options.batch_size)
            loss: Any = F.cross_entropy(module(images[part]), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


if __name__ == "__main__":
    main()
