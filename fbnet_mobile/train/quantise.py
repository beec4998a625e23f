"""Where quantisation-aware training begins: a trained network, lowered, with the ranges that images give it."""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from fbnet_mobile.data.augment import normalise
from fbnet_mobile.data.data import Data
from fbnet_mobile.engine.checkpoint import load_checkpoint, lower
from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.formats.base import format_of, write
from fbnet_mobile.formats.correction import equalise, find_ranges, observe_graph
from fbnet_mobile.formats.int8 import error
from fbnet_mobile.formats.ranges import METHODS
from fbnet_mobile.graph.rounded import Rounded
from fbnet_mobile.train.evaluate import evaluate

ENOUGH_LOSS = 0.003
"""The loss of accuracy by post-training quantisation under which there is nothing to train for."""
_IMAGES, _BATCH = 128, 32
_JUDGED = 1000
"""Validation images, at the most, that say what is lost without training."""


def begin(path: Path, data: Data, say: Callable[[str], None]) -> tuple[Rounded, str]:
    """Return what is trained, and what tells it from others.

    Ranges are those of the method (:data:`fbnet_mobile.formats.ranges.METHODS`) whose logits are nearest to those
    without rounding, on other training images than those that were looked at. What a file of post-training quantisation
    loses, on validation images, is said: it may keep in float32 what is rounded here.

    Args:
        path: a checkpoint that fbnet-train wrote.
        data: the images to be trained on, normalised as the checkpoint's were.
        say: called with a line for people.

    Raises:
        UserError: it is none, or one for other classes.
    """
    checkpoint = load_checkpoint(path)
    if checkpoint.classes != data.classes:
        raise UserError(f"{shown(path)} is for other classes than the data have; give the data it was trained on")
    network = checkpoint.network(str(path))
    graph = lower(network, (1, 3, checkpoint.resolution, checkpoint.resolution))
    images = torch.cat([pixels for pixels, _ in data.train.limit(2 * _IMAGES).batches(_BATCH)])
    images = normalise(images, data.mean, data.std)
    some = data.val.limit(_JUDGED)
    before = evaluate(network, some, data)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "without_training.tflite"
        write(graph, file, "tflite", precision="int8", calibration=images.numpy())
        after = evaluate(format_of(file).load(file), some, data)
    graph = equalise(graph, images.numpy())
    seen = observe_graph(graph, images[::2])
    expected = _logits(network, images[1::2])
    tried = {method: Rounded(graph, find_ranges(graph, seen, method)) for method in METHODS}
    best = min(tried, key=lambda method: error(expected.numpy(), _logits(tried[method], images[1::2]).numpy()))
    enough = after >= before - ENOUGH_LOSS
    say(
        f"{shown(path)}: {before:.2%} of the validation images right, {after:.2%} in int8 without training"
        + ("; that is enough: fbnet-export --precision int8 needs no training" if enough else "")
    )
    return tried[best], f"quantised from {hashlib.sha256(path.read_bytes()).hexdigest()}"


@torch.no_grad()
def _logits(module: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([module(batch) for batch in torch.split(images, _BATCH)])
