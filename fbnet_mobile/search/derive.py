"""From a distribution over networks to one network that meets its budgets."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fbnet_mobile.cost.constraint import Constraint, Costs
from fbnet_mobile.errors import UserError
from fbnet_mobile.space import Option, Position, SearchSpace

LogProbabilities = Mapping[str, npt.NDArray[np.float64]]
Array = npt.NDArray[Any]

_CELLS = 16_000
"""Into how many cells the budgets are divided; of the beginnings of networks in a cell, one is kept."""


@dataclass(frozen=True)
class CostRange:
    """The cheapest and the most expensive network of a space, in the unit of the costs."""

    lowest: float
    highest: float


@dataclass(frozen=True)
class Step:
    """One position of a chain, and what is known before and after it.

    Attributes:
        position: the position.
        live: variables of earlier positions that this or a later one needs.
        fresh: shared variables that appear here for the first time.
        own: variables of this position alone.
        kept: variables that a later position needs.
    """

    position: Position
    live: tuple[str, ...]
    fresh: tuple[str, ...]
    own: tuple[str, ...]
    kept: tuple[str, ...]


class Chain:
    """The positions of a space with the order in which their variables can be eliminated."""

    def __init__(self, space: SearchSpace) -> None:
        uses = Counter(name for position in space.positions for name in position.names)
        last_use = {name: number for number, position in enumerate(space.positions) for name in position.names}
        self.space = space
        self.steps: list[Step] = []
        live: tuple[str, ...] = ()
        for number, position in enumerate(space.positions):
            fresh = tuple(name for name in position.names if uses[name] > 1 and name not in live)
            own = tuple(name for name in position.names if uses[name] == 1)
            kept = tuple(name for name in (*live, *fresh) if last_use[name] > number)
            self.steps.append(Step(position, live, fresh, own, kept))
            live = kept

    def combinations(self, names: Sequence[str]) -> Iterator[tuple[int, ...]]:
        """All combinations of option numbers of some variables."""
        return itertools.product(*(range(len(self.space.variables[name])) for name in names))

    def least(
        self, costs: Costs, combine: Callable[[float, float], float] = lambda a, b: a + b
    ) -> list[dict[tuple[int, ...], float]]:
        """For each position, and one more, the least that it and what follows cost, by the values of ``live``."""
        after: list[dict[tuple[int, ...], float]] = [{(): 0.0}]
        for step in reversed(self.steps):
            array, names = costs[step.position.name], step.position.names
            axes = tuple(names.index(name) for name in step.own)
            least = array.min(axis=axes) if axes else array
            shared = [name for name in names if name not in step.own]
            before: dict[tuple[int, ...], float] = {}
            for state in self.combinations(step.live):
                for fresh in self.combinations(step.fresh):
                    at = dict(zip((*step.live, *step.fresh), (*state, *fresh), strict=True))
                    here = float(least[tuple(at[name] for name in shared)])
                    total = combine(here, after[-1][tuple(at[name] for name in step.kept)])
                    before[state] = min(total, before.get(state, np.inf))
            after.append(before)
        return after[::-1]


def cost_range(space: SearchSpace, costs: Costs, fixed: float = 0.0) -> CostRange:
    """The exact range of the additive cost over all networks of a space."""
    chain = Chain(space)
    lowest = chain.least(costs)[0][()]
    highest = -chain.least({name: -array for name, array in costs.items()})[0][()]
    return CostRange(fixed + lowest, fixed + highest)


def require_reachable(space: SearchSpace, constraints: Sequence[Constraint]) -> None:
    """Refuse a constraint that no network of the space meets.

    Raises:
        UserError: there is one; the message has the reachable range.
    """
    for constraint in constraints:
        if constraint.peak:
            lowest = Chain(space).least(constraint.costs, max)[0][()]
            reach = CostRange(lowest, max(float(array.max()) for array in constraint.costs.values()))
        else:
            reach = cost_range(space, constraint.costs, constraint.fixed)
        if constraint.limit < reach.lowest:
            raise UserError(
                f"no network of space {space.name} has {constraint}: the reachable range is "
                f"{constraint.readable(reach.lowest)} to {constraint.readable(reach.highest)}"
            )


def most_probable(
    space: SearchSpace,
    log_probabilities: LogProbabilities,
    constraints: Sequence[Constraint],
    use_at_least: float = 0.98,
) -> dict[str, Option]:
    """The most probable assignment that meets all constraints and uses at least one of them.

    Dynamic programming along the chain of blocks over beginnings of networks. Beginnings that agree in the variables
    that a later block still needs (a stage's width, the resolution) and whose costs so far lie in the same cell, one of
    16,000 that the budgets are divided into, are compared, and the most probable goes on; those that no ending could
    bring within each of the budgets are left out before. Costs are never rounded, so the result meets every constraint.
    With one constraint a cell is 1/16,000 of it: the result is as probable as any network that is cheaper by that
    much for each of its blocks. With more the cells are coarser (1/126 of each of two, 1/25 of each of three), and it
    is close to the most probable without a guarantee. A limit on the largest block only leaves blocks out.

    Args:
        space: the search space.
        log_probabilities: for each variable one log-probability for each option.
        constraints: what must be met.
        use_at_least: networks that leave more of every budget unused are taken only if no other meets them: a network
            that could have been larger is rarely the more accurate one.

    Raises:
        UserError: no network of the space was found to meet the constraints.
    """
    require_reachable(space, constraints)
    found = _solve(space, log_probabilities, constraints, use_at_least)
    if (
        found is None
    ):  # with several constraints, beginnings that meet each alone may have crowded out those that meet all
        found = _solve(space, None, constraints, 0.0)
    if found is None:
        listed = " and ".join(str(constraint) for constraint in constraints)
        raise UserError(f"no network of space {space.name} was found that has {listed}; raise one of them")
    return found


@dataclass
class _Beginnings:
    """Beginnings of networks that agree in the variables still needed, one in each of the cells in use.

    Attributes:
        score: (N,), their log-probabilities.
        cost: (N, constraints).
        before: (N, 3), the numbers of the state they come from, of the beginning there, and of the choice added.
    """

    score: Array
    cost: Array
    before: Array
    choices: list[dict[str, int]] = field(default_factory=list)


def _solve(
    space: SearchSpace,
    log_probabilities: LogProbabilities | None,
    constraints: Sequence[Constraint],
    use_at_least: float,
) -> dict[str, Option] | None:
    """See ``most_probable``; without probabilities, the network that leaves most of the budgets unused."""
    chain = Chain(space)
    sums = [constraint for constraint in constraints if not constraint.peak]
    available = np.array([constraint.limit - constraint.fixed for constraint in sums])
    if (available <= 0).any():
        return None
    along = max(1, int(_CELLS ** (1 / max(len(sums), 1))))
    strides = along ** np.arange(len(sums))
    allowed = _allowed(space, constraints)
    endings = [
        chain.least({name: np.where(allowed[name], array, np.inf) for name, array in constraint.costs.items()})
        for constraint in sums
    ]
    states: dict[tuple[int, ...], _Beginnings] = {}
    states[()] = _Beginnings(np.zeros(1), np.zeros((1, len(sums))), np.zeros((1, 3), dtype=np.int64))
    trail = [states]
    for number, step in enumerate(chain.steps, start=1):
        grids: dict[tuple[int, ...], _Beginnings] = {}
        for source, (state, begun) in enumerate(states.items()):
            order = np.argsort(begun.score)  # of two that come into one cell in one assignment, the last one stays
            score, cost = begun.score[order], begun.cost[order]
            for fresh in chain.combinations(step.fresh):
                at = dict(zip((*step.live, *step.fresh), (*state, *fresh), strict=True))
                target = tuple(at[name] for name in step.kept)
                left = available - np.array([ending[number][target] for ending in endings])
                if target not in grids:
                    grids[target] = _Beginnings(
                        np.full(along ** len(sums), -np.inf),
                        np.zeros((along ** len(sums), len(sums))),
                        np.zeros((along ** len(sums), 3), dtype=np.int64),
                    )
                into = grids[target]
                for gain, added, choice in _options(step, at, sums, allowed, available, log_probabilities):
                    total = cost + added
                    fits = np.flatnonzero((total <= left).all(1))
                    if not len(fits):
                        continue
                    cells = np.minimum((total[fits] / available * along).astype(np.int64), along - 1) @ strides
                    candidates = score[fits] + gain
                    better = candidates > into.score[cells]
                    cells, fits = cells[better], fits[better]
                    into.score[cells], into.cost[cells] = candidates[better], total[fits]
                    into.before[cells] = np.stack(
                        [np.full(len(fits), source), order[fits], np.full(len(fits), len(into.choices))], axis=1
                    )
                    into.choices.append({**at, **choice})
        states = {}
        for target, grid in grids.items():
            used = np.flatnonzero(np.isfinite(grid.score))
            if len(used):
                states[target] = _Beginnings(grid.score[used], grid.cost[used], grid.before[used], grid.choices)
        trail.append(states)
    if () not in states:
        return None
    final = states[()]
    limits = np.array([constraint.limit for constraint in sums])
    use = ((final.cost + limits - available) / limits).max(1) if sums else np.ones(len(final.score))
    window = np.where(use >= use_at_least, final.score, -np.inf)
    return _trace_back(space, trail, int(np.argmax(window if np.isfinite(window).any() else final.score)))


def _allowed(space: SearchSpace, constraints: Sequence[Constraint]) -> dict[str, Array]:
    """For each position which of its blocks are within all limits on the largest block."""
    found = {}
    for position in space.positions:
        allowed = np.ones([len(options) for options in position.variables.values()], dtype=bool)
        for constraint in constraints:
            if constraint.peak:
                allowed &= constraint.costs[position.name] <= constraint.limit
        found[position.name] = allowed
    return found


def _options(
    step: Step,
    at: Mapping[str, int],
    sums: Sequence[Constraint],
    allowed: Mapping[str, Array],
    available: Array,
    log_probabilities: LogProbabilities | None,
) -> list[tuple[float, Array, dict[str, int]]]:
    """For given shared values, each different cost with its best own choice: (log-probability, costs, choice)."""
    name, names = step.position.name, step.position.names
    index = tuple(slice(None) if n in step.own else at[n] for n in names)
    costs = np.stack([constraint.costs[name][index] for constraint in sums], axis=-1) if sums else None
    shared = sum(log_probabilities[n][at[n]] for n in step.fresh) if log_probabilities else 0.0
    found: dict[tuple[float, ...], tuple[float, Array, dict[str, int]]] = {}
    within = np.asarray(allowed[name][index])
    for own in np.ndindex(within.shape):
        if not within[own]:
            continue
        added = costs[own] if costs is not None else np.zeros(0)
        choice = dict(zip(step.own, own, strict=True))
        if log_probabilities is None:
            score = -float((added / available).sum())
        else:
            score = float(shared + sum(log_probabilities[n][i] for n, i in choice.items()))
        key = tuple(added.tolist())
        if key not in found or score > found[key][0]:
            found[key] = (score, added, choice)
    return list(found.values())


def _trace_back(
    space: SearchSpace, trail: Sequence[dict[tuple[int, ...], _Beginnings]], last: int
) -> dict[str, Option]:
    assignment: dict[str, Option] = {}
    begun, number = trail[-1][()], last
    for states in reversed(trail[:-1]):
        source, before, choice = begun.before[number]
        assignment |= {name: space.variables[name][index] for name, index in begun.choices[choice].items()}
        begun, number = list(states.values())[source], int(before)
    return {name: assignment[name] for name in space.variables}
