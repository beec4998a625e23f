"""How to search, as plain data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from fbnet_mobile.recipe import SEEDS, Option, check, option, output_option

Mode = Literal["shared", "candidates", "paths"]
Objective = Literal["constraint", "product"]

_TASK, _WEIGHTS, _SEARCH, _EVOLUTION = "Network", "Weights", "Search", "Evolution"

_IMAGES_SEEN, _EPOCHS = 200_000, (6, 60)
"""How many images the weights see by default, and the fewest and most epochs that it takes: with 5,000 images 40 epochs
were better than 12, and with 45,000 six are enough (docs/search.md)."""
_WITHIN_SEEN, _WITHIN_EPOCHS = 40_000, (8, 60)
"""The same within a trained network, whose weights have seen more already: 8 epochs of 5,000 images."""
_LOGITS_MOVE, _RATES = 14.0, (0.01, 0.1)
"""Steps of the architecture parameters times their learning rate, where searches ended decided (docs/search.md), and
the least and greatest rate; the least is the papers'."""
_FITTED = "0: fitted to the number of images"
_LARGEST_BATCH, _FEWEST_STEPS, _WITHIN_STEPS = 64, 4, 8
"""Images a step by default, and in how many steps an epoch of the architecture's images is to be made at least; within
a trained network, where both are learned in the same steps, one of the weights'."""


