"""Expected cost and derivation against enumeration of every network of a small space."""

import itertools
import math

import numpy as np
import pytest
import torch

from fbnet_mobile.errors import UserError
from fbnet_mobile.search.choices import Choices
from fbnet_mobile.search.cost import ExpectedCost
from fbnet_mobile.search.derive import cost_range, most_probable
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


def test_expected_cost_equals_the_mean_over_all_networks(choices: Choices) -> None:
    expected = ExpectedCost(SPACE, SPACE.costs(lambda block: block.macs / 1e3), FIXED)
    by_hand = sum(
        probability(assignment, choices) * (FIXED + SPACE.architecture(assignment).macs / 1e3)
        for assignment in assignments()
    )
    cost = expected(choices.probabilities())
    assert float(cost.detach()) == pytest.approx(by_hand, rel=1e-5)
    cost.backward()
    assert all(logits.grad is not None and (logits.grad != 0).all() for logits in choices.logits)
    one = assignments()[123]
    assert float(expected(choices.one_hot(one)).detach()) == pytest.approx(FIXED + SPACE.architecture(one).macs / 1e3)


def test_derived_network_is_the_most_probable_that_uses_the_budget(choices: Choices) -> None:
    costs = SPACE.costs(lambda block: block.macs / 1e3)
    log_probabilities = {name: np.log(p.detach().double().numpy()) for name, p in choices.probabilities().items()}
    every = [
        (FIXED + SPACE.architecture(assignment).macs / 1e3, probability(assignment, choices), assignment)
        for assignment in assignments()
    ]
    reach = cost_range(SPACE, costs, FIXED)
    assert reach.lowest == pytest.approx(min(every, key=lambda item: item[0])[0])
    assert reach.highest == pytest.approx(max(every, key=lambda item: item[0])[0])
    differ = 0
    for budget in np.linspace(reach.lowest * 1.1, reach.highest * 0.99, 12):
        found = most_probable(SPACE, log_probabilities, costs, budget, FIXED, use_at_least=0.9)
        cost = FIXED + SPACE.architecture(found).macs / 1e3
        within = [item for item in every if 0.9 * budget <= item[0] <= budget]
        best = max(within or [item for item in every if item[0] <= budget], key=lambda item: item[1])
        assert cost <= budget
        assert probability(found, choices) == pytest.approx(best[1], rel=1e-6)
        differ += best[2] != max(every, key=lambda item: item[1])[2]
    assert differ > 6, "the budget must matter for this to prove anything"


def test_a_budget_out_of_reach_names_the_range(choices: Choices) -> None:
    costs = SPACE.costs(lambda block: block.macs / 1e3)
    log_probabilities = {name: np.log(p.detach().double().numpy()) for name, p in choices.probabilities().items()}
    for budget in (FIXED + 1, FIXED / 2):
        with pytest.raises(UserError, match=r"no network of space tiny costs .* or less: the reachable range is"):
            most_probable(SPACE, log_probabilities, costs, budget, FIXED)


def test_gumbel_softmax_draws_options_as_often_as_softmax_says(choices: Choices) -> None:
    generator = torch.Generator().manual_seed(0)
    name = "stage1.block1.kernel_size"
    drawn = torch.stack([choices.sample(0.05, generator)[name].detach() for _ in range(4000)])
    torch.testing.assert_close(drawn.sum(1), torch.ones(4000))
    assert drawn.max(1).values.mean() > 0.98, "near one-hot at a low temperature"
    torch.testing.assert_close(drawn.mean(0), choices.probabilities()[name].detach(), atol=0.02, rtol=0)
