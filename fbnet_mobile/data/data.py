"""Labelled images: where they come from, how they are split, and in which order a network sees them."""

import difflib
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from fbnet_mobile.data.augment import CROP_AREA, augment, derive_seed, normalise
from fbnet_mobile.engine.progress import ProgressBar
from fbnet_mobile.errors import UserError

MEMORY_LIMIT = 2 * 10**9
"""Bytes of decoded pixels up to which a data set is held in memory."""

HELD_OUT = 0.1
"""Part of the training images that becomes the validation or the test images where the source has none."""

_STATISTICS_IMAGES = 4096
_CHUNK = 128
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)

_FLAG = {"train": {"train": True}, "test": {"train": False}}
_TRAIN_TEST = {"train": {"split": "train"}, "test": {"split": "test"}}
_TRAIN_VAL_TEST = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
_TRAINVAL_TEST = {"train": {"split": "trainval"}, "test": {"split": "test"}}
# What these two call "val" is the labelled part that results are published on.
_TRAIN_VAL = {"train": {"split": "train"}, "test": {"split": "val"}}
_PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "CIFAR10": _FLAG,
    "CIFAR100": _FLAG,
    "DTD": _TRAIN_VAL_TEST,
    "EuroSAT": {"train": {}},
    "FGVCAircraft": _TRAIN_VAL_TEST,
    "FashionMNIST": _FLAG,
    "Flowers102": _TRAIN_VAL_TEST,
    "Food101": _TRAIN_TEST,
    "GTSRB": _TRAIN_TEST,
    "ImageNet": _TRAIN_VAL,
    "Imagenette": _TRAIN_VAL,
    "KMNIST": _FLAG,
    "MNIST": _FLAG,
    "OxfordIIITPet": _TRAINVAL_TEST,
    "QMNIST": _FLAG,
    "STL10": _TRAIN_TEST,
    "SVHN": _TRAIN_TEST,
    "USPS": _FLAG,
}
_NO_FLIP = frozenset({"digits", "GTSRB", "KMNIST", "MNIST", "QMNIST", "SVHN", "USPS"})

Pixels = NDArray[np.uint8]


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
            USPS and folders of these names, True for all else.
        source: where the images came from.
    """

    train: "Split"
    val: "Split"
    test: "Split"
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resolution: int
    flip: bool
    source: str


@dataclass(frozen=True, eq=False)
class Split:
    """Some of the images of a store, with their labels.

    Attributes:
        store: what holds the images.
        index: (N,) int64, which images of the store these are.
        labels: (N,) int64, the class of each.
    """

    store: "Store"
    index: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def split(self, fraction: float, seed: int = 0) -> "tuple[Split, Split]":
        """Divide into two disjoint parts, the first with ``fraction`` of each class (at least one image).

        Raises:
            UserError: ``fraction`` is not between 0 and 1.
        """
        if not 0 < fraction < 1:
            raise UserError(f"cannot split images at a fraction of {fraction:g}; give one between 0 and 1")
        first, second = _stratified(self.labels, fraction, seed)
        return self._pick(first), self._pick(second)

    def limit(self, count: int, seed: int = 0) -> "Split":
        """About ``count`` images with each class in its share; all of them if there are no more than that.

        Raises:
            UserError: ``count`` is below the number of classes.
        """
        return self._pick(_limited(self.labels, count, seed))

    def _pick(self, positions: Tensor) -> "Split":
        return replace(self, index=self.index[positions], labels=self.labels[positions])

    def batches(self, batch_size: int, *, rank: int = 0, world_size: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """All images once, in their stored order; the last batch may be short.

        Args:
            batch_size: images in a batch of all processes together.
            rank: this process, which gets images ``rank``, ``rank + world_size``, ... of each batch.
            world_size: number of processes.

        Yields:
            (B, 3, R, R) uint8 pixels and (B,) int64 labels.
        """
        chosen = [part[rank::world_size] for part in torch.split(torch.arange(len(self)), batch_size)]
        chosen = [part for part in chosen if len(part)]
        images = self.store.fetch([self.index[part] for part in chosen], crop_seed=None)
        for part, pixels in zip(chosen, images, strict=True):
            yield pixels, self.labels[part]

    def shuffled(
        self, batch_size: int, *, seed: int, epoch: int, crop: bool = True, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of full batches in an order that depends on (seed, epoch) alone; the rest is left out.

        Args:
            batch_size: images in a batch of all processes together; a multiple of ``world_size``.
            seed: together with ``epoch`` decides the order.
            epoch: number of the epoch.
            crop: whether a store that decodes on the way crops at random while it is at it.
            rank: this process, which gets images ``rank``, ``rank + world_size``, ... of each batch.
            world_size: number of processes.

        Yields:
            (B, 3, R, R) uint8 pixels and (B,) int64 labels, B being ``batch_size / world_size``.

        Raises:
            UserError: there is not one full batch, or it cannot be shared out evenly.
        """
        steps = self.steps(batch_size)
        if batch_size % world_size:
            raise UserError(
                f"a batch of {batch_size} images cannot be shared by {world_size} processes; "
                f"use a batch size that is a multiple of {world_size}"
            )
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(derive_seed(seed, epoch)))
        chosen = [part[rank::world_size] for part in torch.split(order, batch_size)[:steps]]
        crop_seed = derive_seed(seed, epoch) if crop else None
        images = self.store.fetch([self.index[part] for part in chosen], crop_seed=crop_seed)
        for part, pixels in zip(chosen, images, strict=True):
            yield pixels, self.labels[part]

    def steps(self, batch_size: int) -> int:
        """How many full batches an epoch has.

        Raises:
            UserError: not even one.
        """
        if not 0 < batch_size <= len(self):
            raise UserError(
                f"{len(self)} training images do not fill a batch of {batch_size}; "
                f"use a batch size from 1 to {len(self)}, or more images"
            )
        return len(self) // batch_size