@dataclass(frozen=True)
class SearchRecipe:
    """How to search.

    Defaults after FBNet (arXiv 1812.03443, section 4.1) and FBNetV2 (arXiv 2004.05565, section 4.1): weights by SGD on
    80 % of the training images, architecture parameters by Adam on the rest, frozen for the first epochs, and a
    temperature that falls from 5 by a factor of 0.956 an epoch, which is to 0.087 after 90 epochs. Here the temperature
    falls with every step from its start to its end however many epochs there are, and those, the batch size and the
    architecture's learning rate are fitted to the number of images where they are 0 (``fitted``).

    Attributes are described by the help of their options.
    """

    strategy: str = option(
        "gradient", group=_SEARCH, help="How architectures are sampled and chosen: gradient, evolution, or a plugin's."
    )
    epochs: int = option(
        0,
        group=_WEIGHTS,
        low=0,
        high=100_000,
        shown=_FITTED,
        help="Passes over the images for the weights.",
    )
    batch_size: int = option(
        0,
        group=_WEIGHTS,
        low=0,
        high=1_000_000,
        shown=_FITTED,
        help="Images a step, over all processes.",
    )
    learning_rate: float = option(
        0.1,
        given={"within": 0.02},
        group=_WEIGHTS,
        above=0,
        help="Of the weights, at its peak; it falls to zero as a cosine.",
    )
    momentum: float = option(0.9, group=_WEIGHTS, low=0, below=1, help="Of the weights.")
    weight_decay: float = option(1e-4, group=_WEIGHTS, low=0, help="Of the weights.")
    warmup: float = option(
        0.11,
        given={"within": 0.25},
        group=_WEIGHTS,
        low=0,
        high=0.9,
        help="Share of the epochs that trains the weights only.",
    )
    weight_share: float = option(
        0.8,
        given={"within": 0.9},
        group=_WEIGHTS,
        above=0,
        below=1,
        help="Share of the training images for the weights; the rest is for the architecture parameters.",
    )
    architecture_learning_rate: float = option(
        0.0, given={"within": 0.1}, group=_SEARCH, low=0, shown=_FITTED, help="Of the architecture parameters."
    )
    architecture_weight_decay: float = option(
        5e-4, given={"within": 0.0}, group=_SEARCH, low=0, help="Of the architecture parameters."
    )
    temperature_start: float = option(
        5.0, given={"within": 1.0}, group=_SEARCH, above=0, help="Of Gumbel-softmax, in the first step."
    )
    temperature_end: float = option(
        0.087, given={"within": 0.3}, group=_SEARCH, above=0, help="Of Gumbel-softmax, in the last step."
    )
    multiplier_rate: float = option(
        0.05,
        group=_SEARCH,
        low=0,
        help="By how much the multiplier of a constraint grows in a step at which the "
        "expected cost is twice the limit.",
    )
    mode: Mode = option(
        "shared",
        group=_SEARCH,
        help="How kernels, squeeze-excite, activations and whole candidates are weighed: shared (one block with "
        "masks), candidates (parallel blocks), or paths (a module for each possible block).",
    )
    one_resolution: bool = option(
        True,
        group=_SEARCH,
        names=("--one-resolution/--all-resolutions",),
        help="In a step, run one input resolution of the space, drawn at random, or all.",
    )
    objective: Objective = option(
        "constraint",
        group=_SEARCH,
        help="constraint: the latency is a constraint whose multiplier is learned. product: FBNet's cross-entropy x "
        "alpha x log(latency)^beta, with the first table's latency in us; the target is met when deriving.",
    )
    alpha: float = option(0.2, group=_SEARCH, help="Of the product.")
    beta: float = option(0.6, group=_SEARCH, help="Of the product.")
    population: int = option(
        50, group=_EVOLUTION, low=2, high=1_000_000, help="Networks of a generation; the best fifth has children."
    )
    generations: int = option(
        20, group=_EVOLUTION, low=1, high=1_000_000, help="How many there are, the first at random."
    )
    mutation_rate: float = option(
        0.1, group=_EVOLUTION, above=0, high=1, help="Probability with which a choice of a mutated network changes."
    )
    candidate_images: int = option(
        2000,
        group=_EVOLUTION,
        low=1,
        high=1_000_000_000,
        help="Held-back images on which a network is measured, at most.",
    )
    channel_order: Literal["images", "weights"] = option(
        "images",
        group=_SEARCH,
        help="By what the channels of a trained network are ordered, of which the first are kept: what the loss would "
        "lose by them, or the sizes of the weights that read them.",
    )
    distillation_weight: float = option(
        0.5,
        group=_WEIGHTS,
        low=0,
        high=1,
        help="Share of the trained network's part in the loss of the weights, where one is searched.",
    )
    distillation_temperature: float = option(
        2.0, group=_WEIGHTS, above=0, high=1000, help="By which the logits of both are then divided."
    )
    seed: int = option(0, group=_WEIGHTS, low=0, high=SEEDS, help="Of order, augmentation and Gumbel noise.")

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            UserError: one of them is.
        """
        check(self)

    def fitted(self, images: int, within: bool = False) -> "SearchRecipe":
        """The recipe with the fields that are 0 fitted to a number of training images; see docs/search.md.

        Args:
            images: for training.
            within: a trained network is searched.
        """
        architecture_images = int((1 - self.weight_share) * images)
        seen, epochs_taken = (_WITHIN_SEEN, _WITHIN_EPOCHS) if within else (_IMAGES_SEEN, _EPOCHS)
        of_a_step = int(self.weight_share * images) // _WITHIN_STEPS if within else architecture_images // _FEWEST_STEPS
        batch_size = self.batch_size or 2 ** int(math.log2(max(2, min(_LARGEST_BATCH, of_a_step))))
        epochs = self.epochs or _between(epochs_taken, round(seen / max(images, 1)))
        steps = (1 - self.warmup) * epochs * max(1, architecture_images // batch_size)
        rate = self.architecture_learning_rate or float(f"{_between(_RATES, _LOGITS_MOVE / steps):.2g}")
        return replace(self, batch_size=batch_size, epochs=epochs, architecture_learning_rate=rate)

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


_Number = TypeVar("_Number", int, float)


def _between(bounds: tuple[_Number, _Number], value: _Number) -> _Number:
    least, most = bounds
    return max(least, min(most, value))


def _limits() -> Mapping[str, Option]:
    """The options that limit a cost, of plugins' costs too."""
    from fbnet_mobile.cost.quantity import QUANTITIES

    quantities = [QUANTITIES.get(name) for name in QUANTITIES if name != "latency"]
    return {
        f"max_{quantity.name}": Option(
            f"{quantity.help.rstrip('.')}, such as {quantity.example}.", group=_TASK, shown="no limit"
        )
        for quantity in quantities
    }


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Among which networks is searched, and within what limits."""

    latency_table: tuple[Path, ...] = option(
        (),
        group=_TASK,
        shown="none",
        help="Table that fbnet-profile wrote for the device; give it again for a second device.",
    )
    target_latency: tuple[str, ...] = option(
        (),
        group=_TASK,
        shown="none",
        help="Budget such as 12ms or 350us, one for each table in the order of the tables. Several, as 3ms,5ms,8ms, "
        "are that many searches with one warm-up, each into a folder of its own.",
    )
    limits: Mapping[str, str] = option({}, help="Of counted costs, as a user writes them.", each=_limits)
    space: str | None = option(
        None,
        group=_TASK,
        known="space",
        shown="the first table's; without a table by the images and the limits",
        help="Search space: a packaged one or a YAML file.",
    )
    within: Path | None = option(
        None,
        group=_TASK,
        shown="none",
        help="Checkpoint of a trained network: search for what of it to keep, starting as that network.",
    )
    resolution: str | None = option(
        None, group=_TASK, shown="the space's", help="Pixels of the input, instead of the space's: 96, or 64,96."
    )


@dataclass(frozen=True, kw_only=True)
class SearchTask:
    """What is searched for."""

    output: Path = output_option(group=_TASK, help="Folder of the run.")
    wanted: Wanted
    device: str | None = option(
        None,
        group=_TASK,
        known="device",
        shown="none",
        help="The table's device: measure there what is found, correct the table by it, and derive again until it "
        "takes at most the target and at least 97 % of it; at most four times.",
    )
    tensorboard: bool = option(False, group=_TASK, help="Write TensorBoard files into the output folder too.")
