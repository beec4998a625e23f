"""From a distribution over networks to one network that meets a budget."""

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fbnet_mobile.errors import UserError
from fbnet_mobile.space import Option, SearchSpace

Costs = Mapping[str, npt.NDArray[np.float64]]
LogProbabilities = Mapping[str, npt.NDArray[np.float64]]

_BUCKETS = 8000
"""Resolution of the budget: each block's cost is rounded up to budget / 8000."""


@dataclass(frozen=True)
class CostRange:
    """The cheapest and the most expensive network of a space, in the unit of the costs."""

    lowest: float
    highest: float


def cost_range(space: SearchSpace, costs: Costs, fixed: float = 0.0) -> CostRange:
    """The exact range of the additive cost over all networks of a space."""
    lowest = _extreme(space, costs)
    highest = -_extreme(space, {name: -array for name, array in costs.items()})
    return CostRange(fixed + lowest, fixed + highest)


def most_probable(
    space: SearchSpace,
    log_probabilities: LogProbabilities,
    costs: Costs,
    budget: float,
    fixed: float = 0.0,
    use_at_least: float = 0.98,
) -> dict[str, Option]:
    """The most probable assignment whose cost is within the budget and uses it.

    Dynamic programming along the chain of blocks: the state is the value of the variables that a later block still
    needs (a stage's width, the resolution) and the cost so far. Exact but for rounding each block's cost up, which
    keeps the result within the budget.

    Args:
        space: the search space.
        log_probabilities: for each variable one log-probability for each option.
        costs: ``SearchSpace.costs``.
        budget: the highest cost allowed, ``fixed`` included.
        fixed: a cost that every network has.
        use_at_least: networks that leave more of the budget unused are taken only if no other meets it: a network that
            could have been larger is rarely the more accurate one.

    Raises:
        UserError: no network of the space is within the budget; the message has the reachable range.
    """
    available = budget - fixed
    bucket = available / _BUCKETS
    shared = _shared_variables(space)
    last_use = {
        name: number for number, position in enumerate(space.positions) for name in position.names if name in shared
    }

    # For each state (values of the live shared variables): the best log-probability for each number of buckets used.
    start = np.full(_BUCKETS + 1, -np.inf)
    start[0] = 0.0
    live: tuple[str, ...] = ()
    states: dict[tuple[int, ...], npt.NDArray[np.float64]] = {(): start}
    steps: list[_Step] = []
    for number, position in enumerate(space.positions):
        step = _Step(position.names, live)
        new = tuple(name for name in position.names if name in shared and name not in live)
        own = tuple(name for name in position.names if name not in shared)
        kept = tuple(name for name in (*live, *new) if last_use[name] > number)
        used = np.ceil(np.maximum(costs[position.name], 0.0) / bucket - 1e-9).astype(int) if bucket > 0 else None
        advanced: dict[tuple[int, ...], npt.NDArray[np.float64]] = {}
        for state, best in states.items():
            if used is None:
                break
            for fresh in itertools.product(*(range(len(space.variables[name])) for name in new)):
                at = dict(zip((*live, *new), (*state, *fresh), strict=True))
                gain = sum(log_probabilities[name][at[name]] for name in new)
                target = tuple(at[name] for name in kept)
                into = advanced.setdefault(target, np.full(_BUCKETS + 1, -np.inf))
                back = step.back.setdefault(target, np.zeros((_BUCKETS + 1, 2), dtype=np.int64))
                for shift, score, choice in _options(position.names, own, at, used, log_probabilities):
                    if shift > _BUCKETS:
                        continue
                    candidate = best[: _BUCKETS + 1 - shift] + (gain + score)
                    better = candidate > into[shift:]
                    into[shift:][better] = candidate[better]
                    back[shift:][better] = (step.remember({**at, **choice}, state), shift)
        states, live = advanced, kept
        steps.append(step)

    final = states.get((), np.full(_BUCKETS + 1, -np.inf))
    if not np.isfinite(final).any():
        reach = cost_range(space, costs, fixed)
        raise UserError(
            f"no network of space {space.name} costs {budget:.4g} or less: "
            f"the reachable range is {reach.lowest:.4g} to {reach.highest:.4g}"
        )
    window = final.copy()
    window[: int(np.floor((use_at_least * budget - fixed) / bucket)) if use_at_least * budget > fixed else 0] = -np.inf
    level = int(np.argmax(window if np.isfinite(window).any() else final))
    return _trace_back(space, steps, level)


class _Step:
    """One position's back-pointers: for each state and level, the number of a remembered choice and its cost."""

    def __init__(self, names: tuple[str, ...], live: tuple[str, ...]) -> None:
        self.names = names
        self.live = live
        self.back: dict[tuple[int, ...], npt.NDArray[np.int64]] = {}
        self.remembered: list[tuple[dict[str, int], tuple[int, ...]]] = []

    def remember(self, at: dict[str, int], state: tuple[int, ...]) -> int:
        self.remembered.append((at, state))
        return len(self.remembered) - 1


def _trace_back(space: SearchSpace, steps: list[_Step], level: int) -> dict[str, Option]:
    assignment: dict[str, Option] = {}
    state: tuple[int, ...] = ()
    for step in reversed(steps):
        number, shift = step.back[state][level]
        at, state = step.remembered[number]
        level -= int(shift)
        assignment |= {name: space.variables[name][index] for name, index in at.items()}
    return assignment


def _options(
    names: tuple[str, ...],
    own: tuple[str, ...],
    at: Mapping[str, int],
    used: npt.NDArray[np.int_],
    log_probabilities: LogProbabilities,
) -> list[tuple[int, float, dict[str, int]]]:
    """For given shared values, each reachable cost with its best own choice: (buckets, log-probability, choice)."""
    costs = used[tuple(slice(None) if name in own else at[name] for name in names)]
    found: dict[int, tuple[float, dict[str, int]]] = {}
    for index in np.ndindex(costs.shape):
        choice = dict(zip(own, index, strict=True))
        score = float(sum(log_probabilities[name][i] for name, i in choice.items()))
        shift = int(costs[index])
        if shift not in found or score > found[shift][0]:
            found[shift] = (score, choice)
    return [(shift, score, choice) for shift, (score, choice) in found.items()]


def _shared_variables(space: SearchSpace) -> set[str]:
    uses = Counter(name for position in space.positions for name in position.names)
    return {name for name, count in uses.items() if count > 1}


def _extreme(space: SearchSpace, costs: Costs) -> float:
    """The lowest sum of costs over all assignments, by the same elimination along the chain."""
    shared = _shared_variables(space)
    last_use = {
        name: number for number, position in enumerate(space.positions) for name in position.names if name in shared
    }
    live: tuple[str, ...] = ()
    states: dict[tuple[int, ...], float] = {(): 0.0}
    for number, position in enumerate(space.positions):
        new = tuple(name for name in position.names if name in shared and name not in live)
        kept = tuple(name for name in (*live, *new) if last_use[name] > number)
        axes = tuple(axis for axis, name in enumerate(position.names) if name not in shared)
        least = costs[position.name].min(axis=axes) if axes else costs[position.name]
        of_shared = [name for name in position.names if name in shared]
        advanced: dict[tuple[int, ...], float] = {}
        for state, cost in states.items():
            for fresh in itertools.product(*(range(len(space.variables[name])) for name in new)):
                at = dict(zip((*live, *new), (*state, *fresh), strict=True))
                target = tuple(at[name] for name in kept)
                total = cost + float(least[tuple(at[name] for name in of_shared)])
                advanced[target] = min(total, advanced.get(target, np.inf))
        states, live = advanced, kept
    return states[()]