class Store(Protocol):
    """Images by number, all of one size, in memory or decoded on the way."""

    crops: bool
    """Whether ``fetch`` crops at random when it is given a seed."""

    def fetch(self, batches: Sequence[Tensor], crop_seed: int | None) -> Iterator[Tensor]:
        """Give the images of each batch of numbers, as (B, 3, R, R) uint8."""


class MemoryStore:
    """Decoded pixels: (N, R, R, 3) uint8, channels last, as networks run fastest on a CPU that way."""

    crops = False

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def fetch(self, batches: Sequence[Tensor], crop_seed: int | None) -> Iterator[Tensor]:
        """Give the images of each batch of numbers, as (B, 3, R, R) uint8; never cropped."""
        for batch in batches:
            yield self.pixels[batch].permute(0, 3, 1, 2)


class FileStore(Dataset[Tensor]):
    """Images that worker processes decode when they are needed."""

    crops = True

    def __init__(self, images: "_Images", resolution: int, workers: int) -> None:
        self._images = images
        self._resolution = resolution
        self._workers = workers
        self._crop = v2.RandomResizedCrop(resolution, scale=CROP_AREA)

    def __getitem__(self, request: tuple[int, int | None]) -> Tensor:
        number, seed = request
        if seed is None:
            return torch.from_numpy(_decode(self._images, number, self._resolution)).permute(2, 0, 1)
        image = _read(self._images, number, 2 * self._resolution)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            cropped: Tensor = v2.functional.pil_to_tensor(self._crop(image))
        return cropped

    def fetch(self, batches: Sequence[Tensor], crop_seed: int | None) -> Iterator[Tensor]:
        """Give the images of each batch of numbers, as (B, 3, R, R) uint8, cropped at random if seeded.

        Raises:
            UserError: an image has become unreadable.
        """
        requests = [
            [(number, None if crop_seed is None else derive_seed(crop_seed, number)) for number in batch.tolist()]
            for batch in batches
        ]
        # Any iterable of lists serves as a batch sampler; torch's annotation asks for lists of plain numbers.
        sampler: Any = requests
        try:
            yield from DataLoader(self, batch_sampler=sampler, num_workers=self._workers)
        except UserError as error:
            # A worker's error arrives with the worker's whole traceback as its text.
            raise UserError(str(error).strip().splitlines()[-1].split("UserError: ")[-1]) from error


