"""Data sets that torchvision downloads."""

import inspect
from pathlib import Path
from typing import Any

import torchvision

from fbnet_mobile.data.sources.base import SOURCES, Images, Pairs, Source
from fbnet_mobile.errors import UserError
from fbnet_mobile.registry import unknown

_FLAG = {"train": {"train": True}, "test": {"train": False}}
_TRAIN_TEST = {"train": {"split": "train"}, "test": {"split": "test"}}
_TRAIN_VAL_TEST = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
_TRAINVAL_TEST = {"train": {"split": "trainval"}, "test": {"split": "test"}}
# What these two call "val" is the labelled part that results are published on.
_TRAIN_VAL = {"train": {"split": "train"}, "test": {"split": "val"}}
PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
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
"""Torchvision's name for each part of each data set, as arguments of its class."""

NO_MIRROR = frozenset({"digits", "GTSRB", "KMNIST", "MNIST", "QMNIST", "SVHN", "USPS"})
"""Data sets of digits, letters and signs, under whose names a folder is not mirrored either."""


def open_published(text: str, root: Path | None) -> Source:
    """Open one of torchvision's data sets, downloading it into ``root`` if it is not there.

    Raises:
        UserError: it is not known, or cannot be downloaded.
    """
    if text not in PUBLISHED:
        raise UserError(unknown("data set of torchvision", text, list(PUBLISHED)))
    root = root or Path("data")
    kind = getattr(torchvision.datasets, text)
    parts: dict[str, Images] = {}
    classes: tuple[str, ...] = ()
    for part, options in PUBLISHED[text].items():
        if "download" in inspect.signature(kind.__init__).parameters or text == "QMNIST":
            options = {**options, "download": True}
        try:
            opened = kind(root, **options)
        # torchvision reports a failed download, an unpacking error or a missing package by whatever was raised.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"cannot load {text} in {root}: {reason}; check the connection or put its files there by hand"
            ) from error
        parts[part] = Pairs(opened, _labels_of(opened), f"{text}'s {part} images")
        named = getattr(opened, "classes", None) or range(int(parts[part].labels.max()) + 1)
        classes = classes or tuple(item[0] if isinstance(item, tuple) else str(item) for item in named)
    sizes = ", ".join(f"{part} {len(images.labels)}" for part, images in parts.items())
    return Source(parts, classes, text, fingerprint=f"{text}: {sizes}", mirrors=text not in NO_MIRROR)


def _labels_of(opened: Any) -> Any:
    # Torchvision has no common name for the labels, and asking image by image would decode them all.
    for attribute in ("targets", "labels", "_labels"):
        if hasattr(opened, attribute):
            labels = getattr(opened, attribute)
            # QMNIST keeps eight numbers for each image, the first of which is the class.
            return labels[:, 0] if getattr(labels, "ndim", 1) == 2 else labels
    return [label for _, label in opened._samples]


SOURCES.add("torchvision", open_published)
