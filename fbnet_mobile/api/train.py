"""From an architecture and images to a checkpoint."""

from dataclasses import dataclass, replace
from pathlib import Path

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
    if task.architecture is None and task.inherit is None:
        raise UserError("no network; give --architecture, or --inherit with the folder of a search")
    check_output(task.output, replaces=Path.is_dir, inputs=[images.data, task.architecture, task.inherit])
    check_arguments(kept)

    from fbnet_mobile.zoo import load_architecture

    name = task.architecture
    if name is None:
        from fbnet_mobile.search.results import ARCHITECTURE

        assert task.inherit is not None
        name = str(task.inherit / ARCHITECTURE)
    network = load_architecture(name)

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
        remarks.append(f"{name} has {network.classes} classes, the data {len(data.classes)}: its classifier is changed")
        if fabric.is_global_zero:
            say(remarks[-1])
        network = network.with_classes(len(data.classes))
    if task.inherit is not None:
        from fbnet_mobile.search.inherit import inherited

        found, initial_weights = inherited(task.inherit, network), f"inherited from {task.inherit}"
        module = found.network
        if found.colours is not None:
            mean, std = found.colours
            data = replace(data, mean=mean, std=std)
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