def training_batches(
    split: Split,
    data: Data,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    device: torch.device,
    crop: bool = True,
    flip: bool | None = None,
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
        crop: whether to crop at random.
        flip: whether to mirror at random; None for what suits the source.
        rank: this process.
        world_size: number of processes.

    Yields:
        (B, 3, R, R) float32 channels_last images and (B,) int64 labels, both on ``device``.

    Raises:
        UserError: as ``Split.shuffled``.
    """
    mirrored = data.flip if flip is None else flip
    batches = split.shuffled(batch_size, seed=seed, epoch=epoch, crop=crop, rank=rank, world_size=world_size)
    for step, (images, labels) in enumerate(batches):
        changed = augment(
            images.to(device),
            seed=seed,
            epoch=epoch,
            step=step,
            crop=crop and not split.store.crops,
            flip=mirrored,
            rank=rank,
            world_size=world_size,
        )
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

    A folder holds one sub-folder of images per class, or ``train/`` with those, and ``val/`` and ``test/``
    too if it has them. Validation or test images that the source lacks are taken out of the training images,
    10 % of each class, chosen by ``seed``. Images become RGB, are turned as their EXIF tag says, and are
    scaled and cropped at the centre to a square. They are decoded into memory if they fit, and otherwise
    checked once and decoded by worker processes when needed.

    Among several processes, let the first call this before the others, as it may download.

    Args:
        source: path of a folder, name of a torchvision data set (``CIFAR10``), or ``digits``.
        root: where torchvision keeps or downloads its data sets; ``data`` in the current folder by default.
        resolution: height and width in pixels to bring the images to.
        seed: decides which images are taken out for validation and test, and which are kept under ``limit``.
        limit: keep about this many training images, each class in its share.
        memory_limit: bytes of decoded pixels up to which the images are held in memory.
        workers: processes that decode images that are not; one per core by default, eight at most.
        show_progress: whether to draw a bar while decoding, if stderr is a terminal.

    Raises:
        UserError: the source does not exist, cannot be downloaded, or is of no use: no images, an unreadable
            one, one class, a class that is only in ``val/`` or ``test/``, or too few images to hold some out.
    """
    drawn, classes, name = _draw(source, root, resolution, seed)
    if limit is not None:
        images, positions = drawn["train"]
        drawn["train"] = images, positions[_limited(images.labels[positions], limit, seed)]
    total = sum(len(positions) for _, positions in drawn.values())
    splits: dict[str, Split] = {}
    if total * 3 * resolution**2 <= memory_limit:
        with ProgressBar("reading images", total, show=show_progress) as bar:
            for part, (images, positions) in drawn.items():
                store: Store = MemoryStore(_decode_all(images, positions, resolution, bar))
                splits[part] = Split(store, torch.arange(len(positions)), images.labels[positions])
    else:
        workers = min(8, os.cpu_count() or 1) if workers is None else workers
        with ProgressBar("checking images", total, show=show_progress) as bar:
            for part, (images, positions) in drawn.items():
                _check_all(images, positions, bar)
                store = FileStore(images, resolution, workers)
                splits[part] = Split(store, positions, images.labels[positions])
    mean, std = _statistics(splits["train"], seed)
    return Data(
        **splits,
        classes=classes,
        mean=mean,
        std=std,
        resolution=resolution,
        flip=name not in _NO_FLIP,
        source=source,
    )


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
    drawn, classes, _ = _draw(source, root, resolution, seed)
    images, positions = drawn[part]
    chosen = positions[torch.linspace(0, len(positions) - 1, min(count, len(positions))).long()]
    with ProgressBar("reading images", len(chosen)) as bar:
        pixels = _decode_all(images, chosen, resolution, bar)
    return pixels.permute(0, 3, 1, 2), images.labels[chosen], classes


class _Images(Protocol):
    """Undecoded images by number."""

    labels: Tensor

    def read(self, number: int) -> Image.Image: ...

    def name(self, number: int) -> str: ...

    def check(self, number: int) -> None: ...


class _Files:
    """Image files."""

    def __init__(self, paths: list[str], labels: Iterable[int]) -> None:
        self._paths = paths
        self.labels = torch.tensor(list(labels), dtype=torch.int64)

    def read(self, number: int) -> Image.Image:
        return Image.open(self._paths[number])

    def name(self, number: int) -> str:
        return self._paths[number]

    def check(self, number: int) -> None:
        with Image.open(self._paths[number]) as image:
            if image.format == "JPEG":
                # verify() only looks at a JPEG's header; decoding it at an eighth of its size reads all of
                # it.
                image.draft("RGB", (1, 1))
                image.load()
            else:
                image.verify()


class _Pairs:
    """Anything that gives (image, label) by number, such as torchvision's data sets."""

    def __init__(self, pairs: Any, labels: Any, name: str) -> None:
        self._pairs = pairs
        self._name = name
        self.labels = torch.as_tensor(labels, dtype=torch.int64)

    def read(self, number: int) -> Image.Image:
        image: Image.Image = self._pairs[number][0]
        return image

    def name(self, number: int) -> str:
        return f"image {number} of {self._name}"

    def check(self, number: int) -> None:
        """Do nothing: torchvision compared the download's checksum."""


_Parts = dict[str, _Images]


def _open_source(source: str, root: Path | None) -> tuple[_Parts, tuple[str, ...], str]:
    if source == "digits":
        return *_open_digits(), source
    if source in _PUBLISHED:
        return *_open_published(source, root or Path("data")), source
    if source == "ImageFolder":
        if root is None:
            raise UserError("ImageFolder needs the folder of images; give its path as the data source instead")
        source = str(root)
    path = Path(source)
    if path.is_dir():
        try:
            return *_open_folder(path), path.name
        except OSError as error:
            raise UserError(f"cannot read {error.filename}: {error.strerror}; check its permissions") from error
    if path.is_file():
        raise UserError(f"{path} is a file; unpack it and give the folder with one sub-folder of images per class")
    names = ["digits", *_PUBLISHED]
    if os.sep in source or source.startswith((".", "~")):
        raise UserError(f"{source} does not exist; give a folder of images, or one of {', '.join(names)}")
    spelt = {name.lower(): name for name in names}
    near = [spelt[match] for match in difflib.get_close_matches(source.lower(), spelt, n=2)]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UserError(f"{source} is no folder and no known data set; {hint}known are {', '.join(names)}")


def _open_digits() -> tuple[_Parts, tuple[str, ...]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            "the digits come with scikit-learn, which is missing; pip install 'fbnet-mobile[digits]'"
        ) from error
    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype(np.uint8)
    pairs = [(Image.fromarray(image), label) for image, label in zip(pixels, digits.target, strict=True)]
    return {"train": _Pairs(pairs, digits.target, "digits")}, tuple(str(digit) for digit in range(10))


def _open_published(name: str, root: Path) -> tuple[_Parts, tuple[str, ...]]:
    kind = getattr(torchvision.datasets, name)
    parts: _Parts = {}
    classes: tuple[str, ...] = ()
    for part, options in _PUBLISHED[name].items():
        if "download" in inspect.signature(kind.__init__).parameters or name == "QMNIST":
            options = {**options, "download": True}
        try:
            opened = kind(root, **options)
        # torchvision reports a failed download, an unpacking error or a missing package by whatever was
        # raised.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"cannot load {name} in {root}: {reason}; check the connection or put its files there by hand"
            ) from error
        labels = _labels_of(opened)
        parts[part] = _Pairs(opened, labels, f"{name}'s {part} images")
        named = getattr(opened, "classes", None) or range(int(parts[part].labels.max()) + 1)
        classes = classes or tuple(item[0] if isinstance(item, tuple) else str(item) for item in named)
    return parts, classes


