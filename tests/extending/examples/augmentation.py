"""An augmentation: part of each image is wiped out (Cutout, DeVries and Taylor 2017)."""

import torch
from torch import Tensor

from fbnet_mobile.data.augment import AUGMENTATIONS, Augmentation


def cutout(images: Tensor, draws: Tensor) -> Tensor:
    """Blacken a square of half the width, with its centre anywhere: (N, 3, R, R) uint8 and (N, 2) draws."""
    resolution = images.shape[-1]
    places = torch.arange(resolution, device=images.device)
    rows, columns = ((places - resolution * draws[:, i : i + 1]).abs() < resolution / 4 for i in (0, 1))
    hole = rows[:, None, :, None] & columns[:, None, None, :]
    return images.masked_fill(hole, 0)


AUGMENTATIONS.add("cutout", Augmentation(cutout, draws=2))
