"""The accuracy of any network."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from fbnet_mobile.data.augment import normalise
from fbnet_mobile.data.data import Data
from fbnet_mobile.data.split import Split
from fbnet_mobile.engine.processes import total
from fbnet_mobile.errors import enough_memory

Predict = nn.Module | Callable[[NDArray[Any]], NDArray[np.float32]]


def evaluate(
    predict: Predict,
    split: Split,
    data: Data,
    *,
    batch_size: int = 64,
    fabric: Fabric | None = None,
    pixels: bool = False,
) -> float:
    """Top-1 accuracy on a split, from 0 to 1.

    Args:
        predict: a network, evaluated where its weights are and left in the mode it was in; or any function of
            (B, 3, R, R) float32 normalised images, or of pixels, that gives (B, classes) logits, such as an exported
            file.
        split: the images.
        data: whose statistics normalise them.
        batch_size: images at a time; the last batch may be smaller, so use 1 for a file of fixed batch 1.
        fabric: shares the images out among its processes if given.
        pixels: whether ``predict``, then a function, takes the images as they are, uint8.

    Raises:
        JobError: memory ran out.
    """
    rank, world_size = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    batches = split.batches(batch_size * world_size, rank=rank, world_size=world_size)
    with enough_memory(f"{batch_size} images of {data.resolution} x {data.resolution} pixels", "use fewer pixels"):
        if isinstance(predict, nn.Module):
            count = _module_hits(predict, batches, data)
        else:
            count = _function_hits(predict, batches, None if pixels else data)
    hits = torch.tensor(count, dtype=torch.float64)
    if fabric and world_size > 1:
        hits = total(fabric, hits.to(fabric.device))
    return float(hits) / len(split)


def answers(module: nn.Module, split: Split, data: Data, *, batch_size: int = 64) -> tuple[Tensor, Tensor]:
    """A network's logits for a split, (N, classes) float32, and the labels, (N,) int64, both on the CPU.

    Args:
        module: the network; evaluated where its weights are and left in the mode it was in.
        split: the images.
        data: whose statistics normalise them.
        batch_size: images at a time.

    Raises:
        JobError: memory ran out.
    """
    weight, was_training = next(module.parameters()), module.training
    module.eval()
    found = []
    size = f"{batch_size} images of {data.resolution} x {data.resolution} pixels"
    with torch.inference_mode(), enough_memory(size, "use fewer pixels"):
        for images, _ in split.batches(batch_size):
            inputs = normalise(images.to(weight.device), data.mean, data.std).to(weight.dtype)
            found.append(module(inputs).float().cpu())
    module.train(was_training)
    return torch.cat(found), split.labels


def _module_hits(module: Any, batches: Iterator[tuple[Tensor, Tensor]], data: Data) -> int:
    weight = next(module.parameters())
    was_training = module.training
    module.eval()
    hits = torch.zeros((), dtype=torch.int64, device=weight.device)
    with torch.inference_mode():
        for images, labels in batches:
            inputs = normalise(images.to(weight.device), data.mean, data.std).to(weight.dtype)
            hits += (module(inputs).argmax(1) == labels.to(weight.device)).sum()
    module.train(was_training)
    return int(hits)


def _function_hits(function: Any, batches: Iterator[tuple[Tensor, Tensor]], normalising: Data | None) -> int:
    hits = 0
    for images, labels in batches:
        inputs = normalise(images, normalising.mean, normalising.std) if normalising else images
        hits += int((np.asarray(function(inputs.contiguous().numpy())).argmax(1) == labels.numpy()).sum())
    return hits
