"""Search a tiny space on scikit-learn's digits: called by the tests, and run by them as a program.

digits_search.py FOLDER PROCESSES [EPOCH]    in two processes, or killed in the middle of an epoch
"""

import atexit
import os
import signal
import sys
from pathlib import Path

import torch.distributed
from torch import Tensor

from fbnet_mobile.api.fabric import make_fabric
from fbnet_mobile.cost.constraint import limit_on
from fbnet_mobile.data.data import load_data
from fbnet_mobile.recipe import MachineOptions
from fbnet_mobile.search.loop import search
from fbnet_mobile.search.recipe import SearchRecipe
from fbnet_mobile.search.results import Searched
from fbnet_mobile.search.strategies.base import Learned, Step
from fbnet_mobile.search.strategies.gradient import Gradient
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
EPOCHS = 2


def run(out_dir: Path, processes: int) -> Searched:
    fabric = make_fabric(MachineOptions(accelerator="cpu", devices=str(processes)))
    data = load_data("digits", resolution=16, limit=400, show_progress=False)
    recipe = SearchRecipe(epochs=EPOCHS, batch_size=32, learning_rate=0.05, architecture_learning_rate=0.05)
    macs = limit_on(SPACE, "macs", 100_000)
    return search(SPACE, [macs], data, recipe, out_dir, fabric, show_progress=False)


def kill_in(epoch: int) -> None:
    """Have this process killed at the last step of an epoch."""
    learn = Gradient.learn

    def killed(self: Gradient, images: Tensor, labels: Tensor, step: Step) -> Learned:
        if step.epoch == epoch and step.progress == epoch / EPOCHS:
            os.kill(os.getpid(), signal.SIGKILL)
        return learn(self, images, labels, step)

    Gradient.learn = killed  # type: ignore[method-assign]


def require_closed() -> None:
    """Fail the process if it ends as a member of a group, of whose threads one may abort it."""
    if torch.distributed.is_initialized():
        os._exit(3)


if __name__ == "__main__":
    atexit.register(require_closed)  # of what is registered the first is called last
    if len(sys.argv) > 3:
        kill_in(int(sys.argv[3]))
    run(Path(sys.argv[1]), int(sys.argv[2]))
