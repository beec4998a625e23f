"""Images by number, brought to one size: pixels in memory, or files that are decoded when they are needed."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fbnet_mobile.data.augment import SMALL_IMAGE, cut
from fbnet_mobile.data.decode import (
    Pixels,
    check_image,
    fit_pixels,
    original_size,
    read_original,
    read_pixels,
    without_warnings,
)
from fbnet_mobile.data.sources.base import Images
from fbnet_mobile.errors import UserError
from fbnet_mobile.progress import ProgressBar

_CHUNK, _SAMPLE = 128, 100


class Request(NamedTuple):
    """A batch that is asked for.

    Attributes:
        numbers: (B,) int64, of the images.
        step: number of the batch in its epoch.
        draws: (B, 4) from 0 to below 1, where each is cut out of the original (``cut``); None for its middle.
        least: the least share of the original's area that is cut out.
    """

    numbers: Tensor
    step: int = 0
    draws: Tensor | None = None
    least: float = 1.0


Change = Callable[..., Tensor]
"""Changes a batch of (B, 3, R, R) uint8, given its ``step`` by keyword."""


class Store(Protocol):
    """Images by number, all given at one size."""

    @property
    def cuts(self) -> bool:
        """Whether it cuts images out of their originals where draws ask for that."""

    def fetch(self, requests: Sequence[Request], change: Change | None = None) -> Iterator[Tensor]:
        """Give each batch, as (B, 3, R, R) uint8, changed."""

    def name(self, number: int) -> str:
        """How a message names an image."""

    def at(self, resolution: int) -> "Store":
        """The same images at another size, if the store has the originals; itself otherwise."""


class MemoryStore:
    """Decoded pixels: (N, R, R, 3) uint8, channels last, as networks run fastest on a CPU that way.

    Args:
        pixels: of all images.
        images: that they were decoded from.
        positions: (N,) int64, which of these.
    """

    cuts = False

    def __init__(self, pixels: Tensor, images: Images, positions: Tensor) -> None:
        self.pixels, self._images, self._positions = pixels, images, positions

    def fetch(self, requests: Sequence[Request], change: Change | None = None) -> Iterator[Tensor]:
        """See ``Store``; the middle of each image."""
        for request in requests:
            batch = self.pixels[request.numbers].permute(0, 3, 1, 2)
            yield batch if change is None else change(batch, step=request.step)

    def name(self, number: int) -> str:
        """See ``Store``."""
        return self._images.name(int(self._positions[number]))

    def at(self, resolution: int) -> Self:
        """See ``Store``."""
        return self


@dataclasses.dataclass(frozen=True)
class OriginalStore(Dataset[Tensor]):
    """Images that are cut out of their originals anew each time: in memory, or decoded when they are needed.

    Attributes:
        originals: (H, W, 3) uint8, by number: in memory.
        images: undecoded, where there are no originals.
        resolution: height and width that they are given at.
        workers: processes that decode and change them; 0 for this one.
    """

    originals: Mapping[int, Pixels] | None
    images: Images
    resolution: int
    workers: int
    _idle: list["_Loader"] = dataclasses.field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def cuts(self) -> bool:
        """Below 64 pixels images are shifted afterwards instead."""
        return self.resolution >= SMALL_IMAGE

    def name(self, number: int) -> str:
        """See ``Store``."""
        return self.images.name(number)

    def at(self, resolution: int) -> "OriginalStore":
        """See ``Store``."""
        return dataclasses.replace(self, resolution=resolution)

    def __getitem__(self, asked: tuple[Request, Change | None]) -> Tensor:
        request, change = asked
        draws: Any = [None] * len(request.numbers) if request.draws is None else request.draws
        with without_warnings():
            batch = torch.cat(
                [
                    self._one(number, draw, request.least)
                    for number, draw in zip(request.numbers.tolist(), draws, strict=True)
                ]
            )
        return batch if change is None else change(batch, step=request.step)

    def _one(self, number: int, draws: Tensor | None, least: float) -> Tensor:
        size = self.resolution
        if draws is None:
            pixels = (
                read_pixels(self.images, number, size)
                if self.originals is None
                else fit_pixels(self.originals[number], size)
            )
            return _channels_last(pixels)
        original = read_original(self.images, number, size) if self.originals is None else self.originals[number]
        return cut(_channels_last(original), draws, least, size)

    def fetch(self, requests: Sequence[Request], change: Change | None = None) -> Iterator[Tensor]:
        """See ``Store``; a batch is the work of one process.

        Raises:
            UserError: an image has become unreadable.
        """
        # What is iterated already, as where two parts of a split are, cannot begin anew.
        loader = self._idle.pop() if self._idle else _Loader(self)
        try:
            yield from loader.fetch([(request, change) for request in requests])
        except UserError as error:
            # A worker's error arrives with the worker's whole traceback as its text.
            raise UserError(str(error).strip().splitlines()[-1].split("UserError: ")[-1]) from error
        finally:
            self._idle.append(loader)

    def __getstate__(self) -> dict[str, Any]:
        """Without processes, for one that is started with a copy."""
        return {**self.__dict__, "_idle": []}


def _channels_last(pixels: Pixels) -> Tensor:
    """(H, W, 3) as (1, 3, H, W); torch does not see channels last in what a later [None] gives."""
    return torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)


class _Loader:
    """torch's loader, whose workers stay from one epoch to the next: starting them takes as long as tens of images."""

    def __init__(self, store: OriginalStore) -> None:
        self._asked: list[tuple[Request, Change | None]] = []
        # Any iterable of items serves as a sampler; torch's annotation asks for numbers.
        sampler: Any = self._asked
        self._loader: DataLoader[Tensor] = DataLoader(
            dataclasses.replace(store),  # no cycle: the workers end with the store
            batch_size=None,
            sampler=sampler,
            num_workers=store.workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=store.workers > 0,
            generator=torch.Generator(),  # what training draws must not depend on how often workers were started
        )

    def fetch(self, asked: Sequence[tuple[Request, Change | None]]) -> Iterator[Tensor]:
        self._asked[:] = asked
        yield from self._loader


