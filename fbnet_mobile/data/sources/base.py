"""What a source of labelled images gives."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.registry import Registry, unknown

_FEW = 20
"""Classes that a message lists."""


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


class Joined:
    """Images of one source after those of another."""

    def __init__(self, first: Images, second: Images) -> None:
        self._parts, self._first = (first, second), len(first.labels)
        self.labels = torch.cat([first.labels, second.labels])

    def _place(self, number: int) -> tuple[Images, int]:
        later = number >= self._first
        return self._parts[later], number - later * self._first

    def read(self, number: int) -> Image.Image:
        """The image."""
        images, place = self._place(number)
        return images.read(place)

    def name(self, number: int) -> str:
        """How a message names it."""
        images, place = self._place(number)
        return images.name(place)

    def check(self, number: int) -> bool:
        """See ``Images``."""
        images, place = self._place(number)
        return images.check(place)


class Chosen:
    """Some of the images of a source, with other labels."""

    def __init__(self, images: Images, numbers: Tensor, labels: Tensor) -> None:
        self._images, self._numbers, self.labels = images, numbers.tolist(), labels

    def read(self, number: int) -> Image.Image:
        """The image."""
        return self._images.read(self._numbers[number])

    def name(self, number: int) -> str:
        """How a message names it."""
        return self._images.name(self._numbers[number])

    def check(self, number: int) -> bool:
        """See ``Images``."""
        return self._images.check(self._numbers[number])


def only(source: Source, classes: Sequence[str], text: str) -> Source:
    """Some of the classes of a source, in its order.

    Raises:
        UserError: it has no class of a name, or none of its images.
    """
    for name in classes:
        if name not in source.classes:
            known = source.classes if len(source.classes) <= _FEW else source.classes[:_FEW]
            raise UserError(unknown(f"class of {shown(text)}", name, known))
    numbers = torch.full((len(source.classes),), -1, dtype=torch.int64)
    kept = [name for name in source.classes if name in set(classes)]
    for number, name in enumerate(kept):
        numbers[source.classes.index(name)] = number
    parts: dict[str, Images] = {}
    for part, images in source.parts.items():
        labels = numbers[images.labels]
        places = (labels >= 0).nonzero().flatten()
        if not len(places):
            raise UserError(f"{shown(text)} has no {part} images of these classes; choose others")
        parts[part] = Chosen(images, places, labels[places])
    return replace(source, parts=parts, classes=tuple(kept), fingerprint=f"{source.fingerprint} {','.join(kept)}")
