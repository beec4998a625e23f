"""What a source of labelled images gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from fbnet_mobile.registry import Registry


class Images(Protocol):
    """Undecoded images by number.

    Attributes:
        labels: (N,) int64, the class of each.
    """

    labels: Tensor

    def read(self, number: int) -> Image.Image:
        """An image, opened; whatever is raised is said as the reason why it cannot be decoded."""

    def name(self, number: int) -> str:
        """How a message names it."""

    def check(self, number: int) -> bool:
        """Look cheaply whether it is damaged, and raise if so; False if only decoding can tell."""


@dataclass(frozen=True)
class Source:
    """Labelled images before they are split and decoded.

    Attributes:
        parts: ``train``, and ``val`` and ``test`` where the source has them.
        classes: class names, in the order of the labels.
        name: of the source, short.
        fingerprint: changes where the images change, and is cheap to make.
        mirrors: whether mirrored images keep their meaning; False for digits, text and signs.
        skipped: how many things were left out, by reason ("hidden files or folders").
    """

    parts: Mapping[str, Images]
    classes: tuple[str, ...]
    name: str
    fingerprint: str
    mirrors: bool = True
    skipped: Mapping[str, int] | None = None


Open = Callable[[str, Path | None], Source]
"""Opens what stands behind ``name:`` (empty if nothing does), given the folder for downloads (None for ``./data``)."""

SOURCES = Registry[Open]("data source")


class Pairs:
    """Anything that gives (image, label) by number, such as torchvision's data sets.

    Args:
        pairs: gives a tuple whose first item is a Pillow image for each number from 0.
        labels: the class of each, from 0.
        name: for messages: "image 7 of NAME".
    """

    def __init__(self, pairs: Any, labels: Any, name: str) -> None:
        self._pairs = pairs
        self._name = name
        self.labels = torch.as_tensor(labels, dtype=torch.int64)

    def read(self, number: int) -> Image.Image:
        """The image."""
        image: Image.Image = self._pairs[number][0]
        return image

    def name(self, number: int) -> str:
        """How a message names it."""
        return f"image {number} of {self._name}"

    def check(self, number: int) -> bool:
        """Nothing: torchvision compared the download's checksum, and other pairs are in memory."""
        return True
