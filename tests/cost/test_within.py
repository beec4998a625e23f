"""Networks within limits, against enumeration of every network of a small space."""

import itertools
import random
from collections import Counter

import pytest

from fbnet_mobile.cost.constraint import Constraint, limit_on
from fbnet_mobile.cost.within import Within
from fbnet_mobile.search.derive import require_feasible
from fbnet_mobile.space import Option, SearchSpace

SPACE = SearchSpace.from_yaml(
    """
name: tiny
resolution: 16
classes: 4
stem: {out_channels: [8, 16], stride: 2}
stages:
  - out_channels: [8, 16]
    depth: 2
    skip: true
    expansion_ratio: [1, 2]
    kernel_size: 3
    squeeze_excite: false
    activation: relu
head: {conv_channels: [16, 32]}
"""
)


def networks() -> list[dict[str, Option]]:
    names, options = zip(*SPACE.variables.items(), strict=True)
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*options)]


def macs(assignment: dict[str, Option]) -> int:
    return SPACE.architecture(assignment).macs


def key(assignment: dict[str, Option]) -> tuple[Option, ...]:
    return tuple(assignment.values())


@pytest.fixture
def tight() -> list[Constraint]:
    """Two limits that a tenth of all networks meet."""
    few = sorted(macs(one) for one in networks())[len(networks()) // 8]
    small = sorted(SPACE.architecture(one).params for one in networks())[len(networks()) // 6]
    return [limit_on(SPACE, "macs", few), limit_on(SPACE, "params", small)]


def test_every_step_stays_within_tight_limits(tight: list[Constraint]) -> None:
    within, rng = Within(SPACE, tight, require_feasible(SPACE, tight)), random.Random(0)
    inside = {key(within.plain(one)) for one in networks() if macs(one) <= tight[0].limit and within.holds(one)}
    assert 3 < len(inside) < 0.2 * len(networks())
    drawn = [within.draw(rng) for _ in range(200)]
    mutated = [within.mutated(one, 0.5, rng) for one in drawn]
    crossed = [within.crossed(one, other, rng) for one, other in itertools.pairwise(drawn)]
    for found in (drawn, mutated, crossed):
        assert {key(one) for one in found} <= inside
        assert all(macs(one) <= tight[0].limit for one in found)
        assert all(SPACE.architecture(one).params <= tight[1].limit for one in found)
    assert {key(one) for one in drawn} == inside, "every network can be drawn"
    assert sum(one != other for one, other in zip(drawn, mutated, strict=True)) > 50


def test_draws_are_uniform_and_children_are_of_their_parents() -> None:
    loose = [limit_on(SPACE, "macs", max(map(macs, networks())))]
    within, rng = Within(SPACE, loose, networks()[0]), random.Random(0)
    widths = Counter(within.draw(rng)["stage1.out_channels"] for _ in range(1000))
    assert 440 < widths[8] < 560
    one, other = networks()[0], networks()[-1]
    assert within.mutated(one, 1.0, rng) == within.plain(other), "with two options, another option is the other one"
    children = [within.crossed(one, other, rng) for _ in range(300)]
    taken = sum(child["head.conv_channels"] == other["head.conv_channels"] for child in children)
    assert 110 < taken < 190


def test_choices_of_a_skipped_block_make_no_difference() -> None:
    skipped = networks()[-1] | {"stage1.block2.skip": True, "stage1.block2.expansion_ratio": 2}
    within = Within(SPACE, [], skipped)
    plain = within.plain(skipped)
    assert plain["stage1.block2.expansion_ratio"] == 1
    assert SPACE.architecture(plain) == SPACE.architecture(skipped)
    kept = networks()[-1] | {"stage1.block2.skip": False}
    assert within.plain(kept) == kept
