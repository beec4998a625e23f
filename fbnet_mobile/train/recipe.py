"""How to train, as plain data."""

import math
from dataclasses import dataclass
from pathlib import Path

from fbnet_mobile.recipe import SEEDS, check, option

_NETWORK, _TRAINING, _IMAGES = "Network", "Training", "Augmentation"


@dataclass(frozen=True)
class TrainRecipe:
    """How to train; the defaults suit small mobile networks and tens of epochs.

    Stochastic gradient descent with Nesterov momentum, a linear warm-up and then a cosine to zero, both
    moving with every step (Loshchilov and Hutter 2017); weight decay on weights but not on biases and batch
    norm (He et al. 2019); label smoothing (Szegedy et al. 2016).

    Attributes are described by the help of their options.
    """

    epochs: int = option(30, group=_TRAINING, low=1, high=100_000, help="Passes over the training images.")
    batch_size: int = option(64, group=_TRAINING, low=1, high=1_000_000, help="Images a step, over all processes.")
    learning_rate: float = option(0.1, group=_TRAINING, above=0, help="At its peak.")
    warmup_epochs: float = option(
        1.0, group=_TRAINING, low=0, help="Epochs of linear rise to the peak, a fraction too; at most half of all."
    )
    momentum: float = option(0.9, group=_TRAINING, low=0, below=1, help="Nesterov's.")
    weight_decay: float = option(5e-4, group=_TRAINING, low=0, help="On weights, not on biases and batch norm.")
    loss: str = option(
        "cross_entropy",
        group=_TRAINING,
        given={"teacher": "distillation"},
        help="What is minimised: cross_entropy, distillation (with a teacher), or a plugin's.",
    )
    teacher: str = option("", group=_TRAINING, shown="none", help="Checkpoint of a network that the loss learns from.")
    label_smoothing: float = option(
        0.1, group=_TRAINING, low=0, high=1, help="Share of the target spread over all classes."
    )
    distillation_weight: float = option(
        0.5, group=_TRAINING, low=0, high=1, help="Share of the teacher's part in the loss distillation."
    )
    distillation_temperature: float = option(
        4.0, group=_TRAINING, above=0, high=1000, help="By which the loss distillation divides the logits of both."
    )
    ema_decay: float = option(
        0.0,
        group=_TRAINING,
        low=0,
        high=1,
        help="A step, of a moving average of the weights, which is then what is "
        "evaluated and kept; 0 for none. Less in the first steps.",
    )
    seed: int = option(0, group=_TRAINING, low=0, high=SEEDS, help="Of initial weights, order and augmentation.")
    augmentations: tuple[str, ...] | None = option(
        None,
        group=_IMAGES,
        commas=True,
        shown="crop,flip; crop for digits and signs",
        help="Random changes of the images, in this order, with commas between: crop, flip, or a plugin's.",
    )

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            UserError: one of them is.
        """
        check(self)

    def learning_rate_at(self, epoch: float) -> float:
        """Learning rate after ``epoch`` epochs, fractions of them included."""
        warmup = min(self.warmup_epochs, self.epochs / 2)
        if epoch < warmup:
            return self.learning_rate * epoch / warmup
        return self.learning_rate * (1 + math.cos(math.pi * (epoch - warmup) / (self.epochs - warmup))) / 2


@dataclass(frozen=True, kw_only=True)
class TrainTask:
    """What is trained."""

    architecture: str | None = option(
        None,
        group=_NETWORK,
        shown="what the search of --inherit found",
        help="Architecture file, such as fbnet-search wrote, or a published network's name "
        "(fbnet-benchmark --list-models).",
    )
    output: Path = option(group=_NETWORK, names=("--output", "-o"), help="Folder of the run.")
    inherit: Path | None = option(
        None,
        group=_NETWORK,
        shown="random weights",
        help="Start from the supernet's weights: the folder of the search that found the architecture.",
    )
