"""Which source the text of ``--data`` means."""

import os
from pathlib import Path

from fbnet_mobile.data.sources.base import SOURCES, Source
from fbnet_mobile.data.sources.torchvision import PUBLISHED
from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.registry import unknown


def open_source(text: str, root: Path | None) -> Source:
    """Open the images that ``--data TEXT`` names.

    TEXT is a registered source's name (``digits``), or that and what it opens (``folder:path``, ``torchvision:MNIST``),
    a folder, a data set of torchvision, or WebDataset's shards (``train-{000000..000146}.tar``).

    Args:
        text: as given.
        root: where torchvision keeps or downloads its data sets; ``data`` in the current folder by default.

    Raises:
        UserError: it is none of these, or of no use.
    """
    name, _, rest = text.partition(":")
    if name in SOURCES:
        return SOURCES.get(name)(rest, root)
    if text in PUBLISHED:
        return SOURCES.get("torchvision")(text, root)
    if text == "ImageFolder":
        if root is None:
            raise UserError("ImageFolder needs the folder of images; give its path as the data source instead")
        text = str(root)
    if text.endswith(".tar"):
        return SOURCES.get("webdataset")(text, root)
    path = Path(text)
    try:
        if path.is_dir():
            return SOURCES.get("folder")(text, root)
        if path.exists():
            raise UserError(
                f"{shown(path)} is a file; unpack it and give the folder with one sub-folder of images per class"
            )
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read {shown(text, 80)}: {reason}; give a folder of images") from error
    names = [*SOURCES, *PUBLISHED]
    if os.sep in text or text.startswith((".", "~")):
        raise UserError(f"{shown(text)} does not exist; give a folder of images, or one of {', '.join(names)}")
    raise UserError(f"{unknown('data source', shown(text), names)}, or a folder of images")
