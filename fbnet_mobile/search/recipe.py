"""How to search, as plain data."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from fbnet_mobile.errors import UserError

Mode = Literal["shared", "candidates", "paths"]
Objective = Literal["constraint", "product"]


@dataclass(frozen=True)
class SearchRecipe:
    """How to search.

    Defaults after FBNet (arXiv 1812.03443, section 4.1) and FBNetV2 (arXiv 2004.05565, section 4.1): 90 epochs, weights
    by SGD on 80 % of the training images, architecture parameters by Adam on the rest, frozen for the first epochs, and
    a temperature that falls from 5 by a factor of 0.956 an epoch, which is to 0.087 after 90 epochs. Here the
    temperature falls with every step from its start to its end however many epochs there are.

    Attributes:
        epochs: passes over the weights' images.
        batch_size: images a step, of all processes together.
        learning_rate: of the weights, falling to zero as a cosine.
        momentum: of the weights.
        weight_decay: of the weights.
        warmup: share of the epochs in which only the weights are trained.
        architecture_learning_rate: of the architecture parameters.
        architecture_weight_decay: of the architecture parameters.
        temperature_start: of Gumbel-softmax.
        temperature_end: of Gumbel-softmax.
        weight_share: share of the training images that the weights are trained on.
        mode: how the choices of a block that are not widths are run (``Supernet``).
        one_resolution: run one input resolution a step, drawn by the Gumbel-softmax weights, with the gradient of its
            weight (straight-through), instead of all of them.
        multiplier_rate: by how much the multiplier of a constraint grows in a step at which the expected cost is twice
            the limit.
        objective: ``constraint``: cross-entropy, with the first latency as a constraint; ``product``: FBNet's
            cross-entropy x alpha x log(E[latency in us])^beta (equation 2). The budget is met in both when the network
            is derived; other costs are constraints in both.
        alpha: of the product.
        beta: of the product.
        seed: decides order, augmentation and Gumbel noise.
    """

    epochs: int = 90
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup: float = 0.11
    architecture_learning_rate: float = 0.01
    architecture_weight_decay: float = 5e-4
    temperature_start: float = 5.0
    temperature_end: float = 0.087
    weight_share: float = 0.8
    mode: Mode = "shared"
    one_resolution: bool = False
    multiplier_rate: float = 0.05
    objective: Objective = "constraint"
    alpha: float = 0.2
    beta: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            UserError: one of them is.
        """
        for name in (
            "epochs",
            "batch_size",
            "learning_rate",
            "architecture_learning_rate",
            "temperature_end",
        ):
            if getattr(self, name) <= 0:
                raise UserError(f"a {name} of {getattr(self, name):g} is impossible; give a positive number")
        for name in ("warmup", "weight_share"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"a {name} of {getattr(self, name):g} is impossible; give a number from 0 to below 1")
        for name, known in (("mode", get_args(Mode)), ("objective", get_args(Objective))):
            if getattr(self, name) not in known:
                raise UserError(f"unknown {name} {getattr(self, name)!r}; choose one of {', '.join(known)}")

    @property
    def shared_epochs(self) -> int:
        """Whole epochs of warm-up, in which searches for other budgets do just the same."""
        return int(self.warmup * self.epochs)

    def temperature_at(self, progress: float) -> float:
        """Temperature after a share of the search, from 0 to 1."""
        return float(self.temperature_start * (self.temperature_end / self.temperature_start) ** progress)

    def learning_rate_at(self, progress: float) -> float:
        """Learning rate of the weights after a share of the search, from 0 to 1; a short linear rise comes first."""
        rise = min(1.0, progress / 0.05)
        return self.learning_rate * rise * (1 + math.cos(math.pi * progress)) / 2
