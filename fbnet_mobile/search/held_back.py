"""The accuracy of networks of a supernet on the images that its weights do not see."""

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from fbnet_mobile.data.augment import normalise
from fbnet_mobile.data.data import Data
from fbnet_mobile.data.split import Split
from fbnet_mobile.engine.batch_norm import estimate_batch_norm, training_views
from fbnet_mobile.search.inherit import inherit
from fbnet_mobile.search.supernet import Supernet
from fbnet_mobile.space import RESOLUTION, Option

_CALIBRATION_IMAGES = 256
_BATCH = 256


class HeldBack:
    """Measures a network as it will stand alone.

    ``inherit`` slices its weights, and batch norm gets the statistics of training images that pass through this very
    network, as in single-path one-shot (arXiv 1904.00420, section 3.3). Those that the supernet gathers are a mixture
    of all networks, with which none is right; those of the batch that is being measured would make an image's answer
    depend on the others beside it.

    Args:
        supernet: whose weights.
        images: that are held back.
        data: whose training images calibrate, and whose colours normalise.
        most: images to measure on.
        seed: decides which.
        device: where.
    """

    def __init__(
        self, supernet: Supernet, images: Split, data: Data, most: int, seed: int, device: torch.device
    ) -> None:
        self.supernet, self.images, self.data = supernet, images, data
        self.most, self.seed, self.device = most, seed, device

    @torch.no_grad()
    def accuracy(self, assignment: Mapping[str, Option]) -> float:
        """Top-1, 0 to 1."""
        resolution = int(assignment[RESOLUTION])
        network = inherit(self.supernet, assignment).to(self.device).to(memory_format=torch.channels_last)
        estimate_batch_norm(network, (self.supernet.resized(views, resolution) for views in self._views))
        network.eval()
        right = 0
        for images, labels in self._batches:
            images = normalise(images.to(self.device), self.data.mean, self.data.std)
            logits = network(self.supernet.resized(images, resolution))
            right += int((logits.argmax(1) == labels.to(self.device)).sum())
        return right / sum(len(labels) for _, labels in self._batches)

    @cached_property
    def _batches(self) -> list[tuple[Tensor, Tensor]]:
        return list(self.images.limit(self.most, self.seed).batches(_BATCH))

    @cached_property
    def _views(self) -> list[Tensor]:
        data = self.data
        return list(training_views(data, _CALIBRATION_IMAGES, self.device, data.augmentations, self.seed))
