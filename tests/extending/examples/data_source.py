"""A source of images: stripes, as `--data stripes:80` (how many images) or `--data stripes`."""

from pathlib import Path

import numpy as np
from PIL import Image

from fbnet_mobile.data.sources import SOURCES, Pairs, Source
from fbnet_mobile.errors import UserError

CLASSES = ("across", "down")


def open_stripes(text: str, root: Path | None) -> Source:
    """Draw them; a source may as well read a database, an archive or the network."""
    if text and not text.isdecimal():
        raise UserError(f"stripes:{text} is no number of images; give stripes:80")
    count = int(text or 80)
    draw = np.random.default_rng(0)
    labels = [number % 2 for number in range(count)]
    images = []
    for label in labels:
        lines = np.repeat(draw.integers(0, 256, (16, 1), dtype=np.uint8), 16, axis=1)
        images.append(Image.fromarray(lines.T if label else lines))
    return Source(
        parts={"train": Pairs(list(zip(images, labels, strict=True)), labels, "stripes")},  # val and test are held out
        classes=CLASSES,
        name="stripes",
        fingerprint=f"stripes {count}",  # a finished run is not taken for one on other images
    )


SOURCES.add("stripes", open_stripes)
