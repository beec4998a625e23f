"""Expected cost and derivation against enumeration of every network of a small space."""

import itertools
import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fbnet_mobile.cost.bounds import cheapest, clamped, cost_range
from fbnet_mobile.cost.constraint import Constraint, latency_constraint, limit_on
from fbnet_mobile.cost.expectation import ExpectedPeak, expected_cost
from fbnet_mobile.errors import UserError
from fbnet_mobile.latency.table import BLOCK, INVOCATION, Conditions, LatencyTable, Measurement
from fbnet_mobile.search.choices import Choices
from fbnet_mobile.search.derive import most_probable, require_feasible
from fbnet_mobile.space import Option, SearchSpace

SPACE = SearchSpace.from_yaml(
    """
name: tiny
resolution: [16, 32]
classes: 4
stem: {out_channels: [8, 12]}
stages:
  - out_channels: [8, 16]
    depth: 2
    skip: true
    expansion_ratio: [1, 3]
    kernel_size: [3, 5]
    squeeze_excite: false
    activation: relu
  - out_channels: [16, 24]
    stride: 2
    expansion_ratio: 2
    kernel_size: 3
    squeeze_excite: [false, true]
    activation: relu
head: {conv_channels: [16, 24]}
"""
)
FIXED = 40.0


def assignments() -> list[dict[str, Option]]:
    names, options = zip(*SPACE.variables.items(), strict=True)
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*options)]


@pytest.fixture
def choices() -> Choices:
    choices = Choices(SPACE)
    torch.manual_seed(0)
    for logits in choices.logits:
        torch.nn.init.normal_(logits, std=2)
    return choices


def probability(assignment: dict[str, Option], choices: Choices) -> float:
    weights = {name: p.detach() for name, p in choices.probabilities().items()}
    return math.prod(float(weights[name][options.index(assignment[name])]) for name, options in SPACE.variables.items())


def thousand_macs(limit: float = math.inf) -> Constraint:
    """Additive, with a fixed part, as a latency is."""
    return Constraint("thousand_macs", limit, SPACE.costs(lambda block: block.macs / 1e3), FIXED)


def log_probabilities(choices: Choices) -> dict[str, np.ndarray]:
    return {name: np.log(p.detach().double().numpy()) for name, p in choices.probabilities().items()}


def by_hand(cost: str, assignment: dict[str, Option]) -> float:
    network = SPACE.architecture(assignment)
    return FIXED + network.macs / 1e3 if cost == "latency" else float(getattr(network, cost))


@pytest.mark.parametrize("cost", ["latency", "macs", "params", "peak_activations"])
def test_expected_cost_equals_the_mean_over_all_networks(cost: Any, choices: Choices) -> None:
    constraint = thousand_macs() if cost == "latency" else limit_on(SPACE, cost, math.inf)
    expected = expected_cost(SPACE, constraint)
    mean = sum(probability(assignment, choices) * by_hand(cost, assignment) for assignment in assignments())
    found = expected(choices.probabilities())
    assert float(found.detach()) == pytest.approx(mean, rel=1e-5)
    found.backward()
    moved = {name for name, logits in zip(choices._free, choices.logits, strict=True) if (logits.grad != 0).all()}
    if cost == "peak_activations":  # only what can be in the block of the largest feature maps has a part in it
        assert {"resolution", "stem.out_channels"} <= moved
    else:
        assert len(moved) >= len(choices.logits) - (cost == "params"), "the resolution changes no parameters"
    for one in random.Random(0).sample(assignments(), 20):
        assert float(expected(choices.one_hot(one))) == pytest.approx(by_hand(cost, one))
        assert constraint.total(SPACE, one) == pytest.approx(by_hand(cost, one))


