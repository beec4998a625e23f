"""Is the network that the search finds better than others at the same measured latency?

    python benchmarks/search_quality.py --data path/to/cifar10 --limit 10000 --latency-table host.csv \\
        --target-latency 60us 100us --seeds 0 1 2 --shared="--epochs 40" --candidates="--epochs 10" \\
        -o runs/search_quality

For each target and seed, all trained by the same recipe on the same images and measured together at the end:

    shared, candidates   found by fbnet-search in each mode, with the options given for it; the targets of a seed share
                         its warm-up
    random0, ...         drawn from the same space, predicted at 96 to 100 % of the target
    hand-scaled          the space's middle network (of each choice the middle option), its widths scaled by one factor
    mobilenetv3          torchvision's mobilenet_v3_small, its widths scaled by one factor (width_mult). It is made for
                         224 pixels: here it has as many strides as the space, the first of its own being taken out.
                         Without dropout, as the others.

Latency is that of the exported file in the table's runtime, by the table's statistic, in rounds over all files. As a
machine may have become faster or slower since its table was made, the two scaled ones are not made for the target: of
all widths, measured in the same rounds as the networks above, they take the largest that is at most 2 % slower than the
mean of those. Latency rises in steps with width; where none comes close, it says so. Every search and training has a
folder of its own: interrupted, the same command goes on, and what is finished is used again. After each job it prints
how long the rest will take. Prints a table for each target, and writes results.json.
"""

import argparse
import functools
import itertools
import json
import os
import random
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric import Fabric, seed_everything
from results_file import write_results
from torch import nn
from torchvision.models import mobilenet_v3_small

from fbnet_mobile.arch import Architecture
from fbnet_mobile.blocks.head import Head
from fbnet_mobile.blocks.inverted_residual import InvertedResidual
from fbnet_mobile.blocks.network import build
from fbnet_mobile.cost.quantity import QUANTITIES
from fbnet_mobile.data.data import Data, load_data
from fbnet_mobile.devices import get_device
from fbnet_mobile.formats.base import format_of_runtime, write
from fbnet_mobile.graph.trace import trace
from fbnet_mobile.latency.table import LatencyTable
from fbnet_mobile.measure.benchmark import benchmark
from fbnet_mobile.measure.plan import MeasuringPlan
from fbnet_mobile.space import SearchSpace, load_space
from fbnet_mobile.train.loop import train
from fbnet_mobile.train.recipe import TrainRecipe

FACTORS = tuple(float(factor) for factor in np.geomspace(0.15, 2.0, 66))
"""By which widths are scaled, in steps of 4 %; what rounds to the same network is one."""
MODES = ("shared", "candidates")


@dataclass(frozen=True)
class Network:
    """One that is trained and measured.

    Attributes:
        name: of its kind, as in the table.
        target_us: the latency that it was made for.
        seed: of its search or drawing, and of its training.
        make: builds it, untrained.
        text: what it is, as YAML or in words; part of what makes a run the same run.
        predicted_us: by the table, if the table knows its blocks.
    """

    name: str
    target_us: float
    seed: int
    make: Callable[[], nn.Module]
    text: str
    predicted_us: float | None = None

    @property
    def folder(self) -> str:
        """Of its training, inside the output folder."""
        return f"{self.target_us:g}us/seed{self.seed}/{self.name}"


