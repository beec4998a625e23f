"""Scikit-learn's 1,797 scanned digits, 8x8 pixels, which come with the package."""

from pathlib import Path

import numpy as np
from PIL import Image

from fbnet_mobile.data.sources.base import SOURCES, Pairs, Source
from fbnet_mobile.errors import UserError


def open_digits(text: str, root: Path | None) -> Source:
    """Open the digits.

    Raises:
        UserError: scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            "the digits come with scikit-learn, which is missing; pip install 'fbnet-mobile[digits]'"
        ) from error
    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype(np.uint8)
    pairs = [(Image.fromarray(image), label) for image, label in zip(pixels, digits.target, strict=True)]
    return Source(
        parts={"train": Pairs(pairs, digits.target, "digits")},
        classes=tuple(str(digit) for digit in range(10)),
        name="digits",
        fingerprint=f"digits {len(pairs)}",
        mirrors=False,
    )


SOURCES.add("digits", open_digits)
