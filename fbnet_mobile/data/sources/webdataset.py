"""Shards as WebDataset writes them: tar files of images with their labels, read where they are."""

import glob
import io
import os
import tarfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image

from fbnet_mobile.data.sources.base import SOURCES, Images, Source
from fbnet_mobile.data.sources.folder import SUFFIXES, readable_formats
from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.formats.packages import needs

_LABEL, _NAMES = "cls", "classes.txt"
_OPEN = 256


class Shards:
    """Images in tar files: where each begins there, so that any of them is read without those before it."""

    def __init__(
        self, paths: Sequence[str], places: Sequence[tuple[int, int, int, str]], labels: Sequence[int]
    ) -> None:
        self._paths, self._places = paths, places
        self.labels = torch.tensor(list(labels), dtype=torch.int64)

    def read(self, number: int) -> Image.Image:
        """The image, opened."""
        shard, offset, size, _ = self._places[number]
        content = os.pread(_opened(self._paths[shard]), size, offset)
        return Image.open(io.BytesIO(content), formats=readable_formats())

    def name(self, number: int) -> str:
        """Its shard, and its name there."""
        shard, _, _, name = self._places[number]
        return f"{shown(name)} in {shown(self._paths[shard])}"

    def check(self, number: int) -> bool:
        """Only decoding tells."""
        return False


@lru_cache(_OPEN)
def _opened(path: str) -> int:
    return os.open(path, os.O_RDONLY)


def open_shards(text: str, root: Path | None) -> Source:
    """List the images of shards such as ``shards/train-{000000..000146}.tar``, without reading them.

    Each sample is an image and its label as a number from 0, such as ``0001.jpg`` and ``0001.cls``. Where the shards'
    name has "train" in it, those beside them that have "val" or "test" there are the validation and test images; a file
    ``classes.txt`` beside them names the classes, one a line.

    Raises:
        UserError: webdataset is not installed, a shard is not there or no tar file, or a sample has no label.
    """
    if "://" in text:
        raise UserError(f"{shown(text)} is not on a disk; copy the shards to one that all processes see")
    with needs("webdataset", "fbnet-mobile[webdataset]"):
        from webdataset.shardlists import expand_urls
    paths = {"train": [os.fspath(path) for path in expand_urls(text)]}
    folder, _, name = text.rpartition("/")
    for part in ("val", "test"):
        if "train" in name:
            beside = Path(folder or ".").glob(f"{glob.escape(name.partition('train')[0])}{part}*.tar")
            if found := sorted(map(os.fspath, beside)):
                paths[part] = found
    parts: dict[str, Images] = {part: _indexed(found) for part, found in paths.items()}
    count = 1 + max(int(images.labels.max()) for images in parts.values())
    names = Path(folder or ".", _NAMES)
    classes = tuple(map(str, range(count)))
    if names.is_file():
        classes = tuple(line.strip() for line in names.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(classes) < count:
        raise UserError(f"{shown(names)} names {len(classes)} classes, and the shards have {count}; add the others")
    return Source(parts, classes, name, fingerprint=_fingerprint([path for found in paths.values() for path in found]))


def _indexed(paths: Sequence[str]) -> Shards:
    places: list[tuple[int, int, int, str]] = []
    labels: list[int] = []
    for shard, path in enumerate(paths):
        try:
            with tarfile.open(path, "r:") as archive:
                found = _samples(archive, path)
        except tarfile.TarError as error:
            raise UserError(f"{shown(path)} is no plain tar file ({error}); write the shards anew") from error
        except OSError as error:
            raise UserError(f"cannot read {shown(path)}: {error.strerror}; give the shards' names") from error
        places += [(shard, *place) for place, _ in found]
        labels += [label for _, label in found]
    if not labels:
        raise UserError(f"{shown(paths[0])} holds no images with a .{_LABEL} beside them; write the shards anew")
    return Shards(paths, places, labels)


def _samples(archive: tarfile.TarFile, path: str) -> list[tuple[tuple[int, int, str], int]]:
    """Offset, size and name of each image of a shard, with its label."""
    from webdataset.tariterators import base_plus_ext

    images: dict[str, tuple[int, int, str]] = {}
    labels: dict[str, int] = {}
    for member in archive:
        key, suffix = base_plus_ext(member.name)
        if not member.isfile() or key is None:
            continue
        if f".{suffix}" in SUFFIXES:
            images[key] = (member.offset_data, member.size, member.name)
        elif suffix == _LABEL:
            file = archive.extractfile(member)
            text = file.read(_OPEN).decode("ascii", "replace").strip() if file is not None else ""
            if not text.isdecimal() or len(text) > 6:
                raise UserError(f"the label {shown(member.name)} in {shown(path)} is no number from 0; write it anew")
            labels[key] = int(text)
    for key in images:
        if key not in labels:
            raise UserError(f"{shown(images[key][2])} in {shown(path)} has no {shown(key)}.{_LABEL}; write it anew")
    return [(place, labels[key]) for key, place in images.items()]


def _fingerprint(paths: Sequence[str]) -> str:
    found = ((Path(path).name, Path(path).stat()) for path in paths)
    return " ".join(f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in found)


SOURCES.add("webdataset", open_shards)
