"""A search strategy from outside: the most accurate of some networks drawn at random within the limits."""

import random

from fbnet_mobile.cost.within import Within
from fbnet_mobile.search.derive import require_feasible
from fbnet_mobile.search.strategies.base import STRATEGIES, Derived
from fbnet_mobile.search.strategies.evolution import Evolution

DRAWS = 20


class RandomSearch(Evolution):
    """Trains the weights and measures networks as evolution does, but has no generations."""

    def derive(self) -> Derived:
        """The best of ``DRAWS`` networks; without limits it would choose the same."""
        context = self.context
        within = Within(context.space, context.constraints, require_feasible(context.space, context.constraints))
        rng = random.Random(context.recipe.seed)
        best = max((within.draw(rng) for _ in range(DRAWS)), key=self.accuracy)
        return Derived(assignment=best, most_likely=best)


STRATEGIES.add("random", RandomSearch)
