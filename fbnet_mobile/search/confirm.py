"""Deriving again until what is measured is what was asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fbnet_mobile.arch import Architecture
from fbnet_mobile.cost.constraint import Constraint
from fbnet_mobile.errors import UserError
from fbnet_mobile.search.strategies.base import Derived, Strategy

ROUNDS = 4
UNDER = 0.03
"""How far under the limit a measurement may be."""
_AIM = 0.985
"""Of the limit, when the table has been corrected: networks that use between 98 % of this and all of it lie between
96.5 and 98.5 % of the limit, as measuring has its own error."""

Measure = Callable[[Architecture], float]
"""The latency of a network on the device, us."""


@dataclass(frozen=True)
class Confirmation:
    """What a derived network took.

    Attributes:
        predicted_us: by the table as it was corrected so far.
        measured_us: on the device.
    """

    predicted_us: float
    measured_us: float


@dataclass(frozen=True)
class Confirmed:
    """The network that is taken, and how it came to be.

    Attributes:
        derived: the choices.
        constraints: as they were corrected when it was derived.
        rounds: each that was measured.
        taken: the number of the one that is taken.
    """

    derived: Derived
    constraints: tuple[Constraint, ...]
    rounds: tuple[Confirmation, ...]
    taken: int


def confirm(strategy: Strategy, measure: Measure, say: Callable[[str], None]) -> Confirmed:
    """Derive, measure, and correct the table's costs by the ratio, at most four times.

    It ends when the measured latency is at most the first constraint's limit and within 3 % under it, or no other
    network is derived. If none came to lie there, the slowest of those under the limit is taken, or else the fastest.

    Args:
        strategy: that learned; its context's first constraint is on a latency.
        measure: on the device that this is of.
        say: is told of each round.
    """
    context = strategy.context
    latency, *others = context.constraints
    factor, found = 1.0, list[tuple[Derived, tuple[Constraint, ...], Confirmation]]()
    for number in range(1, ROUNDS + 1):
        aimed = latency.limit if number == 1 else _AIM * latency.limit
        costs = {name: factor * array for name, array in latency.costs.items()}
        corrected = replace(latency, costs=costs, fixed=factor * latency.fixed, limit=aimed)
        strategy.context = replace(context, constraints=[corrected, *others])
        try:
            derived = strategy.derive()
        except UserError as error:
            if not found:
                raise
            say(f"round {number}: {error}")
            break
        finally:
            strategy.context = context
        if any(derived.assignment == before.assignment for before, _, _ in found):
            say(f"round {number}: the same network as before")
            break
        predicted_us = corrected.total(context.space, derived.assignment)
        measured_us = measure(context.space.architecture(derived.assignment))
        kept = (replace(corrected, limit=latency.limit), *others)
        found.append((derived, kept, Confirmation(predicted_us, measured_us)))
        off = measured_us / latency.limit - 1
        say(
            f"round {number}: predicted {predicted_us:.1f} us, measured {measured_us:.1f} us, {abs(off):.1%} "
            f"{'above' if off > 0 else 'under'} {latency.limit:.1f} us"
        )
        if -UNDER <= off <= 0:
            break
        factor *= measured_us / predicted_us
    taken = _best([each.measured_us for _, _, each in found], latency.limit)
    derived, constraints, _ = found[taken]
    return Confirmed(derived, constraints, tuple(each for _, _, each in found), taken + 1)


def _best(measured_us: Sequence[float], limit: float) -> int:
    numbers = range(len(measured_us))
    under = [number for number in numbers if measured_us[number] <= limit]
    if under:
        return max(under, key=lambda number: measured_us[number])
    return min(numbers, key=lambda number: measured_us[number])
