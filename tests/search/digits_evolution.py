"""Evolution on scikit-learn's digits: called by the tests, and run by them as a program.

digits_evolution.py FOLDER PROCESSES [NETWORK]    in two processes, or killed while one of the networks is measured
"""

import os
import signal
import sys
from pathlib import Path

from fbnet_mobile.api.fabric import make_fabric
from fbnet_mobile.cost.constraint import limit_on
from fbnet_mobile.cost.within import Assignment
from fbnet_mobile.data.data import load_data
from fbnet_mobile.recipe import MachineOptions
from fbnet_mobile.search.loop import search
from fbnet_mobile.search.recipe import SearchRecipe
from fbnet_mobile.search.results import Searched
from fbnet_mobile.search.strategies.evolution import Evolution
from fbnet_mobile.space import SearchSpace

SPACE = SearchSpace.from_yaml(
    """
name: tiny
resolution: [12, 16]
classes: 10
stem: {out_channels: [8, 12], stride: 2}
stages:
  - out_channels: [8, 12]
    depth: 2
    skip: true
    expansion_ratio: [1, 2]
    kernel_size: [3, 5]
    squeeze_excite: [false, true]
    activation: [relu, hswish]
head: {conv_channels: [16, 24]}
"""
)
RECIPE = SearchRecipe(strategy="evolution", epochs=1, batch_size=32, population=6, generations=3, candidate_images=60)
MACS = 100_000


def run(out_dir: Path, processes: int) -> Searched:
    fabric = make_fabric(MachineOptions(accelerator="cpu", devices=str(processes)))
    data = load_data("digits", resolution=16, limit=400, show_progress=False)
    return search(SPACE, [limit_on(SPACE, "macs", MACS)], data, RECIPE, out_dir, fabric, show_progress=False)


def kill_at(network: int) -> None:
    """Have this process killed when it has measured some networks."""
    accuracy, measured = Evolution.accuracy, 0

    def killed(self: Evolution, assignment: Assignment) -> float:
        nonlocal measured
        measured += 1
        if measured == network:
            os.kill(os.getpid(), signal.SIGKILL)
        return accuracy(self, assignment)

    Evolution.accuracy = killed  # type: ignore[method-assign]


if __name__ == "__main__":
    if len(sys.argv) > 3:
        kill_at(int(sys.argv[3]))
    run(Path(sys.argv[1]), int(sys.argv[2]))
