"""What the networks of a space cost at least and at most, and limits held against it before a search begins."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fbnet_mobile.cost.chain import Chain
from fbnet_mobile.cost.constraint import Constraint, Costs
from fbnet_mobile.errors import UserError
from fbnet_mobile.space import Option, SearchSpace

_ROUNDING = 1 + 1e-9
"""By how much two sums of the same costs in another order may differ."""


@dataclass(frozen=True)
class CostRange:
    """The cheapest and the most expensive network of a space, in the unit of the costs."""

    lowest: float
    highest: float


def cost_range(space: SearchSpace, constraint: Constraint) -> CostRange:
    """The exact range of what is constrained over all networks of a space, whatever the limit."""
    chain = Chain(space)
    if constraint.peak:
        lowest = chain.suffix_bounds(constraint.costs, max)[0][()]
        return CostRange(lowest, max(float(array.max()) for array in constraint.costs.values()))
    lowest = chain.suffix_bounds(constraint.costs)[0][()]
    highest = -chain.suffix_bounds({name: -array for name, array in constraint.costs.items()})[0][()]
    return CostRange(constraint.fixed + lowest, constraint.fixed + highest)


def cheapest(space: SearchSpace, costs: Costs) -> dict[str, Option]:
    """The assignment of a network whose blocks cost least together; with negated costs, of one that costs most."""
    chain = Chain(space)
    bounds = chain.suffix_bounds(costs)
    at: dict[str, int] = {}
    for link, after in zip(chain.links, bounds[1:], strict=True):
        names = link.position.names
        array = costs[link.position.name]
        least = np.inf
        chosen: dict[str, int] = {}
        for fresh in chain.combinations(link.fresh):
            known = {**at, **dict(zip(link.fresh, fresh, strict=True))}
            part = array[tuple(slice(None) if name in link.own else known[name] for name in names)]
            own = np.unravel_index(int(part.argmin()), part.shape)
            total = float(part[own]) + after[tuple(known[name] for name in link.kept)]
            if total < least:
                named = [name for name in names if name in link.own]
                least, chosen = total, {**known, **{name: int(n) for name, n in zip(named, own, strict=True)}}
        at = chosen
    return {name: options[at[name]] for name, options in space.variables.items()}


def clamped(space: SearchSpace, constraint: Constraint) -> tuple[Constraint, str]:
    """The constraint with a limit that is no larger than the space's largest network, and what to say of it.

    A search takes networks that use most of a limit. Above the largest network there are none, so that a limit there
    would say nothing of what is wanted.

    Returns:
        The constraint as it is and an empty text, or one whose limit is the largest network, which it allows, and a
        line that says so.
    """
    largest = cost_range(space, constraint).highest
    if constraint.limit <= largest * _ROUNDING:
        return constraint, ""
    return replace(constraint, limit=largest * _ROUNDING), (
        f"no network of space {space.name} has {constraint.label} above {constraint.readable(largest)}: that is the "
        f"limit instead of {constraint.readable(constraint.limit)}"
    )


def require_reachable(space: SearchSpace, constraints: Sequence[Constraint]) -> None:
    """Refuse a constraint that no network of the space meets by itself; ``require_feasible`` takes them together.

    Raises:
        UserError: there is one; the message has the reachable range.
    """
    for constraint in constraints:
        reach = cost_range(space, constraint)
        if constraint.limit < reach.lowest:
            raise UserError(
                f"no network of space {space.name} has {constraint}: the reachable range is "
                f"{constraint.readable(reach.lowest)} to {constraint.readable(reach.highest)}"
            )
