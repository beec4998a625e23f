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
from fbnet_mobile.train.recipe import TrainRecipe, TrainTask, with_recipe

if TYPE_CHECKING:
    from fbnet_mobile.arch import Architecture


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Everything that a training is asked for."""

    task: TrainTask
    images: TrainingData
    recipe: TrainRecipe
    machine: MachineOptions


@takes(TrainOptions, with_recipe)
def train(options: TrainOptions) -> TrainResult:
    """Train the network of an architecture file; best.pt in the output folder is its checkpoint.

    The classifier gets as many classes as the data have. An interrupted training continues where it was when it is
    started again in the same way; a finished one is not run again. All options are kept in args.yaml beside best.pt,
    each epoch in results.csv, and what the network is worth on the test images in evaluation.json and pictures.
    """
    task, images, recipe = options.task, options.images, options.recipe
    kept = arguments_path(task.output, folder=True)
    inputs = [images.data, task.architecture, task.inherit, task.unlabelled, recipe.teacher or None]
    check_output(task.output, replaces=Path.is_dir, inputs=inputs)
    check_arguments(kept)

    name, network = named_network(task)

    from fbnet_mobile.api.fabric import make_fabric
    from fbnet_mobile.api.teacher import open_teacher
    from fbnet_mobile.blocks.network import build
    from fbnet_mobile.data.data import load_data
    from fbnet_mobile.engine.loop import seeded
    from fbnet_mobile.files import write_whole
    from fbnet_mobile.train.loop import train as run

    fabric = make_fabric(options.machine)
    with fabric.rank_zero_first():
        data = load_data(
            images.data,
            root=images.place.data_root,
            resolution=network.resolution,
            train_resolution=recipe.train_resolution,
            seed=images.place.split_seed,
            classes=images.place.classes,
            limit=images.limit,
            unlabelled=task.unlabelled,
            skip_damaged=images.skip_damaged,
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

    def begin() -> None:
        write_arguments(kept, "train", options)
        if data.damaged:
            with write_whole(task.output / "damaged.txt") as partial:
                partial.write_text("".join(f"{line}\n" for line in data.damaged), encoding="utf-8")

    result = run(
        module,
        data,
        recipe,
        task.output,
        fabric,
        architecture=network.to_yaml(),
        initial_weights=initial_weights,
        teacher=open_teacher(recipe.teacher, data, fabric),
        compiled=task.compile,
        save_minutes=task.save_minutes,
        begin=begin,
        pictures=True,
    )
    return TrainResult(
        checkpoint=result.checkpoint,
        val_accuracy=result.val_accuracy,
        val_images=len(data.val),
        test_accuracy=result.test_accuracy,
        test_images=len(data.test),
        remarks=tuple(remarks),
        history=tuple(result.history),
        damaged=len(data.damaged),
    )


def named_network(task: TrainTask) -> "tuple[str, Architecture]":
    """The network that a training is asked for, and what names it.

    Raises:
        UserError: nothing does, or it is no network.
    """
    from fbnet_mobile.zoo import load_architecture

    name = task.architecture
    if name is None:
        from fbnet_mobile.search.results import ARCHITECTURE

        if task.inherit is None:
            raise UserError("no network; give --architecture, or --inherit with the folder of a search")
        name = str(task.inherit / ARCHITECTURE)
    return name, load_architecture(name)
