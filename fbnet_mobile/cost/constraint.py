"""What a network may cost: latency by a table, multiply-accumulates, parameters, memory of activations."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fbnet_mobile.latency.table import LatencyTable
from fbnet_mobile.space import Option, SearchSpace

Costs = Mapping[str, npt.NDArray[np.float64]]
"""For each position of a space an array of block costs (``SearchSpace.costs``)."""


@dataclass(frozen=True)
class Constraint:
    """A limit on a cost that a network has block by block.

    Attributes:
        name: of the cost, with its unit where it has one, as in a column of a log: "latency_us".
        limit: the most that is allowed.
        costs: of each block, for each position one array.
        fixed: a cost that every network has besides.
        peak: whether the cost of a network is the largest of its blocks' instead of their sum.
        where: what it was measured on, for people; empty if it is counted.
        conditions: under which it was measured; empty if it is counted.
    """

    name: str
    limit: float
    costs: Costs
    fixed: float = 0.0
    peak: bool = False
    where: str = ""
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def total(self, space: SearchSpace, assignment: Mapping[str, Option]) -> float:
        """What the network of an assignment costs."""
        blocks = [
            float(self.costs[position.name][tuple(o.index(assignment[name]) for name, o in position.variables.items())])
            for position in space.positions
        ]
        return max(blocks) if self.peak else self.fixed + sum(blocks)

    @property
    def label(self) -> str:
        """The name of the cost for people."""
        return f"latency on {self.where}" if self.where else self.name.replace("_", " ")

    def readable(self, value: float) -> str:
        """A cost for people."""
        return f"{value:.1f} us" if self.where else f"{value:,.0f}"

    def __str__(self) -> str:
        """The constraint for people."""
        return f"{self.label} of at most {self.readable(self.limit)}"


def latency_constraint(space: SearchSpace, table: LatencyTable, limit_us: float, number: int = 1) -> Constraint:
    """A latency by a table; ``number`` counts the tables of one search.

    Raises:
        UserError: the table lacks a candidate of the space.
    """
    return Constraint(
        name="latency_us" if number == 1 else f"latency_us_{number}",
        limit=limit_us,
        costs=space.costs(table.block_us),
        fixed=table.fixed_us,
        where=table.conditions.device,
        conditions=asdict(table.conditions),
    )


Count = Literal["macs", "params", "peak_activations"]


def count_constraint(space: SearchSpace, count: Count, limit: float) -> Constraint:
    """A limit on multiply-accumulates, on parameters, or on the values of feature maps alive at once."""
    return Constraint(
        count, limit, space.costs(lambda block: float(getattr(block, count))), peak=count == "peak_activations"
    )
