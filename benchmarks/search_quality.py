"""Is the network that the search finds better than one drawn at random at the same predicted latency?

    python benchmarks/search_quality.py --data path/to/cifar10 --latency-table runs/demo/host.csv \\
        --target-latency 80us --seeds 0 1 2 -o runs/search_quality

For each seed: a search, a random network of the same space whose predicted latency is within 2 % of the found one's,
and both trained in the same way, by the commands that a user would type. Interrupted, it continues where it was. Prints
a table and writes results.json beside the runs.
"""

import argparse
import json
import platform
import random
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from fbnet_mobile.arch import Architecture
from fbnet_mobile.devices import HostDevice
from fbnet_mobile.latency.table import LatencyTable
from fbnet_mobile.space import SearchSpace, load_space
from fbnet_mobile.train.checkpoint import load_checkpoint


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description="Compare searched with random networks at equal predicted latency.")
    parser.add_argument("--data", required=True)
    parser.add_argument("--data-root")
    parser.add_argument("--latency-table", type=Path, required=True)
    parser.add_argument("--target-latency", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--search-epochs", type=int, default=3)
    parser.add_argument("--train-epochs", type=int, default=4)
    parser.add_argument("--architecture-learning-rate", type=float, default=0.05)
    parser.add_argument("--randoms", type=int, default=1, help="random networks for each seed (default: 1)")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    table = LatencyTable.load(options.latency_table)
    space = load_space(table.conditions.space)
    images = ["--data", options.data, *(["--data-root", options.data_root] if options.data_root else [])]

    rows = []
    for seed in options.seeds:
        folder = options.output / f"seed{seed}"
        fbnet(
            "search", "--latency-table", options.latency_table, *images, "--target-latency", options.target_latency,
            "--epochs", options.search_epochs, "--architecture-learning-rate", options.architecture_learning_rate,
            "--seed", seed, "-o", folder / "search",
        )  # fmt: skip
        found = Architecture.load(folder / "search" / "architecture.yaml")
        networks = {"searched": found}
        space = space.with_classes(found.classes)
        for number in range(options.randoms):
            drawn = draw_at(space, table, table.total(found), random.Random(f"{seed}-{number}"))
            networks[f"random{number}"] = drawn
        for name, network in networks.items():
            path = folder / f"{name}.yaml"
            network.save(path)
            run = folder / name
            fbnet(
                "train", "--architecture", path, *images, "--epochs", options.train_epochs, "--seed", seed, "-o", run
            )  # fmt: skip
            accuracy = load_checkpoint(run / "best.pt").test_accuracy
            rows.append(
                {
                    "seed": seed,
                    "network": name,
                    "test_accuracy": accuracy,
                    "predicted_us": table.total(network),
                    "macs": network.macs,
                    "params": network.params,
                }
            )
    report(rows, options)


def fbnet(command: str, *arguments: object) -> None:
    """Print one of the commands and run it."""
    words = [f"fbnet-{command}", *map(str, arguments)]
    print(f"$ {shlex.join(words)}", flush=True)
    subprocess.run([str(Path(sys.executable).parent / words[0]), *words[1:]], check=True)


def draw_at(space: SearchSpace, table: LatencyTable, latency_us: float, rng: random.Random) -> Architecture:
    """A network drawn at random among those within 2 % of a predicted latency."""
    while True:
        network = space.architecture(space.draw(rng), "random")
        if abs(table.total(network) / latency_us - 1) <= 0.02:
            return network


def report(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print the table and write results.json."""
    print(f"{'seed':>4} {'network':10} {'accuracy':>9} {'predicted':>10} {'M MACs':>7} {'M params':>8}")
    for row in rows:
        print(
            f"{row['seed']:>4} {row['network']:10} {row['test_accuracy']:>9.2%} {row['predicted_us']:>7.1f} us "
            f"{row['macs'] / 1e6:>7.2f} {row['params'] / 1e6:>8.3f}"
        )
    searched = [row["test_accuracy"] for row in rows if row["network"] == "searched"]
    drawn = [row["test_accuracy"] for row in rows if row["network"] != "searched"]
    gain = statistics.mean(searched) - statistics.mean(drawn)
    print(
        f"mean: searched {statistics.mean(searched):.2%}, random {statistics.mean(drawn):.2%}: {100 * gain:+.2f} points"
    )
    facts = HostDevice().facts()
    content = {
        "machine": {"cpu": facts.cpu, "cores": facts.cores, "system": facts.operating_system},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "options": {
            name: value.name if isinstance(value, Path) else str(value)
            for name, value in vars(options).items()
            if name not in {"data", "output"}
        },
        "rows": rows,
    }
    (options.output / "results.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
