"""Where quantisation-aware training begins: a trained network, lowered, with the ranges that images give it."""

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fbnet_mobile.data.augment import normalise
from fbnet_mobile.data.data import Data
from fbnet_mobile.engine.checkpoint import load_checkpoint, lower
from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.formats.base import format_of, write
from fbnet_mobile.formats.correction import equalise, find_ranges, observe_graph
from fbnet_mobile.formats.int8 import error, kept_nodes
from fbnet_mobile.formats.ranges import METHODS
from fbnet_mobile.graph.lowered import Lowered
from fbnet_mobile.graph.operations import Graph
from fbnet_mobile.graph.rounded import Rounded
from fbnet_mobile.train.evaluate import evaluate

ENOUGH_LOSS = 0.003
"""The loss of accuracy by post-training quantisation under which there is nothing to train for."""
_IMAGES, _BATCH = 128, 32
_MOST_KEPT, _FEW_KEPT = 0.25, 8
"""Part of the operations, and a number, up to which some stay in float32."""
_JUDGED = 1000
"""Validation images, at the most, that say what is lost without training."""


def begin(
    path: Path, data: Data, say: Callable[[str], None], options: Mapping[str, Any] | None = None
) -> tuple[Rounded, str]:
    """Return what is trained, and what tells it from others; say what a file loses without training.

    Args:
        path: a checkpoint that fbnet-train wrote.
        data: the images to be trained on, normalised as the checkpoint's were.
        say: called with a line for people.
        options: see :func:`prepare`.

    Raises:
        UserError: it is none, or one for other classes, or there is no such layer.
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
        rounded = prepare(graph, images, file, options)
        after = evaluate(format_of(file).load(file), some, data)
    enough = after >= before - ENOUGH_LOSS
    kept = f"; {len(rounded.kept)} of {len(graph.nodes)} operations are trained in float32" if rounded.kept else ""
    say(
        f"{shown(path)}: {before:.2%} of the validation images right, {after:.2%} in int8 without training"
        + ("; that is enough: fbnet-export --precision int8 needs no training" if enough else "")
        + kept
    )
    origin = f"quantised from {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return rounded, f"{origin} but {', '.join(rounded.kept)}" if rounded.kept else origin


def prepare(graph: Graph, images: Tensor, file: Path, options: Mapping[str, Any] | None = None) -> Rounded:
    """Return a network that rounds as an int8 file does, to be trained, and write the file of post-training
    quantisation.

    What that keeps in float32 is not rounded here either, if it is little: training makes up for what many operations
    lose, not for what one loses nearly all of. Ranges are those of the method
    (:data:`fbnet_mobile.formats.ranges.METHODS`) whose logits are nearest to those without rounding, on other images
    than those that were looked at.

    Args:
        graph: of the network, in float32.
        images: (N, channels, height, width), as the graph takes them.
        file: .tflite, to be written.
        options: of the conversion to int8, such as what to keep in float32, which is then done however much it is.

    Raises:
        UserError: there is no such layer.
    """
    chosen = write(graph, file, "tflite", precision="int8", calibration=images.numpy(), options=options)
    assert chosen is not None
    kept = kept_nodes(chosen, graph)
    if "keep" not in (options or {}) and len(kept) > max(_MOST_KEPT * len(graph.nodes), _FEW_KEPT):
        kept = frozenset()
    expected = _logits(Lowered(graph), images[1::2]).numpy()
    graph = equalise(graph, images.numpy())
    seen = observe_graph(graph, images[::2])
    tried = [Rounded(graph, find_ranges(graph, seen, method), keep=kept) for method in METHODS]
    return min(tried, key=lambda each: error(expected, _logits(each, images[1::2]).numpy()))


@torch.no_grad()
def _logits(module: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([module(batch) for batch in torch.split(images, _BATCH)])
