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


def cheapest(space: SearchSpace, costs: Costs) -> dict[str, Option]:
    """The assignment of the network whose blocks cost least together; with costs negated, most."""
    chain = Chain(space)
    after = chain.suffix_bounds(costs)
    at: dict[str, int] = {}
    for number, link in enumerate(chain.links, start=1):
        name, names = link.position.name, link.position.names
        free = [each for each in names if each in (*link.fresh, *link.own)]
        found: tuple[float, dict[str, int]] | None = None
        for fresh in chain.combinations(link.fresh):
            chosen = {**at, **dict(zip(link.fresh, fresh, strict=True))}
            index = tuple(slice(None) if each in link.own else chosen[each] for each in names)
            here = np.asarray(costs[name][index])
            least = np.unravel_index(int(here.argmin()), here.shape)
            chosen |= dict(zip((each for each in names if each in link.own), map(int, least), strict=True))
            total = float(here.min()) + after[number][tuple(chosen[each] for each in link.kept)]
            if found is None or total < found[0]:
                found = total, {each: chosen[each] for each in free}
        assert found is not None
        at |= found[1]
    return {name: options[at[name]] for name, options in space.variables.items()}
