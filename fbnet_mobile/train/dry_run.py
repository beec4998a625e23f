"""How long a training would take, and how much memory, by some of its steps."""

import resource
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import nn

from fbnet_mobile.data.data import Survey
from fbnet_mobile.engine.allocator import tune_allocator
from fbnet_mobile.engine.losses import Teach
from fbnet_mobile.errors import UserError, enough_memory
from fbnet_mobile.train.optimizer import make_optimizer
from fbnet_mobile.train.recipe import TrainRecipe
from fbnet_mobile.train.regularise import regularise
from fbnet_mobile.train.results import DryRun

_STEPS, _ROWS = 3, 8


def expect(
    module: nn.Module,
    images: Survey,
    recipe: TrainRecipe,
    resolution: int,
    fabric: Fabric,
    options: dict[str, Any],
    teacher: Teach | None = None,
) -> DryRun:
    """Try three steps, one batch of evaluation, and the decoding of some images, and add up.

    Args:
        module: the network, with random weights.
        images: what there is to learn from.
        recipe: how to train.
        resolution: of evaluation.
        fabric: where.
        options: to be shown.
        teacher: that answers in each step.

    Raises:
        UserError: the images do not fill a batch.
        JobError: memory ran out.
    """
    count = images.counts["train"]
    if recipe.batch_size > count:
        raise UserError(
            f"{count} training images do not fill a batch of {recipe.batch_size}; "
            f"use a batch size from 1 to {count}, or more images"
        )
    tune_allocator()
    steps, device = count // recipe.batch_size, fabric.device
    regularise(module, recipe.dropout, recipe.drop_path)
    optimizer = make_optimizer(module, recipe)
    module, optimizer = fabric.setup(module.to(memory_format=torch.channels_last), optimizer)
    part = max(1, recipe.batch_size // (recipe.accumulate * fabric.world_size))
    size = recipe.train_resolution or resolution

    def wait() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.monotonic()

    inputs = torch.randn(part, 3, size, size, device=device).to(memory_format=torch.channels_last)
    labels = torch.zeros(part, dtype=torch.int64, device=device)
    times = []
    batch = f"a batch of {part} images of {size} x {size} pixels"
    with enough_memory(batch, "use a smaller --batch-size, or --accumulate"):
        for _ in range(_STEPS):
            started = wait()
            for _ in range(recipe.accumulate):
                if teacher is not None:
                    teacher(inputs)
                fabric.backward(F.cross_entropy(module(inputs), labels))
            optimizer.step()
            optimizer.zero_grad()
            times.append(wait() - started)
    evaluated = torch.randn(min(64, part), 3, resolution, resolution, device=device)
    module.eval()
    with torch.inference_mode():
        started = wait()
        module(evaluated.to(memory_format=torch.channels_last))
        image_seconds = (wait() - started) / len(evaluated)
    decoded = count + images.counts["val"] + images.counts["test"]
    passes = 1 if images.in_memory else recipe.epochs
    seen = recipe.epochs * (images.counts["val"] + min(count, recipe.batch_norm_images)) + images.counts["test"]
    return DryRun(
        options=options,
        classes=len(images.classes),
        images=images.counts,
        steps=steps,
        schedule=_schedule(recipe),
        device=str(fabric.device),
        step_seconds=min(times),
        seconds=recipe.epochs * steps * min(times) + seen * image_seconds + passes * decoded * images.decode_seconds,
        memory_bytes=_memory(device) + (images.bytes if images.in_memory else 0),
        image_bytes=images.bytes if images.in_memory else 0,
    )


def _schedule(recipe: TrainRecipe) -> dict[int, float]:
    """The learning rate after some of the epochs, the first and the last among them."""
    epochs = sorted({round(1 + (recipe.epochs - 1) * number / (_ROWS - 1)) for number in range(_ROWS)})
    return {epoch: recipe.learning_rate_at(epoch) for epoch in epochs}


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
