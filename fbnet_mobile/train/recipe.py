"""How to train, as plain data."""

import math
from dataclasses import dataclass

from fbnet_mobile.errors import UserError


@dataclass(frozen=True)
class TrainRecipe:
    """How to train; the defaults suit small mobile networks and tens of epochs.

    Stochastic gradient descent with Nesterov momentum, a linear warm-up and then a cosine to zero, both
    moving with every step (Loshchilov and Hutter 2017); weight decay on weights but not on biases and batch
    norm (He et al. 2019); label smoothing (Szegedy et al. 2016).

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step, of all processes together.
        learning_rate: its peak.
        warmup_epochs: epochs of linear rise to the peak; may be a fraction, and is cut to half of all epochs.
        momentum: Nesterov momentum.
        weight_decay: L2 penalty on weights of two and more dimensions.
        label_smoothing: part of the target spread over all classes.
        ema_decay: decay a step of the moving average of the weights, which is then what is evaluated and
            kept; 0 for none. In the first steps it is (1 + step) / (10 + step) if that is less.
        crop: whether to crop at random.
        flip: whether to mirror at random; None for what suits the data source.
        seed: decides order, augmentation and dropout.
    """

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 0.1
    warmup_epochs: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    ema_decay: float = 0.0
    crop: bool = True
    flip: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            UserError: one of them is.
        """
        bounds: dict[str, tuple[float, float]] = {
            "epochs": (1, math.inf),
            "batch_size": (1, math.inf),
            "learning_rate": (0, math.inf),
            "warmup_epochs": (0, math.inf),
            "momentum": (0, 1),
            "weight_decay": (0, math.inf),
            "label_smoothing": (0, 1),
            "ema_decay": (0, 1),
            "seed": (0, 2**32 - 1),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                span = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
                raise UserError(f"a {name} of {value:g} is impossible; give a value {span}")

    def learning_rate_at(self, epoch: float) -> float:
        """Learning rate after ``epoch`` epochs, fractions of them included."""
        warmup = min(self.warmup_epochs, self.epochs / 2)
        if epoch < warmup:
            return self.learning_rate * epoch / warmup
        return self.learning_rate * (1 + math.cos(math.pi * (epoch - warmup) / (self.epochs - warmup))) / 2