def _labels_of(opened: Any) -> Any:
    # Torchvision has no common name for the labels, and asking image by image would decode them all.
    for attribute in ("targets", "labels", "_labels"):
        if hasattr(opened, attribute):
            labels = getattr(opened, attribute)
            # QMNIST keeps eight numbers for each image, the first of which is the class.
            return labels[:, 0] if getattr(labels, "ndim", 1) == 2 else labels
    return [label for _, label in opened._samples]


def _open_folder(path: Path) -> tuple[_Parts, tuple[str, ...]]:
    names = sorted(item.name for item in path.iterdir() if item.is_dir() and not item.name.startswith("."))
    if not names:
        raise UserError(f"{path} has no sub-folders; put the images of each class into a sub-folder of its own")
    folders = {"train": path}
    if "train" in names:
        if other := sorted(set(names) - {"train", "val", "test"}):
            raise UserError(
                f"{path} has {other[0]}/ beside train/, where only val/ and test/ may be; rename or move it"
            )
        folders = {name: path / name for name in ("train", "val", "test") if name in names}
    parts: _Parts = {}
    classes: tuple[str, ...] = ()
    for part, folder in folders.items():
        paths, labels, found = _list_images(folder)
        if part == "train":
            classes = tuple(found)
        elif unknown := sorted(set(found) - set(classes)):
            raise UserError(
                f"{folder} has the class {unknown[0]}, which {folders['train']} lacks; add training images or remove it"
            )
        numbers = [classes.index(name) for name in found]
        parts[part] = _Files(paths, (numbers[label] for label in labels))
    return parts, classes


def _list_images(folder: Path) -> tuple[list[str], list[int], list[str]]:
    try:
        listing = torchvision.datasets.ImageFolder(folder, allow_empty=True)
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no class folders; put the images of each class into one of its own") from error
    found: list[str] = listing.classes
    for name in sorted(set(found) - {found[label] for label in listing.targets}):
        raise UserError(f"{folder / name} holds no images; put some there or remove the folder")
    return [path for path, _ in listing.samples], listing.targets, found


