"""A folder with one sub-folder of images per class, or with such folders for training, validation and test."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from fbnet_mobile.data.sources.base import SOURCES, Images, Source
from fbnet_mobile.data.sources.torchvision import NO_MIRROR
from fbnet_mobile.errors import UserError, shown

PARTS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing", "tst"),
}
"""Names of the folders of each part, in any case."""

FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000", "HEIF", "MPO")
"""Pillow's names of the formats that are read, if this Pillow can. EPS is none: reading it runs a program."""

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
)
"""Of files that are images; those of formats that not every Pillow reads come after."""

_NOT_EVERYWHERE = frozenset((".webp", ".avif", ".jp2", ".j2k", ".heic", ".heif", ".jxl"))
"""Suffixes of formats that need a library which not every Pillow has."""

_NOT_IMAGES = frozenset(
    ("@eadir", "__macosx", "#recycle", "$recycle.bin", "lost+found", "system volume information", "thumbnails")
)
_THUMBNAILS = frozenset(("thumbs", "thumb", "_thumbs"))
"""Names of folders of thumbnails within a class; a class may be called so."""

_SYSTEM = frozenset(
    ("/", "/bin", "/boot", "/dev", "/etc", "/lib", "/opt", "/proc", "/root", "/run", "/sbin", "/sys", "/usr")
)
_VIRTUAL = ("/proc", "/sys")
_MOST_OTHERS = 100_000
"""Files that are no images after which a folder is given up, if it does not hold as many images."""

_HIDDEN = "hidden or thumbnail"
_OTHER = "no images"
_ODD_FILES = "pipes, sockets, devices or links that lead nowhere"
_SEEN = "links to folders that are read already"
_OF_SYSTEM = "links to folders of the system"
_OUTSIDE = "images outside the class folders"


@dataclass(frozen=True)
class _File:
    path: str
    size: int
    changed: int  # nanoseconds


class Files:
    """Image files."""

    def __init__(self, paths: Sequence[str], labels: Sequence[int]) -> None:
        self._paths = paths
        self.labels = torch.tensor(list(labels), dtype=torch.int64)

    def read(self, number: int) -> Image.Image:
        """The image, opened."""
        return Image.open(self._paths[number], formats=readable_formats())

    def name(self, number: int) -> str:
        """Its path."""
        return shown(self._paths[number])

    def check(self, number: int) -> bool:
        """Read all of a JPEG at an eighth of its size, compare a PNG's checksums; others have to be decoded."""
        with self.read(number) as image:
            if image.format == "JPEG":
                # verify() only looks at a JPEG's header; decoding it at an eighth of its size reads all of it.
                image.draft("RGB", (1, 1))
                image.load()
                return True
            if image.format == "PNG":
                image.verify()
                return True
        return False


