"""Images by number, all of one size: decoded pixels in memory, or files that are decoded when they are needed."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from fbnet_mobile.data.augment import CROP_AREA, derive_seed
from fbnet_mobile.data.decode import check_image, read_image, read_pixels, without_warnings
from fbnet_mobile.data.sources.base import Images
from fbnet_mobile.errors import UserError
from fbnet_mobile.progress import ProgressBar

_CHUNK = 128


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

    def __init__(self, images: Images, resolution: int, workers: int) -> None:
        self._images = images
        self._resolution = resolution
        self._workers = workers
        self._crop = v2.RandomResizedCrop(resolution, scale=CROP_AREA)

    def __getitem__(self, request: tuple[int, int | None]) -> Tensor:
        number, seed = request
        with without_warnings():
            if seed is None:
                return torch.from_numpy(read_pixels(self._images, number, self._resolution)).permute(2, 0, 1)
            image = read_image(self._images, number, 2 * self._resolution)
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


def decode_all(images: Images, positions: Tensor, resolution: int, bar: ProgressBar) -> Tensor:
    """Decode the images of these numbers: (N, R, R, 3) uint8.

    Raises:
        UserError: one cannot be decoded.
    """
    pixels = np.empty((len(positions), resolution, resolution, 3), dtype=np.uint8)

    def work(places: Tensor) -> None:
        for place in places.tolist():
            pixels[place] = read_pixels(images, int(positions[place]), resolution)

    _in_threads(work, torch.arange(len(positions)), bar)
    return torch.from_numpy(pixels)


def check_all(images: Images, positions: Tensor, bar: ProgressBar) -> None:
    """Look whether any image of these numbers is damaged.

    Raises:
        UserError: one is.
    """

    def work(numbers: Tensor) -> None:
        for number in numbers.tolist():
            check_image(images, number)

    _in_threads(work, positions, bar)


def _in_threads(work: Callable[[Tensor], None], positions: Tensor, bar: ProgressBar) -> None:
    chunks = torch.split(positions, _CHUNK)
    with without_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for chunk, _ in zip(chunks, pool.map(work, chunks), strict=True):
            bar.advance(len(chunk))