def _draw(
    source: str, root: Path | None, resolution: int, seed: int
) -> tuple[dict[str, tuple[_Images, Tensor]], tuple[str, ...], str]:
    """Open a source and choose the images of each part; with the class names and the source's own name."""
    if resolution < 1:
        raise UserError(f"a resolution of {resolution} pixels is impossible; give one of at least 1, such as 32")
    if seed < 0:
        raise UserError(f"a seed of {seed} is impossible; give 0 or more")
    parts, classes, name = _open_source(source, root)
    if len(classes) < 2:
        raise UserError(f"{source} has only one class ({', '.join(classes)}); training needs at least two")
    return _hold_out(parts, classes, source, seed), classes, name


def _hold_out(parts: _Parts, classes: Sequence[str], source: str, seed: int) -> dict[str, tuple[_Images, Tensor]]:
    """Choose the images of each part, taking those of missing parts out of the training images."""
    drawn = {part: (images, torch.arange(len(images.labels))) for part, images in parts.items()}
    images, positions = drawn["train"]
    missing = [part for part in ("val", "test") if part not in parts]
    counts = torch.bincount(images.labels, minlength=len(classes))
    if counts.min() <= len(missing):
        smallest = int(counts.argmin())
        raise UserError(
            f"class {classes[smallest]} of {source} has only {int(counts[smallest])} training images; "
            f"give at least {len(missing) + 1}, as some are held out for {' and '.join(missing)}"
        )
    for part in missing:
        share = HELD_OUT * len(images.labels) / len(positions)
        kept, taken = _stratified(images.labels[positions], 1 - share, seed, rest=1)
        drawn[part] = images, positions[taken]
        positions = positions[kept]
    drawn["train"] = images, positions
    return drawn


def _stratified(labels: Tensor, fraction: float, seed: int, rest: int = 0) -> tuple[Tensor, Tensor]:
    """Positions of ``fraction`` of each class, and those of the others, both in rising order."""
    generator = torch.Generator().manual_seed(derive_seed(seed))
    first, second = [], []
    for label in torch.unique(labels):
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        count = min(max(1, round(fraction * len(members))), max(1, len(members) - rest))
        first.append(members[:count])
        second.append(members[count:])
    return torch.cat(first).sort().values, torch.cat(second).sort().values


def _limited(labels: Tensor, count: int, seed: int) -> Tensor:
    """Positions of about ``count`` images, each class in its share, in rising order."""
    present = len(torch.unique(labels))
    if count < present:
        raise UserError(f"cannot keep {count} images of {present} classes; keep at least one of each")
    if count >= len(labels):
        return torch.arange(len(labels))
    return _stratified(labels, count / len(labels), seed)[0]


def _read(images: _Images, number: int, size: int) -> Image.Image:
    """Decode one image as RGB, reduced to no less than ``size`` where its format offers that for free."""
    try:
        image = images.read(number)
        image.draft("RGB", (size, size))
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            # PIL would cut 16-bit greys off at 255 instead of scaling them.
            image = image.point(lambda value: value / 256)
            image = image.convert("L")
        elif image.mode == "P":
            image = image.convert("RGBA")
        return image.convert("RGB")
    except _DECODE_ERRORS as error:
        raise UserError(f"cannot decode {images.name(number)}; replace or remove it") from error


def _decode(images: _Images, number: int, resolution: int) -> Pixels:
    image = _read(images, number, 2 * resolution)
    return np.array(ImageOps.fit(image, (resolution, resolution), Image.Resampling.BILINEAR))


def _in_threads(work: Callable[[Tensor], None], positions: Tensor, bar: ProgressBar) -> None:
    chunks = torch.split(positions, _CHUNK)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for chunk, _ in zip(chunks, pool.map(work, chunks), strict=True):
            bar.advance(len(chunk))


def _decode_all(images: _Images, positions: Tensor, resolution: int, bar: ProgressBar) -> Tensor:
    pixels = np.empty((len(positions), resolution, resolution, 3), dtype=np.uint8)

    def work(places: Tensor) -> None:
        for place in places.tolist():
            pixels[place] = _decode(images, int(positions[place]), resolution)

    _in_threads(work, torch.arange(len(positions)), bar)
    return torch.from_numpy(pixels)


def _check_all(images: _Images, positions: Tensor, bar: ProgressBar) -> None:
    def work(numbers: Tensor) -> None:
        for number in numbers.tolist():
            try:
                images.check(number)
            except _DECODE_ERRORS as error:
                raise UserError(f"cannot decode {images.name(number)}; replace or remove it") from error

    _in_threads(work, positions, bar)


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
