"""Where labelled images come from; ``--data`` names one. A new source is one file that registers itself in SOURCES."""

from fbnet_mobile.data.sources import digits, folder, torchvision, webdataset
from fbnet_mobile.data.sources.base import SOURCES, Images, Joined, Pairs, Source, only
from fbnet_mobile.data.sources.choose import open_source
from fbnet_mobile.data.sources.folder import unlabelled_images

__all__ = [
    "SOURCES",
    "Images",
    "Joined",
    "Pairs",
    "Source",
    "digits",
    "folder",
    "only",
    "open_source",
    "torchvision",
    "unlabelled_images",
    "webdataset",
]
