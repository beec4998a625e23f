"""What a distribution over networks costs on average."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fbnet_mobile.search.choices import Weights
from fbnet_mobile.space import SearchSpace


class ExpectedCost(nn.Module):
    """The exact expectation of an additive cost when each variable is drawn independently.

    E = fixed + sum over positions of sum over option combinations of (product of their probabilities) x cost. A width
    that several blocks share is one variable, so its joint distribution is exact.

    Args:
        space: the search space.
        costs: for each position an array with one axis for each of its variables (``SearchSpace.costs``).
        fixed: a cost that every network has.
    """

    def __init__(self, space: SearchSpace, costs: Mapping[str, npt.NDArray[np.float64]], fixed: float = 0.0) -> None:
        super().__init__()
        self._names = [position.names for position in space.positions]
        self.fixed = fixed
        for number, position in enumerate(space.positions):
            array = torch.as_tensor(costs[position.name], dtype=torch.float32)
            self.register_buffer(f"costs{number}", array, persistent=False)

    def forward(self, probabilities: Weights) -> Tensor:
        """The expected cost, a scalar in the unit of the costs, differentiable in the probabilities."""
        total = next(iter(probabilities.values())).new_tensor(self.fixed)
        for number, names in enumerate(self._names):
            expected: Tensor = getattr(self, f"costs{number}")
            for name in reversed(names):
                expected = expected @ probabilities[name]
            total = total + expected
        return total
