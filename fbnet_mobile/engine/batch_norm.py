"""Statistics of batch norm, estimated anew for a network that is to be evaluated."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from fbnet_mobile.data.data import Data, training_batches

_BATCH = 64
"""Images that one step of the estimate sees."""


def training_views(
    data: Data, images: int, device: torch.device, augmentations: Sequence[str], seed: int = 0
) -> Iterator[Tensor]:
    """Training images as batch norm is to have its statistics of: (B, 3, R, R) float32, normalised, on ``device``.

    They are augmented, as the weights were trained to what that gives: a shift at 32 pixels leaves black borders, and
    with statistics of images without them a small network lost five points on CIFAR-10. But parts are not cut out of
    them, as things are larger there than where the network is evaluated (Touvron et al. 2019, arXiv 1906.06423, section
    3). In batches of all classes, as those of one vary less; the same in every process, and every time.

    Args:
        data: whose training images.
        images: about how many; at least one of each class, all of them if there are no more.
        device: where the views go.
        augmentations: names, as of ``training_batches``.
        seed: decides order and augmentation.
    """
    sample = data.train.limit(max(images, len(data.classes)))
    if sample.store.cuts:
        augmentations = [name for name in augmentations if name.partition(":")[0] != "crop"]
    size = min(_BATCH, len(sample))
    batches = training_batches(sample, data, size, seed=seed, epoch=0, device=device, augmentations=augmentations)
    return (views for views, _ in batches)


@torch.no_grad()
def estimate_batch_norm(module: nn.Module, views: Iterable[Tensor]) -> None:
    """Give every batch norm the mean statistics of ``views``, and leave the module in the mode that it is in.

    Its own are a moving average, which lags behind the weights for as many steps as its momentum says.

    Args:
        module: takes a batch of them; changed in place.
        views: such as :func:`training_views`.
    """
    update_bn(views, module)
