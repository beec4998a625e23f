"""What a distribution over networks costs on average."""

import string
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from fbnet_mobile.cost.chain import Chain
from fbnet_mobile.cost.constraint import Constraint, Costs
from fbnet_mobile.space import SearchSpace

_LEVELS = 64

Probabilities = Mapping[str, Tensor]
"""For each variable of a space one probability for each of its options."""


def expected_cost(space: SearchSpace, constraint: Constraint) -> "ExpectedCost | ExpectedPeak":
    """The module that computes the expectation of what is constrained."""
    if constraint.peak:
        return ExpectedPeak(space, constraint.costs)
    return ExpectedCost(space, constraint.costs, constraint.fixed)


class ExpectedCost(nn.Module):
    """The exact expectation of an additive cost when each variable is drawn independently.

    E = fixed + sum over positions of sum over option combinations of (product of their probabilities) x cost. A width
    that several blocks share is one variable, so its joint distribution is exact.

    Args:
        space: the search space.
        costs: for each position an array with one axis for each of its variables (``SearchSpace.costs``).
        fixed: a cost that every network has.
    """

    def __init__(self, space: SearchSpace, costs: Costs, fixed: float = 0.0) -> None:
        super().__init__()
        self._names = [position.names for position in space.positions]
        self.fixed = fixed
        for number, position in enumerate(space.positions):
            array = torch.as_tensor(costs[position.name], dtype=torch.float32)
            self.register_buffer(f"costs{number}", array, persistent=False)

    def forward(self, probabilities: Probabilities) -> Tensor:
        """The expected cost, a scalar in the unit of the costs, differentiable in the probabilities."""
        total = next(iter(probabilities.values())).new_tensor(self.fixed)
        for number, names in enumerate(self._names):
            expected: Tensor = getattr(self, f"costs{number}")
            for name in reversed(names):
                expected = expected @ probabilities[name]
            total = total + expected
        return total


class ExpectedPeak(nn.Module):
    """The expectation of a network's largest block cost when each variable is drawn independently.

    E[max] = sum over levels v of v x (P(all blocks <= v) - P(all blocks <= the level below)); the probabilities are
    exact, by eliminating the variables along the chain of blocks. With at most 64 different costs that could be the
    largest, each is a level and the expectation is exact. With more, each is rounded up to one of 64 levels spaced
    evenly by ratio, and the result is an upper bound, which is too large by less than the ratio of two levels.

    Args:
        space: the search space.
        costs: for each position an array with one axis for each of its variables (``SearchSpace.costs``).
    """

    def __init__(self, space: SearchSpace, costs: Costs) -> None:
        super().__init__()
        every = np.unique(np.concatenate([costs[position.name].ravel() for position in space.positions]))
        # No network's largest is below the largest of the positions' smallest.
        lowest = max(float(costs[position.name].min()) for position in space.positions)
        levels = every[every >= lowest]
        if len(levels) > _LEVELS:
            levels = np.geomspace(max(levels[0], 1.0), levels[-1], _LEVELS)
        self.register_buffer("levels", torch.as_tensor(levels, dtype=torch.float32), persistent=False)
        self.levels: Tensor
        self._terms: list[tuple[str, tuple[str, ...]]] = []
        for number, link in enumerate(Chain(space).links):
            names = dict.fromkeys((*link.live, *link.position.names))
            # Letters are few, so each step of the chain uses its own.
            letters = dict(zip(names, string.ascii_letters[1:], strict=False))
            before, axes, kept = (
                "a" + "".join(letters[name] for name in group) for group in (link.live, link.position.names, link.kept)
            )
            weighed = (*link.fresh, *link.own)
            self._terms.append((",".join([before, axes, *(letters[name] for name in weighed)]) + "->" + kept, weighed))
            within = costs[link.position.name][None] <= levels.reshape(-1, *[1] * len(link.position.names)) * (1 + 1e-9)
            self.register_buffer(f"within{number}", torch.as_tensor(within, dtype=torch.float32), persistent=False)

    def forward(self, probabilities: Probabilities) -> Tensor:
        """The expected largest cost, a scalar in the unit of the costs, differentiable in the probabilities."""
        message = torch.ones_like(self.levels)
        for number, (equation, names) in enumerate(self._terms):
            message = torch.einsum(
                equation, message, getattr(self, f"within{number}"), *(probabilities[n] for n in names)
            )
        exactly = torch.cat([message[:1], message[1:] - message[:-1]])
        return exactly @ self.levels
