"""Train a tiny network on scikit-learn's digits: called by the tests, and run by them as a program."""

import sys
from pathlib import Path

import torch
from torch import nn

from fbnet_mobile.api.fabric import make_fabric
from fbnet_mobile.data.data import load_data
from fbnet_mobile.recipe import MachineOptions
from fbnet_mobile.train.loop import train
from fbnet_mobile.train.recipe import TrainRecipe
from fbnet_mobile.train.results import Trained


def network(batch_norm: bool) -> nn.Module:
    torch.manual_seed(5)
    # Batch norm and dropout see a process's own images, so only a network without them is the same on two.
    extra: list[nn.Module] = [nn.BatchNorm2d(16), nn.Dropout(0.1)] if batch_norm else []
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2),
        *extra,
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(144, 10),
    )


def run(
    out_dir: Path,
    epochs: int,
    *,
    processes: int = 1,
    batch_norm: bool = True,
    save_minutes: float = 5.0,
    **recipe: float,
) -> Trained:
    fabric = make_fabric(MachineOptions(accelerator="cpu", devices=str(processes)))
    data = load_data("digits", resolution=16, limit=600)
    settings = {"learning_rate": 0.05, "ema_decay": 0.9, "batch_size": 8, **recipe}
    return train(
        network(batch_norm),
        data,
        TrainRecipe(epochs=epochs, **settings),  # type: ignore[arg-type]
        out_dir,
        fabric,
        architecture="digits",
        save_minutes=save_minutes,
    )


if __name__ == "__main__":
    run(
        Path(sys.argv[1]),
        int(sys.argv[2]),
        processes=int(sys.argv[3]),
        batch_norm=sys.argv[4] == "batch_norm",
    )
