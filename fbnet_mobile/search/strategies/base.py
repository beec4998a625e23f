"""What a search asks of a strategy; the loop around it trains the supernet's weights and knows nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning_fabric import Fabric
from torch import Tensor

from fbnet_mobile.cost.constraint import Constraint
from fbnet_mobile.data.data import Data
from fbnet_mobile.data.split import Split
from fbnet_mobile.registry import Registry
from fbnet_mobile.search.choices import Weights
from fbnet_mobile.search.held_back import HeldBack
from fbnet_mobile.search.recipe import SearchRecipe
from fbnet_mobile.search.supernet import Supernet
from fbnet_mobile.space import Option, SearchSpace


@dataclass(frozen=True)
class SearchContext:
    """What a strategy has to work with.

    Attributes:
        space: with as many classes as the data.
        constraints: what the network must meet; at least one.
        recipe: how to search.
        fabric: where it runs, already launched; a strategy does the same in every process.
        supernet: on the device; its weights are trained by the loop.
        images: what is kept from the weights for the architecture.
        data: whose statistics normalise the images.
        folder: of the run, for what a strategy keeps beside its state; the first process writes.
        trained: whether the supernet begins as a trained network, which each choice's first option is.
        show_progress: whether to show how it goes on.
    """

    space: SearchSpace
    constraints: Sequence[Constraint]
    recipe: SearchRecipe
    fabric: Fabric
    supernet: Supernet
    images: Split
    data: Data
    folder: Path
    trained: bool = False
    show_progress: bool = True


@dataclass(frozen=True)
class Step:
    """A step of the weights or of the architecture.

    Attributes:
        epoch: from 1.
        number: of the weights' step within the epoch, from 1.
        progress: share of the whole search that is done with this step, above 0 and up to 1.
        generator: on the CPU, seeded for this step alone, so that every process draws the same and a search that was
            killed draws again what it drew.
    """

    epoch: int
    number: int
    progress: float
    generator: torch.Generator


@dataclass(frozen=True)
class Learned:
    """What a step on the architecture's images found, of this process's part of the batch.

    Attributes:
        loss: mean cross-entropy, a scalar on the device, detached.
        accuracy: top-1, 0 to 1, a scalar on the device.
    """

    loss: Tensor
    accuracy: Tensor


@dataclass(frozen=True)
class Derived:
    """What a strategy chose in the end.

    Attributes:
        assignment: meets every constraint.
        most_likely: what it would choose without constraints, to see what they cost.
    """

    assignment: Mapping[str, Option]
    most_likely: Mapping[str, Option]


class Strategy(ABC):
    """How architectures are sampled while the weights are trained, learned, and in the end chosen.

    Subclass it, and register the class with ``STRATEGIES.add(name, MyStrategy)``; ``--strategy name`` takes it.
    """

    learns: ClassVar[bool]
    """Whether steps on the architecture's images are to be made, once the warm-up is over."""

    def __init__(self, context: SearchContext) -> None:
        self.context = context

    @abstractmethod
    def sample(self, step: Step) -> Weights:
        """The weights of every option with which the supernet's weights are trained in a step; called without gradient.

        One weight for each option of each variable, (options,) float32 on the device, adding up to 1.
        """

    def follow(self, loss: Tensor, step: Step) -> None:
        """Learn from a step of the weights, whose gradient went through what ``sample`` gave; called if ``trained``.

        Args:
            loss: of the step, a scalar, detached.
            step: which.
        """
        del loss, step

    def learn(self, images: Tensor, labels: Tensor, step: Step) -> Learned:
        """Learn from (B, 3, R, R) normalised images that the weights do not see; called only if ``learns``."""
        raise NotImplementedError(f"{type(self).__name__} says that it learns, but has no learn()")

    def columns(self) -> dict[str, float]:
        """What it adds to the epoch's row of ``log.csv``, with the same names in every epoch."""
        return {}

    def note(self) -> str:
        """How it stands, in a few words for the progress bar; empty for nothing."""
        return ""

    def probabilities(self) -> Weights:
        """Of every option of each variable, as far as it has any, for TensorBoard."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What is needed to continue: tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        del state

    @abstractmethod
    def derive(self) -> Derived:
        """Choose the network, when all epochs are done.

        Raises:
            UserError: nothing was found that meets the constraints.
        """


def held_back(context: SearchContext) -> HeldBack:
    """What measures networks on the images that are kept from the weights."""
    recipe = context.recipe
    return HeldBack(
        context.supernet, context.images, context.data, recipe.candidate_images, recipe.seed, context.fabric.device
    )


STRATEGIES: Registry[type[Strategy]] = Registry("strategy")
