"""fbnet-train: train the network of an architecture file, or a published one."""

from pathlib import Path
from typing import Annotated

import typer

from fbnet_mobile.cli import options
from fbnet_mobile.cli.common import run


def main() -> None:
    """Entry point."""
    run(
        command,
        "fbnet-train --architecture runs/search/architecture.yaml --data path/to/images -o runs/train",
    )


def command(
    architecture: Annotated[
        str,
        typer.Option(
            help="Architecture file, such as fbnet-search wrote, or a published network's name "
            "(fbnet-benchmark --list-models).",
            show_default=False,
        ),
    ],
    data: options.Data,
    output: options.RunFolder,
    data_root: options.DataRoot = None,
    split_seed: options.SplitSeed = 0,
    limit: options.Limit = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 30,
    batch_size: options.BatchSize = 64,
    learning_rate: Annotated[float, typer.Option(help="At its peak.")] = 0.1,
    weight_decay: Annotated[float, typer.Option(min=0, help="On weights, not on biases and batch norm.")] = 5e-4,
    label_smoothing: Annotated[float, typer.Option(min=0, max=1, help="Share spread over all classes.")] = 0.1,
    ema_decay: Annotated[
        float, typer.Option(min=0, max=1, help="Of a moving average of the weights; 0 for none.")
    ] = 0.0,
    inherit: Annotated[
        Path | None,
        typer.Option(
            help="Start from the supernet's weights: the folder of the search that found the architecture.",
            show_default="random weights",
        ),
    ] = None,
    augmentations: Annotated[
        str | None,
        typer.Option(
            help="Random changes of the images, in this order and with commas between: crop, flip, or a plugin's.",
            show_default="crop,flip; crop for digits and signs",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of initial weights, order and augmentation.")] = 0,
    accelerator: options.Accelerator = "auto",
    devices: options.Devices = "1",
    precision: options.Precision = "32-true",
) -> None:
    """Train the network of an architecture file; best.pt in the output folder is its checkpoint.

    The classifier gets as many classes as the data have. An interrupted training continues where it was when the same
    command is given again; a finished one is not run again.
    """
    from fbnet_mobile.zoo import load_architecture

    network = load_architecture(architecture)

    from lightning_fabric import seed_everything

    from fbnet_mobile.blocks.network import build
    from fbnet_mobile.cli.training import make_fabric
    from fbnet_mobile.data.data import load_data
    from fbnet_mobile.train.loop import train
    from fbnet_mobile.train.recipe import TrainRecipe

    recipe = TrainRecipe(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        ema_decay=ema_decay,
        augmentations=None if augmentations is None else tuple(filter(None, augmentations.split(","))),
        seed=seed,
    )
    fabric = make_fabric(accelerator, devices, precision)
    with fabric.rank_zero_first():
        images = load_data(data, root=data_root, resolution=network.resolution, seed=split_seed, limit=limit)
    if network.classes != len(images.classes):
        print(
            f"{architecture} has {network.classes} classes, the data {len(images.classes)}: its classifier is changed"
        )
        network = network.with_classes(len(images.classes))
    seed_everything(seed, verbose=False)
    if inherit is not None:
        from fbnet_mobile.search.loop import inherited_network

        module, initial_weights = inherited_network(inherit, network), f"inherited from {inherit}"
    else:
        module, initial_weights = build(network), "random"
    result = train(
        module, images, recipe, output, fabric, architecture=network.to_yaml(), initial_weights=initial_weights
    )
    if fabric.is_global_zero:
        print(
            f"{result.checkpoint}: accuracy {result.val_accuracy:.2%} on the {len(images.val)} validation images, "
            f"{result.test_accuracy:.2%} on the {len(images.test)} test images"
        )