class Benchmark:
    """The options, the table, the space and the images."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, options.output
        self.targets = [QUANTITIES.get("latency").parse(text) for text in options.target_latency]
        self.table = LatencyTable.load(options.latency_table)
        space = load_space(self.table.conditions.space)
        if len(space.resolution) > 1:
            sys.exit(f"space {space.name} has several resolutions; this comparison is made at one")
        self.resolution = space.resolution[0]
        self.space = space.with_classes(len(self.data.classes))
        self.device = get_device(self.table.conditions.device)
        self.jobs_done: dict[str, list[float]] = {"search": [], "train": []}

    @functools.cached_property
    def data(self) -> Data:
        """The images."""
        return load_data(
            self.options.data, root=self.options.data_root, resolution=self.resolution, limit=self.options.limit
        )

    def run(self) -> None:
        """Everything; what is there already is used again."""
        of_the_space = [network for seed in self.options.seeds for network in (*self.found(seed), *self.drawn(seed))]
        networks = [*of_the_space, *self.scaled(of_the_space)]
        for network in networks:
            self.train(network)
        latencies = self.measure([network.make for network in networks])
        rows = []
        for network, latency_us in zip(networks, latencies, strict=True):
            # Finished, so this only reads what is there.
            rows.append(
                {
                    "network": network.name,
                    "target_us": network.target_us,
                    "seed": network.seed,
                    "test_accuracy": self.train(network),
                    "measured_us": latency_us,
                    "predicted_us": network.predicted_us,
                    "params": sum(parameter.numel() for parameter in network.make().parameters()),
                }
            )
        self.report(rows)

    def found(self, seed: int) -> Iterator[Network]:
        """What the search finds, in each mode and for each target."""
        options = self.options
        for mode in MODES:
            folder = self.out / f"search-{mode}-seed{seed}"
            targets = ",".join(f"{target:g}us" for target in self.targets)
            arguments = [
                "--latency-table", options.latency_table, "--data", options.data, "--target-latency", targets,
                "--batch-size", options.batch_size, "--mode", mode, "--seed", seed, "-o", folder,
                *shlex.split(getattr(options, mode)),
            ]  # fmt: skip
            arguments += ["--data-root", options.data_root] if options.data_root else []
            arguments += ["--limit", options.limit] if options.limit else []
            with self.timed("search"):
                fbnet("search", *arguments)
            for target_us in self.targets:
                inside = folder / f"{target_us:g}us" if len(self.targets) > 1 else folder
                yield self.of(mode, target_us, seed, Architecture.load(inside / "architecture.yaml"))

    def drawn(self, seed: int) -> Iterator[Network]:
        """Random networks at each target."""
        for target_us, number in itertools.product(self.targets, range(self.options.randoms)):
            rng = random.Random(f"{target_us}-{seed}-{number}")
            while True:
                network = self.space.architecture(self.space.draw(rng), "random")
                if 0.96 * target_us <= self.table.total(network) <= target_us:
                    break
            yield self.of(f"random{number}", target_us, seed, network)

    def of(self, name: str, target_us: float, seed: int, network: Architecture) -> Network:
        """A network of the space."""
        return Network(
            name, target_us, seed, functools.partial(build, network), network.to_yaml(), self.table.total(network)
        )

    def scaled(self, networks: list[Network]) -> Iterator[Network]:
        """Both hand-scaled kinds for each target and seed, as wide as makes them take as long as the given networks."""
        kinds: dict[str, dict[str, tuple[float, Callable[[], nn.Module]]]] = {"hand-scaled": {}, "mobilenetv3": {}}
        classes = len(self.data.classes)
        for factor in FACTORS:
            network = hand_scaled(self.space, factor)
            kinds["hand-scaled"].setdefault(network.to_yaml(), (factor, functools.partial(build, network)))
            make = functools.partial(mobilenetv3, self.space, factor, classes)
            shape = str([tuple(parameter.shape) for parameter in make().parameters()])
            kinds["mobilenetv3"].setdefault(shape, (factor, make))
        makes = {(name, factor): make for name, found in kinds.items() for factor, make in found.values()}
        # Kept, so that a later invocation compares the same networks.
        path = self.out / "scaled.json"
        factors: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
        pairs = list(itertools.product(self.targets, kinds))
        if not all(f"{name} {target_us:g}us" in factors for target_us, name in pairs):
            print(f"measuring {len(makes)} widths beside {len(networks)} networks", flush=True)
            measured = self.measure([*makes.values(), *(network.make for network in networks)])
            of_widths = list(zip(makes, measured[: len(makes)], strict=True))
            of_networks = list(zip(networks, measured[len(makes) :], strict=True))
            for target_us, name in pairs:
                widths = {factor: latency_us for (kind, factor), latency_us in of_widths if kind == name}
                reached_us = statistics.mean(us for network, us in of_networks if network.target_us == target_us)
                factors[f"{name} {target_us:g}us"] = widest(name, widths, reached_us)
            path.write_text(json.dumps(factors))
        for target_us, name in pairs:
            factor = factors[f"{name} {target_us:g}us"]
            for seed in self.options.seeds:
                yield Network(name, target_us, seed, makes[name, factor], f"{name}, widths times {factor:.3f}")

    def train(self, network: Network) -> float:
        """The accuracy on the test images after training, which is not repeated."""
        folder, options = self.out / network.folder, self.options
        finished = (folder / "best.pt").exists()
        if not finished:
            print(f"training {network.folder}", flush=True)
        with self.timed("train", count=not finished):
            seed_everything(network.seed, verbose=False)
            recipe = TrainRecipe(epochs=options.train_epochs, batch_size=options.batch_size, seed=network.seed)
            fabric = Fabric(accelerator=options.accelerator, devices=1)
            result = train(network.make(), self.data, recipe, folder, fabric, architecture=network.text)
        return result.test_accuracy

    def timed(self, kind: str, count: bool = True) -> "_Timed":
        """Time a job, and say how long the rest will take."""
        return _Timed(self, kind, count)

    def remaining_s(self) -> float | None:
        """How long the rest will take, if it takes as long as what was done in this invocation."""
        seeds, targets = len(self.options.seeds), len(self.targets)
        trainings = seeds * targets * (len(MODES) + self.options.randoms + 2)
        finished = sum((self.out / name).exists() for name in self._expected())
        searches = seeds * len(MODES)
        searched = sum(
            all((found / "architecture.yaml").exists() for found in self._search_folders(mode, seed))
            for mode, seed in itertools.product(MODES, self.options.seeds)
        )
        total = 0.0
        for kind, left in (("search", searches - searched), ("train", trainings - finished)):
            if left and not self.jobs_done[kind]:
                return None
            total += left * statistics.mean(self.jobs_done[kind] or [0.0])
        return total

    def _expected(self) -> Iterator[str]:
        names = [*MODES, *(f"random{number}" for number in range(self.options.randoms)), "hand-scaled", "mobilenetv3"]
        for target_us, seed, name in itertools.product(self.targets, self.options.seeds, names):
            yield f"{target_us:g}us/seed{seed}/{name}/best.pt"

    def _search_folders(self, mode: str, seed: int) -> list[Path]:
        folder = self.out / f"search-{mode}-seed{seed}"
        return [folder / f"{target_us:g}us" for target_us in self.targets] if len(self.targets) > 1 else [folder]

    def measure(self, makes: list[Callable[[], nn.Module]]) -> list[float]:
        """Latency in us of each network as an exported file, measured in rounds over all of them."""
        conditions = self.table.conditions
        runtime = format_of_runtime(conditions.runtime)
        folder = self.out / "models"
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for number, make in enumerate(makes):
            paths.append(folder / f"{number}{runtime.suffix}")
            module = make().eval()
            write(trace(module, (1, 3, self.resolution, self.resolution)), paths[-1], runtime.name)
        plan = MeasuringPlan(min_rounds=6, max_rounds=self.options.rounds, warmup_ms=5, min_ms=20)
        result = benchmark(
            paths,
            self.device,
            conditions.runtime,
            threads=conditions.threads,
            statistic=conditions.statistic,
            plan=plan,
        )
        return [row.latency_us for row in result.measurements]

    def report(self, rows: list[dict[str, Any]]) -> None:
        """Print a table for each target and write results.json."""
        gains = []
        for target_us in self.targets:
            own = [row for row in rows if row["target_us"] == target_us]
            kinds: dict[str, list[list[dict[str, Any]]]] = {}
            for seed in self.options.seeds:
                for row in own:
                    if row["seed"] == seed:
                        kind = "random" if row["network"].startswith("random") else row["network"]
                        kinds.setdefault(kind, [])
                        if not kinds[kind] or kinds[kind][-1][0]["seed"] != seed:
                            kinds[kind].append([])
                        kinds[kind][-1].append(row)
            accuracies = {kind: [mean(group) for group in groups] for kind, groups in kinds.items()}
            accuracies["best random"] = [
                max(row["test_accuracy"] for row in group) for group in kinds.get("random", [])
            ]
            seeds = "".join(f"{f'seed {seed}':>9}" for seed in self.options.seeds)
            print(f"\n{target_us:g} us{'':8} {seeds} {'mean':>8} {'spread':>7} {'measured':>18}")
            for kind, values in accuracies.items():
                if not values:
                    continue
                measured = [row["measured_us"] for group in kinds.get(kind, []) for row in group]
                span = f"{min(measured):.1f} to {max(measured):.1f} us" if measured else ""
                print(
                    f"{kind:14} {''.join(f'{value:>9.2%}' for value in values)} {statistics.mean(values):>8.2%} "
                    f"{spread(values):>7.2%} {span:>18}"
                )
            for mode, other in itertools.product(MODES, accuracies):
                if other not in MODES and accuracies[other]:
                    differences = [a - b for a, b in zip(accuracies[mode], accuracies[other], strict=True)]
                    gain = {"mean": statistics.mean(differences), "spread": spread(differences)}
                    gains.append({"target_us": target_us, "mode": mode, "over": other, **gain})
                    print(f"{mode} over {other}: {100 * gain['mean']:+.2f} points, spread {100 * gain['spread']:.2f}")
        images = {"training": len(self.data.train), "test": len(self.data.test)}
        results = {"images": images, "rows": rows, "gains": gains}
        write_results(self.out / "results.json", results, self.options)


class _Timed:
    """A job's time, and how long the rest will take."""

    def __init__(self, owner: Benchmark, kind: str, count: bool) -> None:
        self.owner, self.kind, self.count = owner, kind, count

    def __enter__(self) -> None:
        self.started = time.monotonic()

    def __exit__(self, kind: object, *_: object) -> None:
        seconds = time.monotonic() - self.started
        if kind is not None or not self.count or seconds < 5:  # the last: it was there already
            return
        self.owner.jobs_done[self.kind].append(seconds)
        left = self.owner.remaining_s()
        known = f"about {left / 3600:.1f} h left" if left is not None else "the rest is not known yet"
        print(f"{self.kind} took {seconds:.0f} s; {known}", flush=True)


