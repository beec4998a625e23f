"""Which labelled images, as plain data."""

from dataclasses import dataclass
from pathlib import Path

from fbnet_mobile.recipe import SEEDS, option

_IMAGES = "Images"
CROP_AREA = 0.35
"""Least share of an image that a crop keeps; ImageNet's usual 8 % is too hard for small networks in a short time."""


@dataclass(frozen=True, kw_only=True)
class DataPlace:
    """How labelled images are found and split."""

    data_root: Path | None = option(None, group=_IMAGES, shown="./data", help="Where torchvision keeps its data sets.")
    classes: tuple[str, ...] = option(
        (), group=_IMAGES, commas=True, shown="all", help="Only these classes, by name, with commas between."
    )
    split_seed: int = option(
        0,
        group=_IMAGES,
        low=0,
        high=SEEDS,
        help="Decides which images are held out where the data have no val/ or test/: the same for all commands.",
    )


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Labelled images to learn from."""

    data: str = option(
        group=_IMAGES,
        known="data",
        help="Labelled images: a folder of class folders, shards such as train-{000..146}.tar, a torchvision data "
        "set's name, or digits.",
    )
    skip_damaged: bool = option(
        False, group=_IMAGES, help="Leave out images that cannot be decoded, and list them, instead of stopping."
    )
    limit: int | None = option(None, group=_IMAGES, low=1, shown="all", help="Use about this many training images.")
    place: DataPlace


@dataclass(frozen=True, kw_only=True)
class TestData:
    """Labelled images to look at, if any."""

    data: str | None = option(
        None, group=_IMAGES, known="data", shown="none", help="Labelled images, as for fbnet-train."
    )
    place: DataPlace