def test_expected_peak_of_many_levels_is_a_close_upper_bound(choices: Choices, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = limit_on(SPACE, "peak_activations", math.inf).costs
    with torch.no_grad():
        exact = float(ExpectedPeak(SPACE, costs)(choices.probabilities()))
        monkeypatch.setattr("fbnet_mobile.cost.expectation._LEVELS", 8)
        coarse = ExpectedPeak(SPACE, costs)
        bound = float(coarse(choices.probabilities()))
    assert len(coarse.levels) == 8
    assert exact < bound < exact * float(coarse.levels[1] / coarse.levels[0])


def test_derived_network_is_the_most_probable_that_uses_the_budget(choices: Choices) -> None:
    every = [(by_hand("latency", one), probability(one, choices), one) for one in assignments()]
    reach = cost_range(SPACE, thousand_macs())
    assert reach.lowest == pytest.approx(min(every, key=lambda item: item[0])[0])
    assert reach.highest == pytest.approx(max(every, key=lambda item: item[0])[0])
    differ = 0
    for budget in np.linspace(reach.lowest * 1.1, reach.highest * 0.99, 12):
        found = most_probable(SPACE, log_probabilities(choices), [thousand_macs(budget)], use_at_least=0.9)
        cost = by_hand("latency", found)
        within = [item for item in every if 0.9 * budget <= item[0] <= budget]
        best = max(within or [item for item in every if item[0] <= budget], key=lambda item: item[1])
        assert cost <= budget
        assert probability(found, choices) == pytest.approx(best[1], rel=1e-6)
        differ += best[2] != max(every, key=lambda item: item[1])[2]
    assert differ > 6, "the budget must matter for this to prove anything"


def test_several_constraints_are_all_met_by_the_most_probable_network(choices: Choices) -> None:
    rng = random.Random(1)
    # A second phone on which other blocks are slow, so that the two pull apart.
    second = SPACE.costs(lambda block: block.params / 100 + 400 * (getattr(block, "kernel_size", 3) == 5))
    counts: list[Any] = ["params", "peak_activations"]
    every = [
        (
            by_hand("latency", one),
            Constraint("second", 0, second).total(SPACE, one),
            *(by_hand(count, one) for count in counts),
            probability(one, choices),
        )
        for one in assignments()
    ]
    binding = set()
    for _ in range(40):
        seed = rng.choice(every)
        limits = [rng.choice((1.0, 1.5)) * cost + 1e-6 for cost in seed[:4]]
        constraints = [
            thousand_macs(limits[0]),
            Constraint("second", limits[1], second),
            *(limit_on(SPACE, count, limit) for count, limit in zip(counts, limits[2:], strict=True)),
        ]
        found = most_probable(SPACE, log_probabilities(choices), constraints, use_at_least=0.0)
        assert all(constraint.total(SPACE, found) <= constraint.limit for constraint in constraints)
        best = max(item[4] for item in every if all(c <= limit for c, limit in zip(item[:4], limits, strict=True)))
        assert probability(found, choices) == pytest.approx(best, rel=1e-6)
        binding |= {
            number
            for number in range(4)
            if best
            < max(
                item[4]
                for item in every
                if all(c <= limit for n, (c, limit) in enumerate(zip(item[:4], limits, strict=True)) if n != number)
            )
        }
    assert binding == {0, 1, 2, 3}, "each must matter for this to prove anything"


def test_a_latency_is_that_of_the_table() -> None:
    row = Measurement(7.0, *[7.0] * 5, runs=1, rounds=1, uncertainty=0.0)
    rows = {LatencyTable.row_key(INVOCATION): replace(row, latency_us=5.0)}
    rows |= {
        LatencyTable.row_key(BLOCK, [block]): replace(row, latency_us=5 + block.macs / 1e3)
        for block in SPACE.candidates()
    }
    table = LatencyTable(Conditions("phone", "cpu", "litert", "1", 1, "fp32", "min", "tiny", "2026-01-01"), rows)
    constraint = latency_constraint(SPACE, table, 100.0)
    one = assignments()[99]
    assert constraint.total(SPACE, one) == pytest.approx(table.total(SPACE.architecture(one)))
    assert str(constraint) == "latency on phone of at most 100.0 us"


def test_a_budget_out_of_reach_names_the_range(choices: Choices) -> None:
    for budget in (FIXED + 1, FIXED / 2):
        with pytest.raises(
            UserError, match=r"no network of space tiny has thousand macs of .*: the reachable range is"
        ):
            most_probable(SPACE, log_probabilities(choices), [thousand_macs(budget)])
    with pytest.raises(UserError, match=r"has peak activations of at most 900: the reachable range is"):
        most_probable(SPACE, log_probabilities(choices), [limit_on(SPACE, "peak_activations", 900)])
    # The cheapest in one is not the cheapest in the other.
    costs = SPACE.costs(lambda block: 1000.0 - block.params / 100)
    both = [Constraint("less", 0, costs), limit_on(SPACE, "params", 0)]
    both = [replace(each, limit=cost_range(SPACE, each).lowest + 1e-6) for each in both]
    said = r"was found that has less of at most ([\d,]+) \(alone it can be \1\) and params of at most ([\d,]+) \(.*\2\)"
    with pytest.raises(UserError, match=said):
        require_feasible(SPACE, both)
    with pytest.raises(UserError, match=said):
        most_probable(SPACE, log_probabilities(choices), both)


def test_a_limit_above_the_largest_network_becomes_that_and_is_said() -> None:
    most = max(by_hand("latency", one) for one in assignments())
    constraint, remark = clamped(SPACE, thousand_macs(2 * most))
    assert constraint.limit == pytest.approx(most)
    assert constraint.limit >= most, "the largest network is allowed"
    assert remark == (
        f"no network of space tiny has thousand macs above {most:,.0f}: that is the limit instead of {2 * most:,.0f}"
    )
    uniform = {name: np.zeros(len(options)) for name, options in SPACE.variables.items()}
    found = most_probable(SPACE, uniform, [constraint])
    assert 0.98 * most <= by_hand("latency", found) <= constraint.limit
    assert clamped(SPACE, thousand_macs(most))[1] == ""
    largest = max(by_hand("peak_activations", one) for one in assignments())
    assert clamped(SPACE, limit_on(SPACE, "peak_activations", 1e9))[0].limit == pytest.approx(largest)


def test_gumbel_softmax_draws_options_as_often_as_softmax_says(choices: Choices) -> None:
    generator = torch.Generator().manual_seed(0)
    name = "stage1.block1.kernel_size"
    drawn = torch.stack([choices.sample(0.05, generator)[name].detach() for _ in range(4000)])
    torch.testing.assert_close(drawn.sum(1), torch.ones(4000))
    assert drawn.max(1).values.mean() > 0.98, "near one-hot at a low temperature"
    torch.testing.assert_close(drawn.mean(0), choices.probabilities()[name].detach(), atol=0.02, rtol=0)


BY_HAND = SearchSpace.from_yaml(
    """
name: by-hand
resolution: 8
classes: 4
stem: {out_channels: 8, stride: 2}
stages:
  - {out_channels: [8, 16], depth: 2, expansion_ratio: 1, kernel_size: 3, squeeze_excite: false, activation: relu}
head: {conv_channels: 16}
"""
)
"""Multiply-accumulates at 8, or 16, channels: the stem 9 x 3 x 8 x 4 x 4 = 3456; the first block 9 x 8 x 16 = 1152 and
8 x 8 x 16 = 1024, or 2048; the second 1152 and 1024, or 2304 and 16 x 16 x 16 = 4096; the head 8 x 16 x 16 = 2048, or
4096, and 16 x 4 = 64. Together 9920, or 17216."""


def test_costs_worked_out_by_hand() -> None:
    macs = limit_on(BY_HAND, "macs", 10_000)
    first = BY_HAND.first()
    assert [macs.total(BY_HAND, first | {"stage1.out_channels": width}) for width in (8, 16)] == [9920, 17216]
    assert (cost_range(BY_HAND, macs).lowest, cost_range(BY_HAND, macs).highest) == (9920, 17216)
    probabilities = {name: torch.ones(len(options)) for name, options in BY_HAND.variables.items()}
    probabilities["stage1.out_channels"] = torch.tensor([0.75, 0.25])
    # The width of both blocks and of the head's input is one choice: with three it would be less, as 16 x 16 is rarer.
    assert float(expected_cost(BY_HAND, macs)(probabilities)) == 0.75 * 9920 + 0.25 * 17216
    with_fixed = replace(macs, fixed=100.0)
    assert float(expected_cost(BY_HAND, with_fixed)(probabilities)) == 0.75 * 9920 + 0.25 * 17216 + 100
    assert with_fixed.total(BY_HAND, first) == 10_020

    skipping = BY_HAND.changed(stages=[{**BY_HAND.stages[0].model_dump(), "skip": True}])
    macs = limit_on(skipping, "macs", 10_000)
    probabilities["stage1.block2.skip"] = torch.tensor([0.25, 0.75])  # keeps its 2176, or 6400, in one of four
    assert float(expected_cost(skipping, macs)(probabilities)) == 0.75 * (9920 - 1632) + 0.25 * (17216 - 4800)
    # Feature maps of the second block: 8 x 16 twice, and its input, which is added in the end.
    peak = limit_on(BY_HAND, "peak_activations", 1e6)
    assert peak.total(BY_HAND, first) == 3 * 8 * 16
    assert peak.total(BY_HAND, first | {"stage1.out_channels": 16}) == 3 * 16 * 16
    assert float(expected_cost(BY_HAND, peak)(probabilities)) == 0.75 * 384 + 0.25 * 768


@pytest.mark.parametrize(
    ("limit", "use_at_least", "wide", "width"),
    [
        (10_000, 0.98, 0.9, 8),  # the likely one is too expensive
        (17_216, 0.98, 0.9, 16),
        (17_216, 0.98, 0.1, 16),  # the likely one leaves 42 % unused
        (17_216, 0.0, 0.1, 8),
        (17_216, 0.0, 0.9, 16),
        (17_700, 0.98, 0.1, 8),  # none uses 98 %: the likely one
    ],
)
def test_derived_by_hand(limit: float, use_at_least: float, wide: float, width: int) -> None:
    likely = {name: np.zeros(len(options)) for name, options in BY_HAND.variables.items()}
    likely["stage1.out_channels"] = np.log([1 - wide, wide])
    found = most_probable(BY_HAND, likely, [limit_on(BY_HAND, "macs", limit)], use_at_least)
    assert found["stage1.out_channels"] == width


def test_the_cheapest_and_the_dearest_network_are_those_of_the_whole_space() -> None:
    # Fewer parameters, and of those that are as many the most operations.
    costs = SPACE.costs(lambda block: block.params - 1e-3 * block.macs)
    every = [Constraint("any", 0, costs).total(SPACE, assignment) for assignment in assignments()]
    for sign, extreme in ((1, min(every)), (-1, max(every))):
        found = cheapest(SPACE, {name: sign * array for name, array in costs.items()})
        assert Constraint("any", 0, costs).total(SPACE, found) == pytest.approx(extreme)
