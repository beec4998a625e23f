"""A limit on what a network may cost."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fbnet_mobile.cost.quantity import QUANTITIES, Quantity
from fbnet_mobile.errors import UserError
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
        quantity: what is limited; None for costs that are no registered quantity, which are shown as counts.
    """

    name: str
    limit: float
    costs: Costs
    fixed: float = 0.0
    peak: bool = False
    where: str = ""
    conditions: Mapping[str, Any] = field(default_factory=dict)
    quantity: Quantity | None = None

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
        name = (self.quantity.name if self.quantity else self.name).replace("_", " ")
        return f"{name} on {self.where}" if self.where else name

    def readable(self, value: float) -> str:
        """A cost for people."""
        return self.quantity.readable(value) if self.quantity else f"{value:,.0f}"

    @property
    def short(self) -> str:
        """The limit in a word, as in the name of a network that was found for it: ``350us`` or ``60000macs``."""
        number = f"{self.limit:.0f}" if self.limit >= 100 else f"{self.limit:.3g}"
        unit = self.quantity.unit if self.quantity else ""
        return number + (unit or self.name)

    @property
    def described(self) -> str:
        """The constraint for people who do not have the table that it was read from."""
        if not self.conditions:
            return str(self)
        table = self.conditions
        threads = f"{table['threads']} thread{'s' if table['threads'] > 1 else ''}"
        return (
            f"{self.label.removesuffix(f' on {self.where}')} of at most {self.readable(self.limit)} by "
            f"{table['runtime']} {table['runtime_version']}, {threads}, {table['precision']}, on {table['device']} "
            f"({table['cpu']})"
        )

    @property
    def digest(self) -> str:
        """What it says that every block costs, in few letters; the limit is no part of it."""
        found = hashlib.sha256(repr((self.fixed, self.peak)).encode())
        for name, array in self.costs.items():
            found.update(name.encode() + array.tobytes())
        return found.hexdigest()

    def __str__(self) -> str:
        """The constraint for people."""
        return f"{self.label} of at most {self.readable(self.limit)}"


def limit_on(
    space: SearchSpace, quantity: str, limit: float, table: LatencyTable | None = None, number: int = 1
) -> Constraint:
    """A limit on a registered quantity.

    Args:
        space: whose networks are limited.
        quantity: its name in ``QUANTITIES``.
        limit: the most that is allowed, in the quantity's unit.
        table: of the device, for a quantity that is read from a table; others ignore it.
        number: counts the limits of one search on the same quantity, as for several devices.

    Raises:
        UserError: no such quantity, the table lacks a candidate of the space, or a cost is no number that can be added.
    """
    found = QUANTITIES.get(quantity)
    source = table if found.from_table else None
    if found.from_table and source is None:
        raise ValueError(f"{quantity} is read from a table; give one")
    costs = space.costs(lambda block: found.block_cost(block, source))
    fixed = found.fixed(source)
    for name, array in {**costs, "every network": np.array(fixed)}.items():
        if not np.all(np.isfinite(array) & (array >= 0)):
            raise UserError(f"the {quantity} of {name} is negative or not finite in places; mend where it comes from")
    return Constraint(
        name=found.column if number == 1 else f"{found.column}_{number}",
        limit=limit,
        costs=costs,
        fixed=fixed,
        peak=found.combine == "max",
        where=source.conditions.device if source else "",
        conditions=asdict(source.conditions) if source else {},
        quantity=found,
    )


def latency_constraint(space: SearchSpace, table: LatencyTable, limit_us: float, number: int = 1) -> Constraint:
    """A limit on the latency that a table predicts, in microseconds; see ``limit_on``."""
    return limit_on(space, "latency", limit_us, table, number)
