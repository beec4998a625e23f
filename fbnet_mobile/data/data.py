"""Labelled images, ready to learn from: loaded, divided, and given in batches."""

import functools
import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fbnet_mobile.data.augment import SMALL_IMAGE, augment, find_augmentation, normalise
from fbnet_mobile.data.decode import shorter_side
from fbnet_mobile.data.sources import Images, Joined, Source, only, open_source, unlabelled_images
from fbnet_mobile.data.split import Split, hold_out, limited
from fbnet_mobile.data.store import (
    Damaged,
    MemoryStore,
    OriginalStore,
    Request,
    check_all,
    decode_all,
    decode_originals,
    original_bytes,
)
from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.progress import ProgressBar

MEMORY_LIMIT = 2 * 10**9
"""Bytes of decoded pixels up to which a data set is held in memory."""

_STATISTICS_IMAGES, _TRIED, _GLIMPSED = 4096, 32, 32


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
        damaged: what was left out because it cannot be decoded, a line for each.
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
    damaged: tuple[str, ...] = ()

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
    repeats: int = 1,
    weights: Tensor | None = None,
    start: int = 0,
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
        device: where the batches go.
        augmentations: names in ``AUGMENTATIONS``, in the order of application, each with its strength or without; None
            for what suits the data. From 64 pixels on a crop is cut out of the original image, before all others.
        repeats: see ``Split.shuffled``.
        weights: see ``Split.shuffled``.
        start: the first batch.
        rank: this process.
        world_size: number of processes.

    Yields:
        (B, 3, R, R) float32 channels_last images and (B,) int64 labels, both on ``device``.

    Raises:
        UserError: as ``Split.shuffled``, or there is no augmentation of a name.
    """
    names = data.augmentations if augmentations is None else tuple(augmentations)
    strengths = {name: find_augmentation(name)[1] for name in names}
    crops = {name: strengths[name] for name in names if name.partition(":")[0] == "crop"}
    if split.store.cuts:
        names = tuple(name for name in names if name not in crops)
    change = (
        functools.partial(augment, names=names, seed=seed, epoch=epoch, rank=rank, world_size=world_size)
        if names
        else None
    )
    batches = split.shuffled(
        batch_size,
        seed=seed,
        epoch=epoch,
        cut=next(iter(crops.values()), None),
        change=change,
        repeats=repeats,
        weights=weights,
        start=start,
        rank=rank,
        world_size=world_size,
    )
    for images, labels in batches:
        yield normalise(images.to(device, non_blocking=True), data.mean, data.std), labels.to(device)


def load_data(
    source: str,
    *,
    root: Path | None = None,
    resolution: int,
    train_resolution: int | None = None,
    seed: int = 0,
    classes: Sequence[str] = (),
    limit: int | None = None,
    unlabelled: Path | None = None,
    skip_damaged: bool = False,
    memory_limit: int = MEMORY_LIMIT,
    workers: int | None = None,
    show_progress: bool = True,
) -> Data:
    """Load labelled images from a folder, from one of torchvision's data sets, or scikit-learn's digits.

    A folder holds one sub-folder of images per class, or ``train/`` with those, and ``val/`` and ``test/`` too if it
    has them (in any case, and as ``training``, ``valid``, ``validation``, ``testing``). Validation or test images that
    the source lacks are taken out of the training images, 10 % of each class, chosen by ``seed``. Images become RGB,
    are turned as their EXIF tag says, and are scaled and cropped at the centre to a square; training images of 64
    pixels and more are cut out of their originals anew in each epoch. They are decoded into memory if they fit, and
    otherwise checked once and decoded by worker processes when needed, to the same pixels.

    Among several processes, let the first call this before the others, as it may download.

    Args:
        source: path of a folder, name of a torchvision data set (``CIFAR10``), ``digits``, or another registered source
            and what it opens, as ``name:rest``.
        root: where torchvision keeps or downloads its data sets; ``data`` in the current folder by default.
        resolution: height and width in pixels to bring the images to.
        train_resolution: the same of the training images; as the others by default.
        seed: decides which images are taken out for validation and test, and which are kept under ``limit``.
        classes: names of those to take, of all by default; in the order of the source.
        limit: keep about this many training images, each class in its share.
        unlabelled: folder of more training images, at whatever depth; their label is -1.
        skip_damaged: leave out images that cannot be decoded, instead of raising.
        memory_limit: bytes of decoded pixels up to which the images are held in memory.
        workers: processes that decode images that are not; one per core by default, eight at most.
        show_progress: whether to draw a bar while decoding, if stderr is a terminal, and to write a line about what a
            folder holds that is not used.

    Raises:
        UserError: the source does not exist, cannot be downloaded, or is of no use: no images, an unreadable
            one, one class, a class that is only in ``val/`` or ``test/``, or too few images to hold some out.
    """
    drawn = draw_images(source, root, resolution, train_resolution, seed, classes, limit, unlabelled)
    opened, in_memory = drawn.source, drawn.bytes() <= memory_limit
    workers = min(8, os.cpu_count() or 1) if workers is None else workers
    splits: dict[str, Split] = {}
    damaged: list[str] = []
    total = sum(drawn.counts().values())
    with ProgressBar("reading images" if in_memory else "checking images", total, show=show_progress) as bar:
        if opened.skipped:
            bar.say(_left_out(source, opened.skipped))
        for part in drawn.parts:
            splits[part], failed = _split(drawn, part, in_memory, workers, bar, skip_damaged)
            damaged += [reason for _, reason in failed]
        if damaged:
            bar.say(f"{shown(source)}: left out {len(damaged):,} damaged images, the first: {damaged[0]}")
    _require_all(splits, opened.classes, source, len(damaged))
    mean, std = _statistics(splits["train"], seed)
    return Data(
        **splits,
        classes=opened.classes,
        mean=mean,
        std=std,
        resolution=resolution,
        flip=opened.mirrors,
        source=source,
        fingerprint=_fingerprint(opened, seed, limit, drawn.unlabelled),
        damaged=tuple(damaged),
    )


@dataclass(frozen=True)
class Drawn:
    """Images that are chosen and not yet decoded.

    Attributes:
        source: where they are from.
        parts: of "train", "val" and "test", the images and the numbers of those that are taken.
        resolutions: of each part.
        unlabelled: those of the training images that have no label, if there are some.
    """

    source: Source
    parts: Mapping[str, tuple[Images, Tensor]]
    resolutions: Mapping[str, int]
    unlabelled: Images | None

    def counts(self) -> dict[str, int]:
        """How many there are of each part."""
        return {part: len(positions) for part, (_, positions) in self.parts.items()}

    def whole(self, part: str) -> bool:
        """Whether the images of a part are cut out of their originals."""
        return part == "train" and self.resolutions[part] >= SMALL_IMAGE

    def bytes(self) -> int:
        """About how much memory all of them take when they are decoded."""
        return sum(
            original_bytes(images, positions, self.resolutions[part])
            if self.whole(part)
            else len(positions) * 3 * self.resolutions[part] ** 2
            for part, (images, positions) in self.parts.items()
        )


def draw_images(
    source: str,
    root: Path | None,
    resolution: int,
    train_resolution: int | None,
    seed: int,
    classes: Sequence[str],
    limit: int | None,
    unlabelled: Path | None,
) -> Drawn:
    """What :func:`load_data`, of the same arguments, would decode.

    Raises:
        UserError: as :func:`load_data`, but of images that cannot be decoded.
    """
    opened = _open(source, root, resolution, seed, classes)
    drawn = hold_out(opened.parts, opened.classes, source, seed)
    images, positions = drawn["train"]
    if limit is not None:
        positions = positions[limited(images.labels[positions], limit, seed)]
    more = None if unlabelled is None else unlabelled_images(unlabelled)
    if more is not None:
        positions = torch.cat([positions, torch.arange(len(images.labels), len(images.labels) + len(more.labels))])
        images = Joined(images, more)
    drawn["train"] = images, positions
    sizes = {"train": train_resolution or resolution, "val": resolution, "test": resolution}
    return Drawn(opened, drawn, sizes, more)


@dataclass(frozen=True)
class Survey:
    """What there is to learn from, by its headers and a few images.

    Attributes:
        counts: how many images of "train", "val" and "test".
        classes: class names, in the order of the labels.
        bytes: of all decoded images, about.
        in_memory: whether they are held there.
        decode_seconds: that decoding one takes, a process for each core.
    """

    counts: dict[str, int]
    classes: tuple[str, ...]
    bytes: int
    in_memory: bool
    decode_seconds: float


def survey(
    source: str,
    *,
    root: Path | None = None,
    resolution: int,
    train_resolution: int | None = None,
    seed: int = 0,
    classes: Sequence[str] = (),
    limit: int | None = None,
    unlabelled: Path | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> Survey:
    """Look at what :func:`load_data`, of the same arguments, would load, without loading it.

    Raises:
        UserError: as :func:`load_data`, but of images that cannot be decoded.
    """
    drawn = draw_images(source, root, resolution, train_resolution, seed, classes, limit, unlabelled)
    images, positions = drawn.parts["train"]
    tried = positions[torch.linspace(0, len(positions) - 1, min(_TRIED, len(positions))).long()]
    started = time.monotonic()
    store = OriginalStore(None, images, drawn.resolutions["train"], 0)
    for number in tried:
        with suppress(UserError):  # said when all are decoded
            store[Request(number[None]), None]
    seconds = (time.monotonic() - started) / len(tried) / min(8, os.cpu_count() or 1)
    needed = drawn.bytes()
    return Survey(drawn.counts(), drawn.source.classes, needed, needed <= memory_limit, seconds)


def _split(
    drawn: Drawn, part: str, in_memory: bool, workers: int, bar: ProgressBar, skip_damaged: bool
) -> tuple[Split, Damaged]:
    """The images of one part, in memory or not, without those that are damaged."""
    (images, positions), resolution = drawn.parts[part], drawn.resolutions[part]
    pixels, originals = None, None
    if not in_memory:
        damaged = check_all(images, positions, bar, skip_damaged)
    elif drawn.whole(part):
        originals, damaged = decode_originals(images, positions, resolution, bar, skip_damaged)
    else:
        pixels, damaged = decode_all(images, positions, resolution, bar, skip_damaged)
    if damaged:
        good = ~torch.isin(positions, torch.tensor([number for number, _ in damaged]))
        pixels, positions = pixels if pixels is None else pixels[good], positions[good]
    labels = images.labels[positions]
    if pixels is not None:
        return Split(MemoryStore(pixels, images, positions), torch.arange(len(positions)), labels), damaged
    if originals is not None and not torch.cuda.is_available():
        workers = 0  # on a CPU the network needs the cores that they would take
    return Split(OriginalStore(originals, images, resolution, workers), positions, labels), damaged


def _require_all(splits: Mapping[str, Split], classes: Sequence[str], source: str, damaged: int) -> None:
    """Refuse parts that damaged images leave empty, or without a class to learn."""
    if not damaged:
        return
    for part, split in splits.items():
        if not len(split):
            raise UserError(f"all {part} images of {shown(source)} are damaged; replace them")
    there = set(splits["train"].labels.tolist())
    for number, name in enumerate(classes):
        if number not in there:
            raise UserError(f"all training images of class {shown(name)} of {shown(source)} are damaged; replace them")


def _left_out(source: str, skipped: Mapping[str, int]) -> str:
    counts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(skipped.items()))
    return f"{shown(source)}: left out {counts}"


def _fingerprint(source: Source, seed: int, limit: int | None, more: Images | None) -> str:
    digest = hashlib.sha256(f"{source.name}\0{source.fingerprint}\0{seed}\0{limit}".encode())
    if more is not None:
        for number in range(len(more.labels)):
            digest.update(os.fsencode(f"\0{more.name(number)}"))
    return digest.hexdigest()[:16]


def load_images(
    source: str,
    part: str,
    count: int,
    *,
    root: Path | None = None,
    resolution: int,
    seed: int = 0,
    classes: Sequence[str] = (),
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Decode a few images of one part of the data that :func:`load_data` loads, and no others.

    Args:
        source: see :func:`load_data`.
        part: "train", "val" or "test".
        count: how many at most; they are spread evenly over the part, whose images lie class by class in a folder.
        root: see :func:`load_data`.
        resolution: height and width in pixels to bring the images to.
        seed: decides which images are taken out of the training images, as in :func:`load_data`.
        classes: see :func:`load_data`.

    Returns:
        (N, 3, R, R) uint8 pixels, (N,) int64 labels, and the class names in the order of the labels.

    Raises:
        UserError: as :func:`load_data`; of unreadable images, only those that are chosen are noticed.
    """
    opened = _open(source, root, resolution, seed, classes)
    images, positions = hold_out(opened.parts, opened.classes, source, seed)[part]
    chosen = positions[torch.linspace(0, len(positions) - 1, min(count, len(positions))).long()]
    with ProgressBar("reading images", len(chosen)) as bar:
        pixels, _ = decode_all(images, chosen, resolution, bar)
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


