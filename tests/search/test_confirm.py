"""Deriving until what is measured is what was asked for, on devices that are not as the table says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from fbnet_mobile.arch import Architecture
from fbnet_mobile.cost.bounds import cost_range
from fbnet_mobile.cost.constraint import Constraint, limit_on
from fbnet_mobile.errors import UserError
from fbnet_mobile.search.choices import Weights
from fbnet_mobile.search.confirm import Confirmed, confirm
from fbnet_mobile.search.derive import most_probable
from fbnet_mobile.search.strategies.base import Derived, Step, Strategy
from fbnet_mobile.space import SearchSpace
from tests.space.test_within import NETWORK

SPACE = SearchSpace.within(NETWORK)


class Fixed(Strategy):
    """Nothing is learned: the largest that the limits allow."""

    learns: ClassVar[bool] = False

    def sample(self, step: Step) -> Weights:
        raise NotImplementedError

    def derive(self) -> Derived:
        likely = {name: -np.arange(float(len(options))) for name, options in SPACE.variables.items()}
        found = most_probable(SPACE, likely, self.context.constraints)
        return Derived(found, found)


@dataclass(frozen=True)
class Context:
    """What the loop and the strategy read of a ``SearchContext``."""

    space: SearchSpace
    constraints: Sequence[Constraint]


def run(measure: Callable[[Architecture], float], share: float = 0.5) -> tuple[Confirmed, Constraint, list[str]]:
    macs = limit_on(SPACE, "macs", 1e12)
    reach = cost_range(SPACE, macs)
    limit = limit_on(SPACE, "macs", share * reach.highest)
    said: list[str] = []
    context: Any = Context(SPACE, [limit])
    strategy = Fixed(context)
    return confirm(strategy, measure, said.append), limit, said


@pytest.mark.parametrize(
    "device",
    [
        lambda network: network.macs * 1.0,
        lambda network: network.macs * 1.13,
        lambda network: network.macs * 0.8,
        lambda network: 0.9 * network.macs + 3.0 * network.params,
        lambda network: 1.05 * network.macs + 100_000,
    ],
)
def test_the_latency_that_was_asked_for_is_had(device: Callable[[Architecture], float]) -> None:
    found, limit, said = run(device)
    taken = found.rounds[found.taken - 1]
    assert taken.measured_us == device(SPACE.architecture(found.derived.assignment))
    assert 0.97 * limit.limit <= taken.measured_us <= limit.limit
    assert len(said) == len(found.rounds) <= 4
    assert all(f"round {number}: predicted" in line for number, line in enumerate(said, 1))
    assert found.constraints[0].total(SPACE, found.derived.assignment) <= limit.limit


def test_a_device_that_cannot_be_pinned_down_is_asked_four_times() -> None:
    times, macs = iter([1.2, 0.7, 1.4, 0.9]), []

    def device(network: Architecture) -> float:
        macs.append(network.macs)
        return next(times) * network.macs

    found, limit, said = run(device)
    for number in range(1, 4):  # what was measured last is what the table says of that network now
        said_now = found.rounds[number].predicted_us / macs[number]
        assert said_now == pytest.approx(found.rounds[number - 1].measured_us / macs[number - 1])
    under = [each.measured_us for each in found.rounds if each.measured_us <= limit.limit]
    assert len(found.rounds) == len(said) == 4
    assert found.rounds[found.taken - 1].measured_us == max(under)


def test_a_target_below_all_that_the_device_can_is_said() -> None:
    found, _, said = run(lambda network: network.macs * 100)
    assert found.taken == len(found.rounds) == 1
    assert "reachable range" in said[-1]
    with pytest.raises(UserError, match="reachable range"):
        run(lambda network: 1.0, share=1e-6)
