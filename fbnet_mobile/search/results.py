"""What a search comes to, as plain records."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fbnet_mobile.arch import Architecture
from fbnet_mobile.space import Option


@dataclass(frozen=True)
class SearchEpoch:
    """One line of ``log.csv``.

    Attributes:
        epoch: its number, from 1.
        weight_loss: mean cross-entropy on the weights' images.
        architecture_loss: mean cross-entropy on the architecture's images; None while nothing is learnt of them.
        architecture_accuracy: top-1 on the same images with sampled architectures, 0 to 1; None likewise.
        seconds: time it took.
        strategy: what the strategy adds, by name, such as ``temperature``, ``expected_latency_us``, ``confidence``.
    """

    epoch: int
    weight_loss: float
    architecture_loss: float | None
    architecture_accuracy: float | None
    seconds: float
    strategy: dict[str, float] = field(default_factory=dict)

    def columns(self) -> dict[str, float | None]:
        """Everything by name, one number each."""
        return {
            "epoch": self.epoch,
            "weight_loss": self.weight_loss,
            "architecture_loss": self.architecture_loss,
            "architecture_accuracy": self.architecture_accuracy,
            **self.strategy,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Met:
    """How a derived network meets a constraint.

    Attributes:
        name: of the cost, with its unit.
        limit: the most that was allowed.
        value: what the network costs.
        most_likely: what the network would cost that takes each choice's most probable option, whatever its cost.
    """

    name: str
    limit: float
    value: float
    most_likely: float


@dataclass(frozen=True)
class SearchResult:
    """What a search came to.

    Attributes:
        architecture: the most probable network within the constraints.
        assignment: its choices.
        most_likely: the choices of the network that takes each one's most probable option, whatever its costs.
        constraints: how they are met, in the order given.
        history: every epoch.
    """

    architecture: Architecture
    assignment: Mapping[str, Option]
    most_likely: Mapping[str, Option]
    constraints: tuple[Met, ...]
    history: tuple[SearchEpoch, ...]
