"""Architecture parameters: one categorical distribution for each variable of a search space."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fbnet_mobile.blocks.masks import Weights
from fbnet_mobile.space import Option, SearchSpace

__all__ = ["Choices", "Weights", "straight_through"]


class Choices(nn.Module):
    """The logits theta of every variable, all equal at first; variables with one option have none.

    Kept apart from the supernet's weights, as the two are trained on different images by different optimisers.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.options = space.variables
        self._free = [name for name, options in space.variables.items() if len(options) > 1]
        self.logits = nn.ParameterList(nn.Parameter(torch.zeros(len(self.options[name]))) for name in self._free)
        self.register_buffer("one", torch.ones(1), persistent=False)
        self.one: Tensor

    @torch.no_grad()
    def begin_with_first(self, odds: float) -> None:
        """Make each variable's first option the most likely, and each further one less likely by ``odds``."""
        for logits in self.logits:
            logits.copy_(-math.log(odds) * torch.arange(len(logits)))

    def _complete(self, weights: Mapping[str, Tensor]) -> Weights:
        return {name: weights.get(name, self.one) for name in self.options}

    def probabilities(self) -> Weights:
        """softmax(theta) of every variable."""
        return self._complete({name: logits.softmax(0) for name, logits in zip(self._free, self.logits, strict=True)})

    def sample(self, temperature: float, generator: torch.Generator | None = None) -> Weights:
        """Gumbel-softmax weights: softmax((theta + g) / temperature) with g = -log(-log u), u uniform.

        One sample for the whole batch; ``generator`` is a CPU generator, so that every process and device draws the
        same. (FBNet, arXiv 1812.03443, equation 6; FBNetV2, arXiv 2004.05565, section 3.)
        """
        found = {}
        for name, logits in zip(self._free, self.logits, strict=True):
            uniform = torch.rand(logits.shape, generator=generator).clamp_(1e-10, 1 - 1e-7)
            noise = -torch.log(-torch.log(uniform)).to(logits.device)
            found[name] = ((logits + noise) / temperature).softmax(0)
        return self._complete(found)

    def one_hot(self, assignment: Mapping[str, Option]) -> Weights:
        """Weights of 1 for the options of an assignment and 0 for all others."""
        return {
            name: torch.tensor([float(option == assignment[name]) for option in options], device=self.one.device)
            for name, options in self.options.items()
        }


def straight_through(weights: Tensor) -> Tensor:
    """1 for the largest weight and exactly 0 for all others, with the gradient of the weights (Jang et al. 2017).

    Where only what has a weight is run, the gradient is that of the largest weight alone.
    """
    hard = torch.zeros_like(weights).scatter(0, weights.argmax(0, keepdim=True), 1.0)
    # As (hard - weights) + weights the zeros would be zeros only up to rounding.
    return hard * (1 + weights - weights.detach())
