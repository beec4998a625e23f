"""Forward passes of the supernet that a search's forecast is timed by."""

from collections.abc import Callable
from functools import partial

import torch
from lightning_fabric import Fabric
from torch import Tensor

from fbnet_mobile.blocks.masks import Weights
from fbnet_mobile.search.supernet import Supernet
from fbnet_mobile.space import RESOLUTION


def trial_passes(
    supernet: Supernet, weights: Weights, probabilities: Weights, side: int, fabric: Fabric
) -> list[tuple[float, Callable[[int], Tensor]]]:
    """Passes of so many images to a scalar, each with its share of the steps, for ``engine.forecast.forecast``.

    One, where every step goes through all resolutions; otherwise one of each resolution, whose steps differ by several
    times.

    Args:
        supernet: on the device.
        weights: of every option, as a strategy samples them.
        probabilities: of the options, as far as they are known.
        side: pixels of the images.
        fabric: where it runs.
    """

    def scalar(resolution: Tensor, images: int) -> Tensor:
        pixels = torch.zeros(images, 3, side, side, device=fabric.device)
        with fabric.strategy.precision.forward_context():
            logits = supernet(pixels.contiguous(memory_format=torch.channels_last), {**weights, RESOLUTION: resolution})
        mean: Tensor = logits.float().square().mean()
        return mean

    drawn = weights[RESOLUTION]
    if drawn.count_nonzero() > 1:
        return [(1.0, partial(scalar, drawn))]
    shares = probabilities.get(RESOLUTION, torch.full_like(drawn, 1 / len(drawn))).tolist()
    each = torch.eye(len(drawn), device=drawn.device)
    return [(share, partial(scalar, alone)) for share, alone in zip(shares, each, strict=True)]
