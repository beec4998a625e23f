"""A training as timm's train.py makes it on a CPU: its parts, put together in that way, with its defaults.

They are those of https://github.com/huggingface/pytorch-image-models/blob/004fb5f8/train.py. The script itself is not
in timm's package. Its 10 epochs of cooling down, which ``--epochs`` does not count, are left out.
"""

from collections.abc import Callable, Sequence
from typing import Any

import timm.data
import timm.loss
import timm.optim
import timm.scheduler
import timm.utils
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

BATCH_SIZE = 128
Array = NDArray[Any]
Colours = tuple[float, float, float]
_library: Any = timm


class Pictures(Dataset[Any]):
    """Images of (H, W, 3) uint8 with labels, as timm's loader takes them."""

    transform: Any = None

    def __init__(self, images: Sequence[Array], labels: Sequence[int]) -> None:
        self._images, self._labels = images, labels

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self._images[number])), int(self._labels[number])


def trained_epochs(
    module: nn.Module,
    pictures: Pictures,
    resolution: int,
    epochs: int,
    batch_size: int = BATCH_SIZE,
    colours: tuple[Colours, Colours] = (timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD),
    workers: int = 2,
) -> Callable[[], None]:
    """What trains the module for one epoch more each time, of so many."""
    loader = _library.data.create_loader(
        pictures,
        input_size=(3, resolution, resolution),
        batch_size=batch_size,
        is_training=True,
        use_prefetcher=False,
        scale=(0.08, 1.0),
        hflip=0.5,
        color_jitter=0.4,
        interpolation="random",
        mean=colours[0],
        std=colours[1],
        num_workers=workers,
        device=torch.device("cpu"),
    )
    optimizer = _library.optim.create_optimizer_v2(module, opt="sgd", lr=0.05, weight_decay=2e-5, momentum=0.9)
    scheduler, _ = _library.scheduler.create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=epochs,
        cooldown_epochs=0,
        warmup_epochs=min(3, epochs - 1),
        warmup_lr=1e-4,
        min_lr=1e-6,
        updates_per_epoch=len(loader),
    )
    loss_function, meter = _library.loss.LabelSmoothingCrossEntropy(0.1), _library.utils.AverageMeter()
    made = [0]

    def epoch() -> None:
        module.train()
        for number, (images, target) in enumerate(loader):
            loss = loss_function(module(images), target)
            meter.update(loss.item(), len(images))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step_update(num_updates=made[0] * len(loader) + number)
        made[0] += 1
        scheduler.step(made[0])

    return epoch


def accuracy(
    module: nn.Module, pictures: Pictures, resolution: int, colours: tuple[Colours, Colours], crop: float = 0.875
) -> float:
    """The share of pictures that it names as they are labelled, each resized and its middle cut out as timm does."""
    loader = _library.data.create_loader(
        pictures,
        input_size=(3, resolution, resolution),
        batch_size=BATCH_SIZE,
        use_prefetcher=False,
        interpolation="bicubic",
        mean=colours[0],
        std=colours[1],
        crop_pct=crop,
        num_workers=0,
        device=torch.device("cpu"),
    )
    module.eval()
    with torch.no_grad():
        right = sum(int((module(images).argmax(1) == target).sum()) for images, target in loader)
    return right / len(pictures)
