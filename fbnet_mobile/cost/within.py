"""Networks within limits, and random steps between them that stay within."""

import random
from collections.abc import Mapping, Sequence

from fbnet_mobile.cost.constraint import Constraint
from fbnet_mobile.space import Option, SearchSpace

Assignment = dict[str, Option]

_SWEEPS = 5
"""How often a draw chooses every variable again."""


class Within:
    """The networks of a space that meet all constraints.

    Every step changes one variable after the other, each only to an option with which all limits are still met. So
    nothing has to be drawn until it fits, however few networks do.

    Args:
        space: the space.
        constraints: what is met.
        start: a network that meets them, such as ``require_feasible`` gives.
    """

    def __init__(self, space: SearchSpace, constraints: Sequence[Constraint], start: Mapping[str, Option]) -> None:
        self.space, self.constraints, self.start = space, constraints, start
        self.free = [name for name, options in space.variables.items() if len(options) > 1]

    def holds(self, assignment: Mapping[str, Option]) -> bool:
        """Whether a network meets every constraint."""
        return all(each.total(self.space, assignment) <= each.limit for each in self.constraints)

    def draw(self, rng: random.Random) -> Assignment:
        """A network at random.

        Gibbs sampling, of which the uniform distribution over all assignments within the limits is the stationary one
        (Geman and Geman 1984): each variable in turn is drawn uniformly from its options that keep the limits.
        """
        found = dict(self.start)
        for _ in range(_SWEEPS):
            for name in rng.sample(self.free, len(self.free)):
                found[name] = rng.choice([o for o in self.space.variables[name] if self.holds({**found, name: o})])
        return self.plain(found)

    def mutated(self, assignment: Mapping[str, Option], rate: float, rng: random.Random) -> Assignment:
        """Each variable, with a probability of ``rate``, at another option, if there is one that keeps the limits."""
        found = dict(assignment)
        for name in rng.sample(self.free, len(self.free)):
            if rng.random() < rate:
                others = [o for o in self.space.variables[name] if o != found[name]]
                others = [o for o in others if self.holds({**found, name: o})]
                found[name] = rng.choice(others) if others else found[name]
        return self.plain(found)

    def crossed(self, one: Mapping[str, Option], other: Mapping[str, Option], rng: random.Random) -> Assignment:
        """A network with about half of its variables of each of two, fewer of the other's if the limits ask for it."""
        found = dict(one)
        for name in rng.sample(self.free, len(self.free)):
            if rng.random() < 0.5 and self.holds({**found, name: other[name]}):
                found[name] = other[name]
        return self.plain(found)

    def plain(self, assignment: Mapping[str, Option]) -> Assignment:
        """The same network with the first options of choices that make no difference, as those of a skipped block."""
        found = dict(assignment)
        for position in self.space.positions:
            if position.skip is not None and found[position.skip]:
                found |= {name: self.space.variables[name][0] for name in position.own.values()}
        return found
