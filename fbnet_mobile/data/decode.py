"""From an image in any of Pillow's modes to RGB pixels of one size."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fbnet_mobile.data.sources.base import Images
from fbnet_mobile.errors import UserError

Pixels = NDArray[np.uint8]

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(images: Images, number: int, size: int) -> Image.Image:
    """Decode one image as RGB, upright, and reduced to no less than ``size`` where its format offers that for free.

    Raises:
        UserError: it cannot be decoded, for the reason that is said.
    """
    try:
        image = images.read(number)
        image.draft("RGB", (size, size))
        return _rgb(_upright(image))
    except Exception as error:  # decoders raise whatever they trip over: struct.error, TypeError, IndexError, ...
        raise _undecodable(images, number, error) from error


def shorter_side(images: Images, number: int) -> int:
    """Pixels of the shorter side of an image, of which no more is read than that takes.

    Raises:
        UserError: it cannot be opened, for the reason that is said.
    """
    try:
        with without_warnings():
            return min(images.read(number).size)
    except Exception as error:  # as above
        raise _undecodable(images, number, error) from error


def read_pixels(images: Images, number: int, resolution: int) -> Pixels:
    """Decode one image and cut its middle out: (R, R, 3) uint8.

    Raises:
        UserError: it cannot be decoded.
    """
    return np.array(_fit(read_image(images, number, 2 * resolution), resolution))


def read_original(images: Images, number: int, resolution: int) -> Pixels:
    """Decode one image whole, at a size from which a part can be cut for this resolution: (H, W, 3) uint8.

    Raises:
        UserError: it cannot be decoded.
    """
    return np.array(read_image(images, number, 2 * resolution))


def original_size(images: Images, number: int, resolution: int) -> int:
    """How many pixels ``read_original`` would give, by the header of the image.

    Raises:
        UserError: it has none that can be read.
    """
    try:
        image = images.read(number)
        image.draft("RGB", (2 * resolution, 2 * resolution))
    except Exception as error:
        raise _undecodable(images, number, error) from error
    return image.width * image.height


def fit_pixels(original: Pixels, resolution: int) -> Pixels:
    """Cut the middle of (H, W, 3) uint8 out: (R, R, 3), as ``read_pixels`` does."""
    return np.array(_fit(Image.fromarray(original), resolution))


def _fit(image: Image.Image, resolution: int) -> Image.Image:
    return ImageOps.fit(image, (resolution, resolution), Image.Resampling.BILINEAR)


def check_image(images: Images, number: int) -> None:
    """Find out whether an image is damaged, as cheaply as its format allows.

    Raises:
        UserError: it is.
    """
    try:
        told = images.check(number)
    except Exception as error:
        raise _undecodable(images, number, error) from error
    if not told:
        read_image(images, number, 1)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep Pillow's warnings of large images and odd tags from the user, who is told of what cannot be decoded.

    Not for a thread of several: Python's warning filters are the process's.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _undecodable(images: Images, number: int, error: Exception) -> UserError:
    if isinstance(error, Image.DecompressionBombError):
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return UserError(
            f"cannot decode {images.name(number)}: it has more than {most:,} pixels, the most that are read; "
            "make it smaller or remove it"
        )
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    if isinstance(error, UnidentifiedImageError):
        reason = "it is no image of a format that is read"
    elif not isinstance(error, OSError | SyntaxError | ValueError | EOFError):
        reason = f"damaged ({type(error).__name__}: {reason})"
    return UserError(f"cannot decode {images.name(number)}: {reason[:200] or 'damaged'}; replace or remove it")


def _upright(image: Image.Image) -> Image.Image:
    # Pillow's exif_transpose writes all tags anew, which fails where any of them is of an unusual type.
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # tags are data of cameras and editors, and none of them is needed
        orientation = None
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode == "RGB":
        return image  # where Pillow's convert would copy it
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_to_bytes(np.asarray(image), image.mode)).convert("RGB")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    elif image.mode == "La":
        image = image.convert("LA")
    elif image.mode == "RGBa":
        image = image.convert("RGBA")
    return image.convert("RGB")


def _to_bytes(values: NDArray[np.generic], mode: str) -> Pixels:
    """Greys of more than 8 bits, or not whole, to 0 to 255.

    Sixteen bits say their range by their type. Wider numbers do not: the range is the first of 0 to 1 (fractions), 0 to
    255 and 0 to 65,535 that holds all of the image.
    """
    greys = values.astype(np.float64)
    top = float(greys.max())
    if not np.isfinite(greys).all():
        raise ValueError("it holds values that are not finite")
    if mode.startswith("I;16"):
        scale = 1 / 256
    elif mode == "F" and top <= 1:
        scale = 255.0
    elif top <= 255:
        scale = 1.0
    elif top <= 65535:
        scale = 1 / 256
    else:
        raise ValueError(f"its values go up to {top:g}, and only 0 to 1, 255 or 65,535 are read")
    greys *= scale
    return np.clip(greys, 0, 255).astype(np.uint8)
