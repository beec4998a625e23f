"""Labelled images, ready to learn from: loaded, divided, and given in batches."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fbnet_mobile.data.augment import AUGMENTATIONS, augment, normalise
from fbnet_mobile.data.decode import shorter_side
from fbnet_mobile.data.sources import Source, open_source
from fbnet_mobile.data.split import Split, hold_out, limited
from fbnet_mobile.data.store import FileStore, MemoryStore, Store, check_all, decode_all
from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.progress import ProgressBar

MEMORY_LIMIT = 2 * 10**9
"""Bytes of decoded pixels up to which a data set is held in memory."""

_STATISTICS_IMAGES = 4096
_GLIMPSED = 32


@dataclass(frozen=True)
class Data:
    """Training, validation and test images with what a network needs to know about them.

    Attributes:
        train: images to learn from.
        val: images to choose between networks and epochs with.
        test: images for the one final number.
        classes: class names, in the order of the labels.
        mean: of each channel over the training images (4,096 of them at most), on the scale from 0 to 1.
        std: standard deviation of each channel, on the same scale.
        resolution: height and width in pixels.
        flip: whether mirrored images keep their meaning: False for digits, GTSRB, KMNIST, MNIST, QMNIST, SVHN,
            USPS and folders of these names, True for all else but a source that says otherwise.
        source: where the images came from.
        fingerprint: changes where the images do: names, sizes and times of a folder's files, the name and sizes of
            another source; and the seed and the limit that they were divided by.
    """

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resolution: int
    flip: bool
    source: str
    fingerprint: str

    @property
    def augmentations(self) -> tuple[str, ...]:
        """What suits these images where nothing else is asked for."""
        return ("crop", "flip") if self.flip else ("crop",)


def training_batches(
    split: Split,
    data: Data,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    device: torch.device,
    augmentations: Sequence[str] | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of shuffled, augmented and normalised batches; see ``Split.shuffled`` and ``augment``.

    Args:
        split: the images, such as ``data.train`` or a part of it.
        data: whose statistics normalise the images.
        batch_size: images in a batch of all processes together.
        seed: together with ``epoch`` decides order and augmentation, whatever the number of processes.
        epoch: number of the epoch.
        device: where the batches go, and where they are augmented.
        augmentations: names in ``AUGMENTATIONS``, in the order of application; None for what suits the data. Images
            that are decoded on the way are cropped while they are, before all others.
        rank: this process.
        world_size: number of processes.

    Yields:
        (B, 3, R, R) float32 channels_last images and (B,) int64 labels, both on ``device``.

    Raises:
        UserError: as ``Split.shuffled``, or there is no augmentation of a name.
    """
    names = data.augmentations if augmentations is None else tuple(augmentations)
    for name in names:
        AUGMENTATIONS.get(name)
    crop = "crop" in names
    if split.store.crops:
        names = tuple(name for name in names if name != "crop")
    batches = split.shuffled(batch_size, seed=seed, epoch=epoch, crop=crop, rank=rank, world_size=world_size)
    for step, (images, labels) in enumerate(batches):
        changed = augment(images.to(device), names, seed=seed, epoch=epoch, step=step, rank=rank, world_size=world_size)
        yield normalise(changed, data.mean, data.std), labels.to(device)


def load_data(
    source: str,
    *,
    root: Path | None = None,
    resolution: int,
    seed: int = 0,
    limit: int | None = None,
    memory_limit: int = MEMORY_LIMIT,
    workers: int | None = None,
    show_progress: bool = True,
) -> Data:
    """Load labelled images from a folder, from one of torchvision's data sets, or scikit-learn's digits.

    A folder holds one sub-folder of images per class, or ``train/`` with those, and ``val/`` and ``test/`` too if it
    has them (in any case, and as ``training``, ``valid``, ``validation``, ``testing``). Validation or test images that
    the source lacks are taken out of the training images, 10 % of each class, chosen by ``seed``. Images become RGB,
    are turned as their EXIF tag says, and are scaled and cropped at the centre to a square. They are decoded into
    memory if they fit, and otherwise checked once and decoded by worker processes when needed.

    Among several processes, let the first call this before the others, as it may download.

    Args:
        source: path of a folder, name of a torchvision data set (``CIFAR10``), ``digits``, or another registered source
            and what it opens, as ``name:rest``.
        root: where torchvision keeps or downloads its data sets; ``data`` in the current folder by default.
        resolution: height and width in pixels to bring the images to.
        seed: decides which images are taken out for validation and test, and which are kept under ``limit``.
        limit: keep about this many training images, each class in its share.
        memory_limit: bytes of decoded pixels up to which the images are held in memory.
        workers: processes that decode images that are not; one per core by default, eight at most.
        show_progress: whether to draw a bar while decoding, if stderr is a terminal, and to write a line about what a
            folder holds that is not used.

    Raises:
        UserError: the source does not exist, cannot be downloaded, or is of no use: no images, an unreadable
            one, one class, a class that is only in ``val/`` or ``test/``, or too few images to hold some out.
    """
    opened = _open(source, root, resolution, seed)
    drawn = hold_out(opened.parts, opened.classes, source, seed)
    if limit is not None:
        images, positions = drawn["train"]
        drawn["train"] = images, positions[limited(images.labels[positions], limit, seed)]
    total = sum(len(positions) for _, positions in drawn.values())
    in_memory = total * 3 * resolution**2 <= memory_limit
    workers = min(8, os.cpu_count() or 1) if workers is None else workers
    splits: dict[str, Split] = {}
    with ProgressBar("reading images" if in_memory else "checking images", total, show=show_progress) as bar:
        if opened.skipped:
            bar.say(_left_out(source, opened.skipped))
        for part, (images, positions) in drawn.items():
            labels = images.labels[positions]
            if in_memory:
                store: Store = MemoryStore(decode_all(images, positions, resolution, bar))
                splits[part] = Split(store, torch.arange(len(positions)), labels)
            else:
                check_all(images, positions, bar)
                splits[part] = Split(FileStore(images, resolution, workers), positions, labels)
    mean, std = _statistics(splits["train"], seed)
    return Data(
        **splits,
        classes=opened.classes,
        mean=mean,
        std=std,
        resolution=resolution,
        flip=opened.mirrors,
        source=source,
        fingerprint=_fingerprint(opened, seed, limit),
    )


