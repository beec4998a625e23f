"""Where labelled images come from; ``--data`` names one. A new source is one file that registers itself in SOURCES."""

from fbnet_mobile.data.sources import digits, folder, torchvision
from fbnet_mobile.data.sources.base import SOURCES, Images, Pairs, Source
from fbnet_mobile.data.sources.choose import open_source

__all__ = [
    "SOURCES",
    "Images",
    "Pairs",
    "Source",
    "digits",
    "folder",
    "open_source",
    "torchvision",
]
