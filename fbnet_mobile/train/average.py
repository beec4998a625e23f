"""What is evaluated in the place of the weights as a step leaves them: their moving average, newer statistics."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

from fbnet_mobile.data.data import Data, training_batches


def moving_average(module: nn.Module, decay: float) -> AveragedModel:
    """A module whose parameters and buffers follow those of ``module`` with every ``update_parameters(module)``.

    Each becomes decay x itself + (1 - decay) x the other's. In the first steps the decay is less, so that the average
    is not of the initial weights: (1 + steps) / (10 + steps).
    """

    def blend(averages: Any, weights: Any, count: Any) -> None:
        steps = int(count)
        share = 1 - min(decay, (1 + steps) / (10 + steps))
        for average, weight in zip(averages, weights, strict=True):
            if average.is_floating_point():
                average.lerp_(weight, share)
            else:
                average.copy_(weight)

    return AveragedModel(module, multi_avg_fn=blend, use_buffers=True)


def estimate_batch_norm(
    module: nn.Module, data: Data, images: int, device: torch.device, augmentations: Sequence[str], seed: int = 0
) -> None:
    """Give every batch norm the mean statistics of about this many training images.

    Its own are a moving average, which lags behind the weights for as many steps as its momentum says. The images are
    augmented, as the weights were trained to what that gives: a shift at 32 pixels leaves black borders, and with
    statistics of images without them a small network lost five points on CIFAR-10. But parts are not cut out of them,
    as things are larger there than where the network is evaluated (Touvron et al. 2019, arXiv 1906.06423, section 3).
    The same in every process, and every time; in batches of all classes, as those of one vary less.

    Args:
        module: takes (B, 3, R, R) float32 images; changed in place.
        data: whose training images are taken, and normalised by its mean and deviation.
        images: how many; at least one of each class, all of them if there are no more.
        device: where the module is.
        augmentations: names, as of ``training_batches``.
        seed: decides order and augmentation.
    """
    sample = data.train.limit(max(images, len(data.classes)))
    if sample.store.cuts:
        augmentations = [name for name in augmentations if name.partition(":")[0] != "crop"]
    size = min(_BATCH, len(sample))
    batches = training_batches(sample, data, size, seed=seed, epoch=0, device=device, augmentations=augmentations)
    with torch.no_grad():
        update_bn((views for views, _ in batches), module)


_BATCH = 64
"""Images that one step of the estimate sees."""
