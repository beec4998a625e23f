"""From an architecture and images to a checkpoint."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fbnet_mobile.api.call import (
    arguments_path,
    check_arguments,
    check_output,
    say,
    takes,
    write_arguments,
)
from fbnet_mobile.data.recipe import TrainingData
from fbnet_mobile.errors import UserError
from fbnet_mobile.recipe import MachineOptions
from fbnet_mobile.report.records import TrainResult
from fbnet_mobile.train.recipe import TrainRecipe, TrainTask

if TYPE_CHECKING:
    from torch import nn

    from fbnet_mobile.arch import Architecture

QUANTIZED_RATE = 0.01
"""Share of the learning rate with which weights that are trained already, and without batch norm, are trained on."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Everything that a training is asked for."""

    task: TrainTask
    images: TrainingData
    recipe: TrainRecipe
    machine: MachineOptions


@takes(TrainOptions)
def train(options: TrainOptions) -> TrainResult:
    """Train the network of an architecture file; best.pt in the output folder is its checkpoint.

    The classifier gets as many classes as the data have. An interrupted training continues where it was when it is
    started again in the same way; a finished one is not run again. All options are kept in args.yaml beside best.pt.
    """
    task, images, recipe = options.task, options.images, options.recipe
    kept = arguments_path(task.output, folder=True)
    inputs = [images.data, task.architecture, task.inherit, task.checkpoint]
    check_output(task.output, replaces=Path.is_dir, inputs=inputs)
    check_arguments(kept)
    network = _architecture(task)

    from fbnet_mobile.api.fabric import make_fabric
    from fbnet_mobile.blocks.network import build
    from fbnet_mobile.data.data import load_data
    from fbnet_mobile.engine.loop import seeded
    from fbnet_mobile.train.loop import train as run

    fabric = make_fabric(options.machine)
    with fabric.rank_zero_first():
        data = load_data(
            images.data,
            root=images.place.data_root,
            resolution=network.resolution,
            seed=images.place.split_seed,
            limit=images.limit,
        )
    remarks = []
    if network.classes != len(data.classes):
        remarks.append(
            f"{task.architecture} has {network.classes} classes, the data {len(data.classes)}: its classifier is "
            "changed"
        )
        if fabric.is_global_zero:
            say(remarks[-1])
        network = network.with_classes(len(data.classes))
    if task.checkpoint is not None:
        from fbnet_mobile.train.quantise import begin

        module: nn.Module
        told = say if fabric.is_global_zero else lambda _: None
        module, data, initial_weights = begin(task.checkpoint, data, told)
        recipe = replace(recipe, learning_rate=QUANTIZED_RATE * recipe.learning_rate)
    elif task.inherit is not None:
        from fbnet_mobile.search.inherit import inherited_network

        module, initial_weights = inherited_network(task.inherit, network), f"inherited from {task.inherit}"
    else:
        with seeded(fabric, recipe.seed):
            module, initial_weights = build(network), "random"
    result = run(
        module, data, recipe, task.output, fabric, architecture=network.to_yaml(), initial_weights=initial_weights
    )
    if fabric.is_global_zero:
        write_arguments(kept, "train", options)
    return TrainResult(
        checkpoint=result.checkpoint,
        val_accuracy=result.val_accuracy,
        val_images=len(data.val),
        test_accuracy=result.test_accuracy,
        test_images=len(data.test),
        remarks=tuple(remarks),
        history=tuple(result.history),
    )


def _architecture(task: TrainTask) -> "Architecture":
    """The architecture that is trained.

    Raises:
        UserError: options that do not go together, or there is no such network.
    """
    if (task.checkpoint is None) != (task.quantize is None):
        raise UserError(
            "--quantize trains a checkpoint on; give both --checkpoint and --quantize int8, or neither of them"
        )
    if task.checkpoint is not None:
        if task.architecture is not None or task.inherit is not None:
            given = "--inherit" if task.architecture is None else "--architecture"
            raise UserError(f"--checkpoint has its own architecture and weights; leave out {given}")

        from fbnet_mobile.arch import Architecture
        from fbnet_mobile.engine.checkpoint import load_checkpoint

        return Architecture.from_yaml(load_checkpoint(task.checkpoint).architecture, str(task.checkpoint))
    if task.architecture is None:
        raise UserError("no network; give --architecture, or --checkpoint with --quantize int8")

    from fbnet_mobile.zoo import load_architecture

    return load_architecture(task.architecture)
