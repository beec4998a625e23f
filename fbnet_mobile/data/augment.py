"""Random changes to whole batches of training images, on whatever device they are on."""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fbnet_mobile.registry import Registry

SMALL_IMAGE = 64
"""Below this resolution images are shifted; from it on a random part of them is enlarged."""

CROP_AREA = (0.35, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Augmentation:
    """A random change to a batch.

    Attributes:
        change: of (N, 3, R, R) uint8 pixels and (N, ``draws``) numbers from 0 to below 1, drawn evenly, to pixels of
            the same shape and type; a function of these alone, so that a run can be repeated.
        draws: how many numbers it needs for each image.
    """

    change: Callable[[Tensor, Tensor], Tensor]
    draws: int


AUGMENTATIONS = Registry[Augmentation]("augmentation")


def derive_seed(*numbers: int) -> int:
    """Mix non-negative numbers, such as (seed, epoch, step), into one 32-bit seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def augment(
    images: Tensor,
    names: Sequence[str],
    *,
    seed: int,
    epoch: int,
    step: int,
    rank: int = 0,
    world_size: int = 1,
) -> Tensor:
    """Change each image at random; a function of its arguments alone.

    Args:
        images: (N, 3, R, R), uint8: this process's part of the batch.
        names: of the augmentations, in the order in which they are applied.
        seed: together with ``epoch`` and ``step`` decides what is drawn. What one augmentation draws does not depend on
            the others.
        epoch: number of the epoch.
        step: number of the batch within its epoch.
        rank: which part this is: images ``rank``, ``rank + world_size``, ... of the whole batch.
        world_size: how many such parts there are.

    Returns:
        (N, 3, R, R), uint8.

    Raises:
        UserError: there is no augmentation of a name.
    """
    for name in names:
        augmentation = AUGMENTATIONS.get(name)
        # Drawn for the whole batch, so that an image meets the same fate however many processes share the batch.
        draws = _draw(name, augmentation.draws, len(images) * world_size, (seed, epoch, step))[rank::world_size]
        images = augmentation.change(images, draws.to(images.device))
    return images


# Columns of one table of draws, from when there were only these two: runs made then can be repeated.
_FIRST_TABLE = {"crop": slice(0, 4), "flip": slice(4, 5)}


def _draw(name: str, draws: int, count: int, seeds: tuple[int, ...]) -> Tensor:
    if name in _FIRST_TABLE:
        generator = torch.Generator().manual_seed(derive_seed(*seeds))
        return torch.rand(count, 5, generator=generator)[:, _FIRST_TABLE[name]]
    generator = torch.Generator().manual_seed(derive_seed(*seeds, zlib.crc32(name.encode())))
    return torch.rand(count, draws, generator=generator)


def crop(images: Tensor, draws: Tensor) -> Tensor:
    """Crop each image at random.

    Images below 64 pixels are padded by an eighth on each side and cropped back. From 64 pixels on, a part of 35 to
    100 % of the area is enlarged to the whole (milder than the 8 % usual for ImageNet, as small networks trained for a
    short time underfit).

    Args:
        images: (N, 3, R, R), uint8.
        draws: (N, 4), from 0 to below 1.
    """
    return (_shift if images.shape[-1] < SMALL_IMAGE else _enlarge)(images, draws)


def flip(images: Tensor, draws: Tensor) -> Tensor:
    """Mirror half of the images left to right; wrong for digits, text and signs.

    Args:
        images: (N, 3, R, R), uint8.
        draws: (N, 1), from 0 to below 1.
    """
    return torch.where(draws.lt(0.5).view(-1, 1, 1, 1), images.flip(3), images)


def _shift(images: Tensor, draws: Tensor) -> Tensor:
    count, _, resolution, _ = images.shape
    pad = resolution // 8
    padded = F.pad(images, (pad, pad, pad, pad))
    windows = padded.unfold(2, resolution, 1).unfold(3, resolution, 1)
    top, left = (draws[:, :2] * (2 * pad + 1)).long().unbind(1)
    return windows[torch.arange(count, device=images.device), :, top, left]


def _enlarge(images: Tensor, draws: Tensor) -> Tensor:
    area = CROP_AREA[0] + (CROP_AREA[1] - CROP_AREA[0]) * draws[:, 0]
    low, high = math.log(CROP_ASPECT[0]), math.log(CROP_ASPECT[1])
    aspect = torch.exp(low + (high - low) * draws[:, 1])
    width = (area * aspect).sqrt().clamp(max=1)
    height = (area / aspect).sqrt().clamp(max=1)
    # affine_grid counts from -1 to 1, so a part of size s keeps its centre within 1 - s of the middle.
    grid = images.new_zeros(len(images), 2, 3, dtype=torch.float32)
    grid[:, 0, 0], grid[:, 0, 2] = width, (2 * draws[:, 2] - 1) * (1 - width)
    grid[:, 1, 1], grid[:, 1, 2] = height, (2 * draws[:, 3] - 1) * (1 - height)
    sampling = F.affine_grid(grid, list(images.shape), align_corners=False)
    enlarged = F.grid_sample(images.float(), sampling, padding_mode="border", align_corners=False)
    return enlarged.round_().to(torch.uint8)


AUGMENTATIONS.add("crop", Augmentation(crop, draws=4))
AUGMENTATIONS.add("flip", Augmentation(flip, draws=1))


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turn pixels into a network's input: ``(images / 255 - mean) / std``.

    Args:
        images: (N, 3, R, R), uint8.
        mean: of each channel, on the scale from 0 to 1.
        std: standard deviation of each channel, on the same scale.

    Returns:
        (N, 3, R, R), float32, in the channels_last memory format.
    """
    scale = torch.tensor(std, device=images.device).mul_(255).view(1, -1, 1, 1)
    shift = torch.tensor(mean, device=images.device).mul_(255).view(1, -1, 1, 1)
    pixels = images.to(torch.float32, memory_format=torch.channels_last, copy=True)
    return pixels.sub_(shift).div_(scale)