def glimpse(
    source: str, *, root: Path | None = None, classes: Sequence[str] = (), seed: int = 0, limit: int | None = None
) -> Glimpse:
    """Look at the images that :func:`load_data` loads; the arguments are its own.

    Raises:
        UserError: as :func:`load_data`; of images that cannot be opened, if none of those looked at can.
    """
    opened = _open(source, root, 1, seed, classes)
    images, positions = hold_out(opened.parts, opened.classes, source, seed)["train"]
    training = len(positions) if limit is None else min(limit, len(positions))
    looked_at = positions[torch.linspace(0, len(positions) - 1, min(_GLIMPSED, len(positions))).long()]
    sides, error = [], None
    for number in looked_at.tolist():
        try:
            sides.append(shorter_side(images, number))
        except UserError as found:  # which load_data stops at, or leaves out
            error = found
    if not sides:
        assert error is not None
        raise error
    return Glimpse(opened.classes, training, sorted(sides)[len(sides) // 2])


def _open(source: str, root: Path | None, resolution: int, seed: int, classes: Sequence[str]) -> Source:
    if resolution < 1:
        raise UserError(f"a resolution of {resolution} pixels is impossible; give one of at least 1, such as 32")
    if seed < 0:
        raise UserError(f"a seed of {seed} is impossible; give 0 or more")
    opened = open_source(source, root)
    if classes:
        opened = only(opened, classes, source)
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