def mean(group: list[dict[str, Any]]) -> float:
    """Mean accuracy."""
    return statistics.mean(float(row["test_accuracy"]) for row in group)


def spread(values: list[float]) -> float:
    """Standard deviation, 0 of a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def widest(name: str, widths: Mapping[float, float], reached_us: float) -> float:
    """Of factors with their latency in us, the largest that takes at most 2 % longer than ``reached_us``."""
    within = [factor for factor, latency_us in widths.items() if latency_us <= 1.02 * reached_us]
    if not within:
        sys.exit(f"{name} at its narrowest takes {min(widths.values()):.1f} us; raise the targets")
    latency_us = widths[max(within)]
    print(f"{name} takes {latency_us:.1f} us where the networks of the space take {reached_us:.1f} us", flush=True)
    if latency_us < 0.95 * reached_us:
        print(f"this is not close; it is at other targets, near {sorted({round(us) for us in widths.values()})} us")
    return max(within)


def hand_scaled(space: SearchSpace, factor: float) -> Architecture:
    """The space's middle network with all widths times a factor, rounded to even numbers of channels."""
    skip = itertools.cycle((False, True))  # the middle of keeping and skipping: every other block that may be skipped
    middle = space.architecture(
        {
            name: next(skip) if name.endswith(".skip") else options[len(options) // 2]
            for name, options in space.variables.items()
        }
    )

    def wide(channels: int) -> int:
        return even(channels * factor)

    blocks = []
    width = 3
    for block in middle.blocks:
        changes: dict[str, Any] = {"in_channels": width}
        if isinstance(block, InvertedResidual):
            ratio = block.depthwise_channels / block.in_channels
            if block.expanded_channels is not None:
                changes["expanded_channels"] = even(ratio * width)
            if block.se_channels is not None:
                changes["se_channels"] = even(ratio * width / 4)
        if isinstance(block, Head):
            changes["conv_channels"] = wide(block.pooled_channels)
        else:
            changes["out_channels"] = width = wide(block.out_channels)
        blocks.append(block.model_copy(update=changes))
    return Architecture(name=f"scaled-{factor:.3f}", resolution=middle.resolution, blocks=tuple(blocks))


def even(channels: float) -> int:
    """The nearest even number, at least 2."""
    return max(2, 2 * round(channels / 2))


def mobilenetv3(space: SearchSpace, factor: float, classes: int) -> nn.Module:
    """torchvision's MobileNetV3-Small at a width, with as many strides as the space; its first ones are taken out."""
    module: nn.Module = mobilenet_v3_small(width_mult=factor, num_classes=classes, dropout=0.0)
    strided = [part for part in module.modules() if isinstance(part, nn.Conv2d) and part.stride == (2, 2)]
    assert space.stem is not None
    wanted = (space.stem.stride == 2) + sum(stage.stride == 2 for stage in space.stages)
    for convolution in strided[: len(strided) - wanted]:
        convolution.stride = (1, 1)
    return module


def fbnet(command: str, *arguments: object) -> None:
    """Print one of the commands and run it; end as it does if it fails, which it has then explained."""
    words = [f"fbnet-{command}", *map(str, arguments)]
    print(f"$ {shlex.join(words)}", flush=True)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    ended = subprocess.run([str(Path(sys.executable).parent / words[0]), *words[1:]], check=False, env=environment)
    if ended.returncode:
        sys.exit(ended.returncode)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description="Compare searched networks with others at equal measured latency.")
    parser.add_argument("--data", required=True, help="as for fbnet-search")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--limit", type=int, help="training images (default: all)")
    parser.add_argument("--latency-table", type=Path, required=True)
    parser.add_argument("--target-latency", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    for mode in MODES:
        parser.add_argument(f"--{mode}", default="", help=f"more options for fbnet-search --mode {mode}, in one word")
    parser.add_argument("--train-epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--randoms", type=int, default=4, help="random networks for each target and seed (default: 4)")
    parser.add_argument("--rounds", type=int, default=20, help="most rounds of measuring (default: 20)")
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("-o", "--output", type=Path, required=True)
    Benchmark(parser.parse_args()).run()


if __name__ == "__main__":
    main()
