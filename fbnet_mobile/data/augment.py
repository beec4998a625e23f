"""Random changes to training images, decided by given draws alone."""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from fbnet_mobile.data.recipe import CROP_AREA
from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.registry import Registry

SMALL_IMAGE = 64
"""Below this resolution images are shifted; from it on a random part of the original is cut out."""

CROP_ASPECT = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Augmentation:
    """A random change to a batch.

    Attributes:
        change: of (N, 3, R, R) uint8 pixels and (N, ``draws``) numbers from 0 to below 1, drawn evenly, to pixels of
            the same shape and type; a function of these alone, so that a run can be repeated. With a ``strength`` it
            has that as a third argument.
        draws: how many numbers it needs for each image.
        strength: where none is asked for; None if there is none to ask for.
        low: the least that it may be.
        high: the most.
    """

    change: Callable[..., Tensor]
    draws: int
    strength: float | None = None
    low: float = 0.0
    high: float = 1.0


AUGMENTATIONS = Registry[Augmentation]("augmentation")


def find_augmentation(text: str) -> tuple[Augmentation, float | None]:
    """The augmentation that a text such as ``flip`` or ``randaugment:9`` names, and its strength if it has one.

    Raises:
        UserError: there is none of that name, or its strength cannot be.
    """
    name, given, strength = text.partition(":")
    found = AUGMENTATIONS.get(name)
    if not given:
        return found, found.strength
    try:
        value = float(strength)
    except ValueError:
        value = math.nan
    if found.strength is None or not found.low <= value <= found.high:
        wanted = f"{name}:NUMBER, from {found.low:g} to {found.high:g}" if found.strength is not None else name
        raise UserError(f"the augmentation '{shown(text, 40)}' cannot be; write {wanted}")
    return found, value


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
        augmentation, strength = find_augmentation(name)
        # Drawn for the whole batch, so that an image meets the same fate however many processes share the batch.
        draws = draw(name, augmentation.draws, len(images) * world_size, (seed, epoch, step))[rank::world_size]
        more = () if strength is None else (strength,)
        images = augmentation.change(images, draws.to(images.device), *more)
    return images


# Columns of one table of draws, from when there were only these two: runs made then can be repeated.
_FIRST_TABLE = {"crop": slice(0, 4), "flip": slice(4, 5)}


def draw(text: str, draws: int, count: int, seeds: tuple[int, ...]) -> Tensor:
    """What an augmentation draws for a whole batch: (count, draws) numbers from 0 to below 1."""
    name = text.partition(":")[0]
    if name in _FIRST_TABLE:
        generator = torch.Generator().manual_seed(derive_seed(*seeds))
        return torch.rand(count, 5, generator=generator)[:, _FIRST_TABLE[name]]
    generator = torch.Generator().manual_seed(derive_seed(*seeds, zlib.crc32(name.encode())))
    return torch.rand(count, draws, generator=generator)


def crop(images: Tensor, draws: Tensor, least: float) -> Tensor:
    """Shift each image at random: padded by an eighth on each side and cropped back.

    For images below 64 pixels; from 64 pixels on a part of the original is enlarged instead (``cut``).

    Args:
        images: (N, 3, R, R), uint8.
        draws: (N, 4), from 0 to below 1; the first two count.
        least: of ``cut``, without meaning here.
    """
    count, _, resolution, _ = images.shape
    pad = resolution // 8
    padded = F.pad(images, (pad, pad, pad, pad))
    windows = padded.unfold(2, resolution, 1).unfold(3, resolution, 1)
    top, left = (draws[:, :2] * (2 * pad + 1)).long().unbind(1)
    return windows[torch.arange(count, device=images.device), :, top, left]


def cut(original: Tensor, draws: Tensor, least: float, resolution: int) -> Tensor:
    """Bring a random part of an image, of ``least`` to all of its area and 3:4 to 4:3, to one size.

    Args:
        original: (1, 3, H, W), uint8, channels last in memory.
        draws: (4,), from 0 to below 1: area, aspect, and where.
        least: the least share of the area.
        resolution: R.

    Returns:
        (1, 3, R, R), uint8, channels last.
    """
    height, width = original.shape[2:]
    area, aspect, down, right = draws.tolist()
    low, high = map(math.log, CROP_ASPECT)
    ratio = math.exp(low + (high - low) * aspect)
    pixels = (least + (1 - least) * area) * height * width
    rows = min(height, max(1, round(math.sqrt(pixels / ratio))))
    columns = min(width, max(1, round(math.sqrt(pixels * ratio))))
    top, left = int(down * (height - rows + 1)), int(right * (width - columns + 1))
    part = original[:, :, top : top + rows, left : left + columns]
    return F.interpolate(part, (resolution, resolution), mode="bilinear", antialias=True, align_corners=False)


def flip(images: Tensor, draws: Tensor) -> Tensor:
    """Mirror half of the images left to right; wrong for digits, text and signs.

    Args:
        images: (N, 3, R, R), uint8.
        draws: (N, 1), from 0 to below 1.
    """
    mirrored = images.clone()
    for number in draws.flatten().lt(0.5).nonzero().flatten().tolist():  # a fifth of the time of torch.where
        mirrored[number] = images[number].flip(2)
    return mirrored


def _each(make: Callable[[float], nn.Module]) -> Callable[[Tensor, Tensor, float], Tensor]:
    """A change of one image that draws from torch's own generator, as a change of a batch by given draws."""

    def change(images: Tensor, draws: Tensor, strength: float) -> Tensor:
        apply = make(strength)
        seeds = (draws[:, 0].double() * 2**48 + draws[:, 1].double() * 2**24).long().tolist()
        changed = torch.empty_like(images)
        with torch.random.fork_rng(devices=[]):
            for place, seed in enumerate(seeds):
                torch.default_generator.manual_seed(seed)
                changed[place] = apply(images[place])
        return changed

    return change


AUGMENTATIONS.add("crop", Augmentation(crop, draws=4, strength=CROP_AREA, low=0.01))
AUGMENTATIONS.add("flip", Augmentation(flip, draws=1))
_MAGNITUDES, _GREY = 31, 127.0
AUGMENTATIONS.add(
    "randaugment",
    Augmentation(_each(lambda n: v2.RandAugment(2, round(n), _MAGNITUDES)), 2, strength=9.0, high=_MAGNITUDES - 1.0),
)
AUGMENTATIONS.add(
    "trivialaugment",
    Augmentation(_each(lambda n: v2.TrivialAugmentWide(round(n))), 2, strength=_MAGNITUDES, low=2, high=_MAGNITUDES),
)
AUGMENTATIONS.add("colour", Augmentation(_each(lambda n: v2.ColorJitter(n, n, n)), 2, strength=0.4))
AUGMENTATIONS.add("erase", Augmentation(_each(lambda p: v2.RandomErasing(p, value=_GREY)), 2, strength=0.25))


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turn pixels into a network's input: ``(images / 255 - mean) / std``.

    Args:
        images: (N, 3, R, R), uint8.
        mean: of each channel, on the scale from 0 to 1.
        std: standard deviation of each channel, on the same scale.

    Returns:
        (N, 3, R, R), float32, in the channels_last memory format.
    """
    # By rows of pixels: a broadcast over three channels alone takes three times as long on a CPU.
    width = images.shape[3]
    scale, shift = (torch.tensor(each, device=images.device).mul_(255).repeat(width) for each in (std, mean))
    normalised = images.to(torch.float32, memory_format=torch.channels_last, copy=True)
    normalised.permute(0, 2, 3, 1).view(-1, 3 * width).sub_(shift).div_(scale)
    return normalised
