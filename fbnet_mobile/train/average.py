"""What is evaluated in the place of the weights as a step leaves them: their moving average, newer statistics."""

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

from fbnet_mobile.data.augment import normalise
from fbnet_mobile.data.data import Data


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


def estimate_batch_norm(module: nn.Module, data: Data, images: int, device: torch.device, batch_size: int = 64) -> None:
    """Give every batch norm the mean statistics of about this many training images, as they are evaluated.

    Its own are a moving average, which lags behind the weights for as many steps as its momentum says. The same images
    in every process, and every time, of all classes in each batch, as those of one vary less than all do; batches of
    one image are left out.
    """
    sample = data.train.limit(max(images, len(data.classes)))
    sample = sample.pick(torch.randperm(len(sample), generator=torch.Generator().manual_seed(0)))
    batches = (
        normalise(batch.to(device), data.mean, data.std) for batch, _ in sample.batches(batch_size) if len(batch) > 1
    )
    with torch.no_grad():
        update_bn(batches, module)