def readable_formats() -> tuple[str, ...]:
    """Those of ``FORMATS`` that this Pillow reads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def open_folder(text: str, root: Path | None) -> Source:
    """List a folder's images.

    Hidden folders and those of thumbnails are left out; each folder is read once, whatever links lead to it. What is
    left out is counted.

    Raises:
        UserError: it cannot be read, or is of no use: a folder of the system, no class folders, a class without
            images, or one that is only in ``val/`` or ``test/``.
    """
    path = Path(text)
    if _is_system(path):
        whole = os.path.realpath(path)
        raise UserError(f"{whole} is a folder of the system; give the folder with one sub-folder of images per class")
    skipped: Counter[str] = Counter()
    try:
        return _open(path, skipped)
    except OSError as error:
        reason = f"{shown(error.filename or path)}: {error.strerror}"
        raise UserError(f"cannot read {reason}; check its permissions") from error


def unlabelled_images(path: Path) -> Files:
    """All images below a folder; each has the label -1.

    Raises:
        UserError: it cannot be read, or holds none.
    """
    try:
        files = [file for file in _walk(str(path), {_identity(path)}, Counter()) if file is not None]
    except OSError as error:
        reason = f"{shown(error.filename or path)}: {error.strerror}"
        raise UserError(f"cannot read {reason}; give a folder of images") from error
    if not files:
        raise UserError(f"{shown(path)} holds no images; give a folder of images")
    paths = sorted(file.path for file in files)
    return Files(paths, [-1] * len(paths))


def _is_system(path: str | Path) -> bool:
    whole = os.path.realpath(path)
    return whole in _SYSTEM or whole.startswith(tuple(f"{name}/" for name in _VIRTUAL))


def _open(path: Path, skipped: Counter[str]) -> Source:
    names = _folders_in(path, skipped)
    if not names:
        raise UserError(f"{shown(path)} has no sub-folders; put the images of each class into one of its own")
    folders = _part_folders(path, names)
    files: dict[str, list[_File]] = {}
    labels: dict[str, list[int]] = {}
    classes: tuple[str, ...] = ()
    for part, folder in folders.items():
        found = _class_files(folder, names if folder == path else _folders_in(folder, skipped), skipped)
        if part == "train":
            classes = tuple(found)
        elif unknown := sorted(set(found) - set(classes)):
            raise UserError(
                f"{shown(folder)} has the class {unknown[0]}, which {shown(folders['train'])} lacks; "
                "add training images or remove it"
            )
        files[part] = [file for name in found for file in found[name]]
        labels[part] = [classes.index(name) for name in found for _ in found[name]]
    digest = hashlib.sha256()
    for part, listed in files.items():
        for file in listed:
            place = os.path.relpath(file.path, path)
            digest.update(os.fsencode(f"{part}\0{place}\0{file.size}\0{file.changed}\n"))
    parts: dict[str, Images] = {
        part: Files([file.path for file in listed], labels[part]) for part, listed in files.items()
    }
    name = path.name or path.resolve().name
    return Source(parts, classes, name, digest.hexdigest()[:16], mirrors=name not in NO_MIRROR, skipped=skipped)


def _part_folders(path: Path, names: Sequence[str]) -> dict[str, Path]:
    """The folder of each part; the whole folder for training where it has no folder for that."""
    found: dict[str, str] = {}
    for part, known in PARTS.items():
        same = [name for name in names if name.lower() in known]
        if len(same) > 1:
            raise UserError(f"{shown(path)} has {same[0]}/ and {same[1]}/ for the same images; keep one of them")
        if same:
            found[part] = same[0]
    others = [name for name in names if name not in found.values()]
    if "train" not in found:
        if found and not others:
            raise UserError(f"{shown(path)} has {min(found.values())}/ but no train/; add the training images")
        return {"train": path}
    if others and not _folders_in(path / found["train"], Counter()):
        return {"train": path}  # a class of that name, such as of vehicles
    if others:
        raise UserError(
            f"{shown(path)} has {shown(others[0])}/ beside {found['train']}/, "
            "where only val/ and test/ may be; rename or move it"
        )
    return {part: path / name for part, name in found.items()}


def _folders_in(path: Path, skipped: Counter[str]) -> list[str]:
    names = []
    with os.scandir(path) as entries:
        for entry in entries:
            if _is_hidden(entry.name):
                skipped[_HIDDEN] += 1
            elif _is(entry.is_dir):
                names.append(entry.name)
            elif Path(entry.name).suffix.lower() in SUFFIXES | _NOT_EVERYWHERE:
                skipped[_OUTSIDE] += 1
    return sorted(names)


def _is(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # a link to itself
        return False


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _NOT_IMAGES


def _class_files(folder: Path, names: Sequence[str], skipped: Counter[str]) -> dict[str, list[_File]]:
    """The image files of each class, by folder and by name."""
    if not names:
        raise UserError(f"{shown(folder)} has no class folders; put the images of each class into a folder of its own")
    above = {_identity(place) for place in (folder, *folder.resolve().parents)}
    # A link back to where the scan came from, or to another class, would give images a second label.
    seen = above | {_identity(folder / name) for name in names}
    found = {}
    others = 0
    for name in names:
        if not name.isprintable():  # a byte that is no UTF-8 is a lone surrogate, which is not printable either
            raise UserError(
                f"a class folder of {shown(folder)} is called {shown(name)}, which is no printable UTF-8 text; "
                "rename it"
            )
        if _identity(folder / name) in above or _is_system(folder / name):
            raise UserError(
                f"the class folder {shown(folder / name)} is a link to {shown(os.path.realpath(folder / name))}, "
                "which holds more than a class; remove the link"
            )
        files: list[_File] = []
        for file in _walk(str(folder / name), seen, skipped):
            if file is None:
                others += 1
                if others > max(_MOST_OTHERS, len(files)):
                    raise UserError(
                        f"{shown(folder)} holds more than {_MOST_OTHERS:,} files that are no images; "
                        "give the folder with one sub-folder of images per class"
                    )
            else:
                files.append(file)
        if not files:
            held = ", ".join(f"{count:,} {reason}" for reason, count in skipped.items() if "cannot read" in reason)
            raise UserError(
                f"{shown(folder / name)} holds no images{f' ({held})' if held else ''}; "
                "put some there or take the folder away"
            )
        # As torchvision's ImageFolder sorts them, so that the same images are held out.
        found[name] = sorted(files, key=lambda file: os.path.split(file.path))
    return found


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _walk(top: str, seen: set[tuple[int, int]], skipped: Counter[str]) -> Iterator[_File | None]:
    """Every image file below a folder, and None for every file that is none."""
    waiting = [top]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if _is_hidden(entry.name) or (entry.name.lower() in _THUMBNAILS and _is(entry.is_dir)):
                    skipped[_HIDDEN] += 1
                    yield None
                elif _is(entry.is_dir):
                    status = entry.stat()
                    if (status.st_dev, status.st_ino) in seen:
                        skipped[_SEEN] += 1
                    elif entry.is_symlink() and _is_system(entry.path):
                        skipped[_OF_SYSTEM] += 1
                    else:
                        seen.add((status.st_dev, status.st_ino))
                        waiting.append(entry.path)
                else:
                    yield _image_file(entry, skipped)


def _image_file(entry: os.DirEntry[str], skipped: Counter[str]) -> _File | None:
    suffix = Path(entry.name).suffix.lower()
    if suffix not in SUFFIXES | _NOT_EVERYWHERE:
        skipped[_OTHER] += 1
    # What is no regular file is never opened: reading a named pipe waits for ever.
    elif not _is(entry.is_file):
        skipped[_ODD_FILES] += 1
    elif suffix in _NOT_EVERYWHERE and Image.registered_extensions().get(suffix) not in readable_formats():
        skipped[f"{suffix} files, which this Pillow cannot read"] += 1
    else:
        status = entry.stat()
        return _File(entry.path, status.st_size, status.st_mtime_ns)
    return None


SOURCES.add("folder", open_folder)
