"""The positions of a space as a chain along which variables are eliminated, and bounds on what follows in it."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fbnet_mobile.cost.constraint import Costs
from fbnet_mobile.space import Position, SearchSpace


@dataclass(frozen=True)
class Link:
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
        self.links: list[Link] = []
        live: tuple[str, ...] = ()
        for number, position in enumerate(space.positions):
            fresh = tuple(name for name in position.names if uses[name] > 1 and name not in live)
            own = tuple(name for name in position.names if uses[name] == 1)
            kept = tuple(name for name in (*live, *fresh) if last_use[name] > number)
            self.links.append(Link(position, live, fresh, own, kept))
            live = kept

    def combinations(self, names: Sequence[str]) -> Iterator[tuple[int, ...]]:
        """All combinations of option numbers of some variables."""
        return itertools.product(*(range(len(self.space.variables[name])) for name in names))

    def suffix_bounds(
        self, costs: Costs, combine: Callable[[float, float], float] = lambda a, b: a + b
    ) -> list[dict[tuple[int, ...], float]]:
        """The least that the rest of a network costs.

        Args:
            costs: of each block, for each position one array; negated, the bounds are those of the most.
            combine: of the cost of a block and of what follows it.

        Returns:
            For each position, and one more for the end, by the values of its ``live`` variables the least that it and
            all positions behind it cost together; the first has one entry, the least of whole networks. Exact, as the
            variables of the rest are free.
        """
        after: list[dict[tuple[int, ...], float]] = [{(): 0.0}]
        for link in reversed(self.links):
            array, names = costs[link.position.name], link.position.names
            axes = tuple(names.index(name) for name in link.own)
            least = array.min(axis=axes) if axes else array
            shared = [name for name in names if name not in link.own]
            before: dict[tuple[int, ...], float] = {}
            for state in self.combinations(link.live):
                for fresh in self.combinations(link.fresh):
                    at = dict(zip((*link.live, *link.fresh), (*state, *fresh), strict=True))
                    here = float(least[tuple(at[name] for name in shared)])
                    total = combine(here, after[-1][tuple(at[name] for name in link.kept)])
                    before[state] = min(total, before.get(state, np.inf))
            after.append(before)
        return after[::-1]
