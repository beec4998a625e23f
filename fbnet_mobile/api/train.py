"""From an architecture and images to a checkpoint."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbnet_mobile.api.call import (
    arguments_path,
    check_arguments,
    check_output,
    takes,
    write_arguments,
)
from fbnet_mobile.data.recipe import TrainingData
from fbnet_mobile.errors import UserError
from fbnet_mobile.recipe import MachineOptions, keep_asked
from fbnet_mobile.remarks import say
from fbnet_mobile.report.records import TrainResult
from fbnet_mobile.train.recipe import TrainRecipe, TrainTask, with_recipe

if TYPE_CHECKING:
    from torch import nn

    from fbnet_mobile.zoo.start import Start


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Everything that a training is asked for."""

    task: TrainTask
    images: TrainingData
    recipe: TrainRecipe
    machine: MachineOptions


def completed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options with those of their recipe; see ``with_recipe``."""
    return with_recipe(given, inherits_trained=_within(given.get("inherit")))


def _within(folder: object) -> bool:
    """Whether a search's folder says that it was within a trained network."""
    from fbnet_mobile.search.results import RESULT

    if folder is None:
        return False
    try:
        return bool(json.loads((Path(str(folder)) / RESULT).read_text(encoding="utf-8")).get("within"))
    except (OSError, ValueError, AttributeError):  # said where its weights are read
        return False


@takes(TrainOptions, completed)
def train(options: TrainOptions) -> TrainResult:
    """Train a network, from random weights or from trained ones; best.pt in the output folder is its checkpoint.

    The classifier gets as many classes as the data have. Images are normalised as the weights' were that a network
    starts from, and by their own mean and deviation without. An interrupted training continues where it was when it is
    started again in the same way; a finished one is not run again. All options are kept in args.yaml beside best.pt,
    each epoch in results.csv, and what the network is worth on the test images in evaluation.json and pictures.
    """
    task, images, recipe = options.task, options.images, options.recipe
    asked = task.network
    kept = arguments_path(task.output, folder=True)
    inputs = [
        *(images.data, asked.architecture, asked.checkpoint, asked.weights, task.inherit, task.unlabelled),
        recipe.teacher or None,
    ]
    check_output(task.output, replaces=Path.is_dir, inputs=inputs)
    check_arguments(kept)
    start = start_of(task)

    from fbnet_mobile.api.fabric import make_fabric
    from fbnet_mobile.api.teacher import open_teacher
    from fbnet_mobile.data.data import load_data
    from fbnet_mobile.engine.loop import seeded
    from fbnet_mobile.files import write_whole
    from fbnet_mobile.train.loop import train as run

    fabric = make_fabric(options.machine)
    with fabric.rank_zero_first():
        data = load_data(
            images.data,
            root=images.place.data_root,
            resolution=start.architecture.resolution,
            train_resolution=recipe.train_resolution,
            seed=images.place.split_seed,
            classes=images.place.classes,
            limit=images.limit,
            unlabelled=task.unlabelled,
            skip_damaged=images.skip_damaged,
        )
    if start.mean is not None and start.std is not None:
        data = replace(data, mean=start.mean, std=start.std)
    module: nn.Module
    if task.quantize is not None:
        assert asked.checkpoint is not None
        from fbnet_mobile.train.quantise import begin as quantised

        module, initial_weights = quantised(
            asked.checkpoint, data, say if fabric.is_global_zero else lambda _: None, keep_asked(task.int8_keep)
        )
    network, remarks = start.for_classes(data.classes)
    if fabric.is_global_zero:
        for remark in remarks:
            say(remark)
    if task.inherit is not None:
        from fbnet_mobile.search.inherit import inherited

        found, initial_weights = inherited(task.inherit, network), f"inherited from {task.inherit}"
        module = found.network
        if found.colours is not None:
            mean, std = found.colours
            data = replace(data, mean=mean, std=std)
    elif task.quantize is None:
        with seeded(fabric, recipe.seed):
            module = start.network(data.classes)
        initial_weights = "random" if start.weights is None else f"those of {start.name}"

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
        teacher=open_teacher(recipe.teacher, data.classes, (data.mean, data.std), fabric),
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


def start_of(task: TrainTask) -> "Start":
    """What is to be trained.

    Raises:
        UserError: it is not one network, or weights were asked for that are not its own.
    """
    asked = task.network
    given = [name for name in ("checkpoint", "architecture", "model") if getattr(asked, name) is not None]
    if len(given) > 1 or (not given and task.inherit is None):
        raise UserError(
            f"{' and '.join(f'--{name}' for name in given) or 'no network'} to train; give one of --checkpoint, "
            "--architecture and --model, or --inherit with the folder of a search"
        )
    if task.quantize is not None and asked.checkpoint is None:
        raise UserError("--quantize trains what is trained already; give its --checkpoint, alone")
    if task.quantize is None and task.int8_keep != "auto":
        raise UserError("--int8-keep is for training with rounding; add --quantize int8, or leave it out")
    if asked.model is None and (asked.pretrained or asked.weights is not None):
        option = "--pretrained" if asked.pretrained else "--weights"
        raise UserError(f"{option} is for a network with a name; give --model, or leave it out")
    if asked.pretrained and asked.weights is not None:
        raise UserError("--pretrained and --weights both say what to start from; leave one out")
    if task.inherit is not None and given not in ([], ["architecture"]):
        raise UserError(f"--inherit has the weights of what the search found; leave out --{given[0]}")

    from fbnet_mobile.search.results import ARCHITECTURE
    from fbnet_mobile.zoo.start import from_architecture, from_checkpoint, from_model

    if asked.checkpoint is not None:
        start = from_checkpoint(asked.checkpoint)
    elif asked.model is not None:
        start = from_model(asked.model, pretrained=asked.pretrained, weights=asked.weights)
    else:
        start = from_architecture(asked.architecture or str(Path(task.inherit or "") / ARCHITECTURE))
    if task.resolution is None:
        return start
    return replace(start, architecture=start.architecture.with_resolution(task.resolution))
