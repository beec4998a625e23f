"""What a search comes to, as plain records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fbnet_mobile.arch import Architecture
from fbnet_mobile.documents import write_json
from fbnet_mobile.errors import JobError
from fbnet_mobile.files import write_whole
from fbnet_mobile.space import Option, SearchSpace

if TYPE_CHECKING:
    from torch import Tensor

    from fbnet_mobile.cost.constraint import Constraint
    from fbnet_mobile.search.confirm import Confirmation

ARCHITECTURE, RESULT, PROBABILITIES = "architecture.yaml", "result.json", "probabilities.csv"


def log_probabilities(folder: Path, epoch: int, probabilities: "Mapping[str, Tensor]", space: SearchSpace) -> None:
    """Add an epoch's line to ``probabilities.csv``; what a run that was killed wrote of it or later is dropped.

    A column is called as its choice and its option: ``stage1.out_channels=16``.

    Raises:
        FbnetError: the folder cannot be written to.
    """
    named = {
        f"{name}={option}": f"{value:.4f}"
        for name, values in probabilities.items()
        if len(values) > 1
        for option, value in zip(space.variables[name], values.tolist(), strict=True)
    }
    path = folder / PROBABILITIES
    head = ",".join(["epoch", *named])
    lines = path.read_text(encoding="utf-8").splitlines() if epoch > 1 and path.is_file() else []
    kept = [line for line in lines[1:] if line.partition(",")[0] in map(str, range(1, epoch))]
    with write_whole(path) as partial:
        text = "\n".join([head, *(kept if lines[:1] == [head] else []), ",".join([str(epoch), *named.values()])])
        partial.write_text(f"{text}\n", encoding="utf-8")


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
        conditions: under which the cost was measured; empty if it is counted.
    """

    name: str
    limit: float
    value: float
    most_likely: float
    conditions: Mapping[str, Any]


@dataclass(frozen=True)
class Searched:
    """What a search came to.

    Attributes:
        space: name of the search space.
        architecture: the most probable network within the constraints.
        assignment: its choices.
        most_likely: the choices of the network that takes each one's most probable option, whatever its costs.
        constraints: how they are met, in the order given.
        history: every epoch.
        rounds: what each network took that was derived, if they were measured.
        within: name of the trained network that was searched; empty if weights began at random.
    """

    space: str
    architecture: Architecture
    assignment: Mapping[str, Option]
    most_likely: Mapping[str, Option]
    constraints: tuple[Met, ...]
    history: tuple[SearchEpoch, ...]
    rounds: "tuple[Confirmation, ...]" = ()
    within: str = ""

    @classmethod
    def of(
        cls,
        space: SearchSpace,
        constraints: "Sequence[Constraint]",
        strategy: str,
        assignment: Mapping[str, Option],
        most_likely: Mapping[str, Option],
        history: Sequence[SearchEpoch],
        rounds: "Sequence[Confirmation]" = (),
        within: str = "",
    ) -> Self:
        """The result of a search whose strategy derived these choices.

        Raises:
            JobError: they exceed a limit, which is the strategy's fault.
        """
        for each in constraints:
            value = each.total(space, assignment)
            if value > each.limit * (1 + 1e-9):
                raise JobError(
                    f"the strategy {strategy} derived a network with {each.label} {each.readable(value)}, above "
                    f"{each.readable(each.limit)}; use another strategy"
                )
        description = f"found in space {space.name} for " + " and ".join(each.described for each in constraints)
        return cls(
            space=space.name,
            architecture=space.architecture(assignment, f"{space.name}-{constraints[0].short}", description),
            assignment=assignment,
            most_likely=most_likely,
            constraints=tuple(
                Met(
                    name=each.name,
                    limit=each.limit,
                    value=each.total(space, assignment),
                    most_likely=each.total(space, most_likely),
                    conditions=each.conditions,
                )
                for each in constraints
            ),
            history=tuple(history),
            rounds=tuple(rounds),
            within=within,
        )

    def save(self, folder: Path) -> None:
        """Write ``architecture.yaml`` and ``result.json``.

        Raises:
            FbnetError: the folder cannot be written to.
        """
        self.architecture.save(folder / ARCHITECTURE)
        content = {
            "constraints": self.constraints,
            **({"measured": self.rounds} if self.rounds else {}),
            "macs": self.architecture.macs,
            "params": self.architecture.params,
            "peak_activations": self.architecture.peak_activations,
            "space": self.space,
            **({"within": self.within} if self.within else {}),
            "assignment": self.assignment,
            "most_likely": self.most_likely,
        }
        write_json(folder / RESULT, content)