Damaged = list[tuple[int, str]]
"""Numbers of images that cannot be decoded, each with the reason."""


def original_bytes(images: Images, positions: Tensor, resolution: int) -> int:
    """About how much memory the originals take at the size at which they are decoded, by a hundred of them."""
    sample = positions[torch.linspace(0, len(positions) - 1, min(_SAMPLE, len(positions))).long()]
    found = []
    with without_warnings():
        for number in sample.tolist():
            try:
                found.append(original_size(images, number, resolution))
            except UserError:
                continue  # said when it is decoded
    return 3 * len(positions) * sum(found) // max(1, len(found))


def decode_all(
    images: Images, positions: Tensor, resolution: int, bar: ProgressBar, skip_damaged: bool = False
) -> tuple[Tensor, Damaged]:
    """Decode the images of these numbers: (N, R, R, 3) uint8, black where one is damaged.

    Raises:
        UserError: one cannot be decoded, unless ``skip_damaged``.
    """
    pixels = np.zeros((len(positions), resolution, resolution, 3), dtype=np.uint8)

    def work(place: int) -> None:
        pixels[place] = read_pixels(images, int(positions[place]), resolution)

    damaged = _in_threads(work, torch.arange(len(positions)), bar, skip_damaged)
    return torch.from_numpy(pixels), [(int(positions[place]), reason) for place, reason in damaged]


def decode_originals(
    images: Images, positions: Tensor, resolution: int, bar: ProgressBar, skip_damaged: bool = False
) -> tuple[dict[int, Pixels], Damaged]:
    """Decode the images of these numbers, each at its own size, no smaller than is needed for this resolution.

    Raises:
        UserError: one cannot be decoded, unless ``skip_damaged``.
    """
    found: dict[int, Pixels] = {}

    def work(number: int) -> None:
        found[number] = read_original(images, number, resolution)

    return found, _in_threads(work, positions, bar, skip_damaged)


def check_all(images: Images, positions: Tensor, bar: ProgressBar, skip_damaged: bool = False) -> Damaged:
    """Look which images of these numbers are damaged.

    Raises:
        UserError: one is, unless ``skip_damaged``.
    """
    return _in_threads(lambda number: check_image(images, number), positions, bar, skip_damaged)


def _in_threads(work: Callable[[int], None], positions: Tensor, bar: ProgressBar, skip_damaged: bool) -> Damaged:
    """Work on each number; the numbers at which that failed, with the reasons."""

    def chunk_of(numbers: Tensor) -> Damaged:
        failed = []
        for number in numbers.tolist():
            try:
                work(number)
            except UserError as error:
                if not skip_damaged:
                    raise
                failed.append((number, str(error)))
        return failed

    chunks, damaged = torch.split(positions, _CHUNK), []
    with without_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for chunk, failed in zip(chunks, pool.map(chunk_of, chunks), strict=True):
            bar.advance(len(chunk))
            damaged += failed
    return damaged
