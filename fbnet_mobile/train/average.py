"""The moving average of a network's weights, which is evaluated in their place."""

from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel


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
