"""From a distribution over networks to one network that meets its budgets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fbnet_mobile.cost.bounds import cost_range, require_reachable
from fbnet_mobile.cost.chain import Chain, Link
from fbnet_mobile.cost.constraint import Constraint
from fbnet_mobile.errors import UserError
from fbnet_mobile.space import Option, SearchSpace

LogProbabilities = Mapping[str, npt.NDArray[np.float64]]
Array = npt.NDArray[Any]

_CELLS = 16_000
"""Into how many cells the budgets are divided; of the prefixes of networks in a cell, one is kept."""


def most_probable(
    space: SearchSpace,
    log_probabilities: LogProbabilities,
    constraints: Sequence[Constraint],
    use_at_least: float = 0.98,
) -> dict[str, Option]:
    """The most probable assignment that meets all constraints and uses at least one of them.

    Dynamic programming along the chain of blocks over prefixes of networks. Prefixes that agree in the variables
    that a later block still needs (a stage's width, the resolution) and whose costs so far lie in the same cell, one of
    16,000 that the budgets are divided into, are compared, and the most probable goes on; those that no suffix could
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
    # With several sums, prefixes that meet each limit alone may have crowded out those that meet all.
    return require_feasible(space, constraints) if found is None else found


def require_feasible(space: SearchSpace, constraints: Sequence[Constraint]) -> dict[str, Option]:
    """Refuse constraints that no network of the space meets together.

    Exact with one constraint on a sum and any number on the largest block. With several sums a network is searched for
    as in ``most_probable``, preferring those that leave most of the limits unused; one may be missed where only very
    few meet all limits. Where this has an answer, so has ``most_probable``.

    Returns:
        The assignment of a network that meets all constraints, one of the smallest.

    Raises:
        UserError: there is none; the message has what each limit could be by itself.
    """
    require_reachable(space, constraints)
    found = _solve(space, None, constraints, 0.0)
    if found is None:
        listed = " and ".join(
            f"{constraint} (alone it can be {constraint.readable(cost_range(space, constraint).lowest)})"
            for constraint in constraints
        )
        raise UserError(f"no network of space {space.name} was found that has {listed}; raise one of them")
    return found


@dataclass
class _Prefixes:
    """Prefixes of networks that agree in the variables still needed, one in each of the cells in use.

    Attributes:
        score: (N,), their log-probabilities.
        cost: (N, constraints).
        before: (N, 3), the numbers of the state they come from, of the prefix there, and of the choice added.
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
    # Of one sum alone, the least is the best prefix there is.
    cells_of_all = 1 if log_probabilities is None and len(sums) == 1 else _CELLS
    along = max(1, int(cells_of_all ** (1 / max(len(sums), 1))))
    strides = along ** np.arange(len(sums))
    allowed = _allowed(space, constraints)
    bounds = [
        chain.suffix_bounds({name: np.where(allowed[name], array, np.inf) for name, array in constraint.costs.items()})
        for constraint in sums
    ]
    states: dict[tuple[int, ...], _Prefixes] = {}
    states[()] = _Prefixes(np.zeros(1), np.zeros((1, len(sums))), np.zeros((1, 3), dtype=np.int64))
    trail = [states]
    for number, link in enumerate(chain.links, start=1):
        grids: dict[tuple[int, ...], _Prefixes] = {}
        for source, (state, prefixes) in enumerate(states.items()):
            order = np.argsort(prefixes.score)  # of two that come into one cell in one assignment, the last one stays
            score, cost = prefixes.score[order], prefixes.cost[order]
            for fresh in chain.combinations(link.fresh):
                at = dict(zip((*link.live, *link.fresh), (*state, *fresh), strict=True))
                target = tuple(at[name] for name in link.kept)
                left = available - np.array([bound[number][target] for bound in bounds])
                if target not in grids:
                    grids[target] = _Prefixes(
                        np.full(along ** len(sums), -np.inf),
                        np.zeros((along ** len(sums), len(sums))),
                        np.zeros((along ** len(sums), 3), dtype=np.int64),
                    )
                into = grids[target]
                for gain, added, choice in _options(link, at, sums, allowed, available, log_probabilities):
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
                states[target] = _Prefixes(grid.score[used], grid.cost[used], grid.before[used], grid.choices)
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
    link: Link,
    at: Mapping[str, int],
    sums: Sequence[Constraint],
    allowed: Mapping[str, Array],
    available: Array,
    log_probabilities: LogProbabilities | None,
) -> list[tuple[float, Array, dict[str, int]]]:
    """For given shared values, each different cost with its best own choice: (log-probability, costs, choice)."""
    name, names = link.position.name, link.position.names
    index = tuple(slice(None) if n in link.own else at[n] for n in names)
    costs = np.stack([constraint.costs[name][index] for constraint in sums], axis=-1) if sums else None
    shared = sum(log_probabilities[n][at[n]] for n in link.fresh) if log_probabilities else 0.0
    found: dict[tuple[float, ...], tuple[float, Array, dict[str, int]]] = {}
    within = np.asarray(allowed[name][index])
    for own in np.ndindex(within.shape):
        if not within[own]:
            continue
        added = costs[own] if costs is not None else np.zeros(0)
        choice = dict(zip(link.own, own, strict=True))
        if log_probabilities is None:
            score = -float((added / available).sum())
        else:
            score = float(shared + sum(log_probabilities[n][i] for n, i in choice.items()))
        key = tuple(added.tolist())
        if key not in found or score > found[key][0]:
            found[key] = (score, added, choice)
    return list(found.values())


def _trace_back(space: SearchSpace, trail: Sequence[dict[tuple[int, ...], _Prefixes]], last: int) -> dict[str, Option]:
    assignment: dict[str, Option] = {}
    prefixes, number = trail[-1][()], last
    for states in reversed(trail[:-1]):
        source, before, choice = prefixes.before[number]
        assignment |= {name: space.variables[name][index] for name, index in prefixes.choices[choice].items()}
        prefixes, number = list(states.values())[source], int(before)
    return {name: assignment[name] for name in space.variables}