def _left_out(source: str, skipped: Mapping[str, int]) -> str:
    counts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(skipped.items()))
    return f"{shown(source)}: left out {counts}"


def _fingerprint(source: Source, seed: int, limit: int | None) -> str:
    return hashlib.sha256(f"{source.name}\0{source.fingerprint}\0{seed}\0{limit}".encode()).hexdigest()[:16]


def load_images(
    source: str, part: str, count: int, *, root: Path | None = None, resolution: int, seed: int = 0
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Decode a few images of one part of the data that :func:`load_data` loads, and no others.

    Args:
        source: see :func:`load_data`.
        part: "train", "val" or "test".
        count: how many at most; they are spread evenly over the part, whose images lie class by class in a folder.
        root: see :func:`load_data`.
        resolution: height and width in pixels to bring the images to.
        seed: decides which images are taken out of the training images, as in :func:`load_data`.

    Returns:
        (N, 3, R, R) uint8 pixels, (N,) int64 labels, and the class names in the order of the labels.

    Raises:
        UserError: as :func:`load_data`; of unreadable images, only those that are chosen are noticed.
    """
    opened = _open(source, root, resolution, seed)
    images, positions = hold_out(opened.parts, opened.classes, source, seed)[part]
    chosen = positions[torch.linspace(0, len(positions) - 1, min(count, len(positions))).long()]
    with ProgressBar("reading images", len(chosen)) as bar:
        pixels = decode_all(images, chosen, resolution, bar)
    return pixels.permute(0, 3, 1, 2), images.labels[chosen], opened.classes


@dataclass(frozen=True)
class Glimpse:
    """What can be known of labelled images without decoding them.

    Attributes:
        classes: class names, in the order of the labels.
        training: how many images there are to learn from.
        side: their shorter side in pixels, the median of some.
    """

    classes: tuple[str, ...]
    training: int
    side: int


def glimpse(source: str, *, root: Path | None = None, seed: int = 0, limit: int | None = None) -> Glimpse:
    """Look at the images that :func:`load_data` loads; the arguments are its own.

    Raises:
        UserError: as :func:`load_data`; of unreadable images, only those that are looked at are noticed.
    """
    opened = _open(source, root, 1, seed)
    images, positions = hold_out(opened.parts, opened.classes, source, seed)["train"]
    training = len(positions) if limit is None else min(limit, len(positions))
    looked_at = positions[torch.linspace(0, len(positions) - 1, min(_GLIMPSED, len(positions))).long()]
    sides = sorted(shorter_side(images, number) for number in looked_at.tolist())
    return Glimpse(opened.classes, training, sides[len(sides) // 2])


def _open(source: str, root: Path | None, resolution: int, seed: int) -> Source:
    if resolution < 1:
        raise UserError(f"a resolution of {resolution} pixels is impossible; give one of at least 1, such as 32")
    if seed < 0:
        raise UserError(f"a seed of {seed} is impossible; give 0 or more")
    opened = open_source(source, root)
    if len(opened.classes) < 2:
        raise UserError(
            f"{shown(source)} has only one class ({', '.join(opened.classes)}); training needs at least two"
        )
    return opened


Triple = tuple[float, float, float]


def _statistics(split: Split, seed: int) -> tuple[Triple, Triple]:
    """Mean and standard deviation of each channel over 4,096 images at most, on the scale from 0 to 1."""
    sample = split.limit(max(_STATISTICS_IMAGES, len(torch.unique(split.labels))), seed)
    count = 0
    total = torch.zeros(3, dtype=torch.float64)
    squares = torch.zeros(3, dtype=torch.float64)
    for images, _ in sample.batches(256):
        pixels = images.permute(1, 0, 2, 3).reshape(3, -1).to(torch.float64).div_(255)
        count += pixels.shape[1]
        total += pixels.sum(1)
        squares += pixels.square_().sum(1)
    mean = total / count
    # A channel of one single value would be divided by zero.
    std = (squares / count - mean.square()).clamp(min=0).sqrt().clamp(min=1 / 255)
    return _triple(mean), _triple(std)


def _triple(values: Tensor) -> Triple:
    # Rounded, as the last digits depend on the order of summation.
    red, green, blue = (round(value, 6) for value in values.tolist())
    return red, green, blue
