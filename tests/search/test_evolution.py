"""Evolution over a supernet that was trained on digits, a network of each step."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric

from fbnet_mobile.cost.constraint import Constraint, limit_on
from fbnet_mobile.cost.within import Within
from fbnet_mobile.data.augment import normalise
from fbnet_mobile.data.data import load_data, training_batches
from fbnet_mobile.search.derive import require_feasible
from fbnet_mobile.search.recipe import SearchRecipe
from fbnet_mobile.search.strategies.base import SearchContext, Step
from fbnet_mobile.search.strategies.evolution import Evolution
from fbnet_mobile.search.supernet import Supernet
from fbnet_mobile.space import SearchSpace

SPACE = SearchSpace.from_yaml(
    """
name: tiny
resolution: [12, 16]
classes: 10
stem: {out_channels: [8, 16], stride: 2}
stages:
  - out_channels: [8, 16, 24]
    depth: 3
    skip: true
    expansion_ratio: [1, 2, 3]
    kernel_size: [3, 5]
    squeeze_excite: [false, true]
    activation: [relu, hswish]
head: {conv_channels: [16, 32, 64]}
"""
)
RECIPE = SearchRecipe(strategy="evolution", population=10, generations=4, mutation_rate=0.2, batch_size=32)
MACS = 130_000


def step(number: int) -> Step:
    return Step(1, number, 0.5, torch.Generator().manual_seed(number))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SearchContext:
    """A context whose supernet has seen some networks."""
    torch.manual_seed(0)
    data = load_data("digits", resolution=16, limit=900, show_progress=False)
    weight_images, images = data.train.split(0.7)
    supernet = Supernet(SPACE)
    fabric = Fabric(accelerator="cpu", devices=1)
    context = SearchContext(
        SPACE, (limit_on(SPACE, "macs", MACS),), RECIPE, fabric, supernet, images, data,
        tmp_path_factory.mktemp("run"), show_progress=False,
    )  # fmt: skip
    strategy = Evolution(context)
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.1, momentum=0.9)
    number = 0
    for _ in range(8):
        for pixels, labels in weight_images.batches(32):
            number += 1
            logits = supernet(normalise(pixels, data.mean, data.std), strategy.sample(step(number)))
            optimizer.zero_grad()
            F.cross_entropy(logits, labels).backward()
            optimizer.step()
    return context


@pytest.fixture
def context(trained: SearchContext, tmp_path: Path) -> SearchContext:
    return replace(trained, folder=tmp_path)


def test_weights_are_trained_with_one_network_a_step_all_equally_likely(context: SearchContext) -> None:
    strategy = Evolution(context)
    drawn = [strategy.sample(step(number)) for number in range(600)]
    for name, options in SPACE.variables.items():
        weights = torch.stack([each[name] for each in drawn])
        assert set(weights.unique().tolist()) <= {0.0, 1.0}
        assert (weights.sum(1) == 1).all()
        torch.testing.assert_close(weights.mean(0), torch.full((len(options),), 1 / len(options)), atol=0.07, rtol=0)
    again = strategy.sample(step(7))
    assert all(torch.equal(again[name], drawn[7][name]) for name in again)


def test_a_candidate_is_measured_as_the_supernet_runs_it_with_statistics_of_its_own(context: SearchContext) -> None:
    strategy = Evolution(replace(context, recipe=replace(RECIPE, candidate_images=100)))
    data, cpu = context.data, torch.device("cpu")
    sample = data.train.limit(256)
    shifted = list(training_batches(sample, data, 64, seed=0, epoch=0, device=cpu, augmentations=["crop"]))
    pixels, labels = next(context.images.limit(100, 0).batches(1000))
    before = {name: value.clone() for name, value in context.supernet.state_dict().items()}
    supernet = Supernet(SPACE)
    for seed in range(3):
        assignment = {**SPACE.draw(random.Random(seed)), "resolution": (12, 16, 12)[seed]}
        weights = {
            name: torch.tensor([float(option == assignment[name]) for option in options])
            for name, options in SPACE.variables.items()
        }
        supernet.load_state_dict(before)
        with torch.no_grad():
            for number, (views, _) in enumerate(shifted, start=1):
                for norm in supernet.modules():
                    if isinstance(norm, torch.nn.BatchNorm2d):
                        norm.momentum = 1 / number  # the mean of all
                supernet.train()(views, weights)
            logits = supernet.eval()(normalise(pixels, data.mean, data.std), weights)
        right = float((logits.argmax(1) == labels).double().mean())
        assert strategy.accuracy(assignment) == pytest.approx(right, abs=0.011), "an image may stand on the edge"
    assert all(torch.equal(value, before[name]) for name, value in context.supernet.state_dict().items())


def test_evolution_finds_better_networks_than_chance_within_the_limit(context: SearchContext) -> None:
    strategy = Evolution(context)
    found = strategy.derive()
    assert SPACE.architecture(found.assignment).macs <= MACS
    assert set(found.most_likely) == set(SPACE.variables)

    state = json.loads((context.folder / "evolution.json").read_text())
    accuracies = [[each["accuracy"] for each in generation] for generation in state["generations"]]
    assert [len(each) for each in accuracies] == [10, 10, 10, 10]
    measured = [tuple(each["options"]) for generation in state["generations"] for each in generation]
    assert len(set(measured)) == 40, "nothing is measured twice"
    for options in measured:
        network = {name: o[i] for (name, o), i in zip(SPACE.variables.items(), options, strict=True)}
        assert SPACE.architecture(network).macs <= MACS

    within = Within(SPACE, context.constraints, require_feasible(SPACE, context.constraints))
    rng = random.Random(99)
    chance = [strategy.accuracy(within.draw(rng)) for _ in range(20)]
    best = strategy.accuracy(dict(found.assignment))
    assert best == max(map(max, accuracies))
    assert best > sum(chance) / len(chance) + 0.1
    assert best >= max(chance)
    first, *later = (sum(generation) / 10 for generation in accuracies)
    assert sum(later) / 3 > first + 0.03, "children of the best are better than networks at random"


def counted(strategy: Evolution, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    accuracy: Callable[..., float] = Evolution.accuracy

    def count(self: Evolution, assignment: Any) -> float:
        calls.append(assignment)
        return accuracy(self, assignment)

    monkeypatch.setattr(Evolution, "accuracy", count)
    return calls


def test_generations_that_are_done_are_taken_up_and_others_are_not(
    context: SearchContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = context.folder / "evolution.json"
    whole = Evolution(context).derive()
    content = json.loads(path.read_text())
    calls = counted(Evolution(context), monkeypatch)
    assert Evolution(context).derive() == whole
    assert not calls, "a search that is finished measures nothing"

    path.write_text(json.dumps({**content, "generations": content["generations"][:2]}))
    assert Evolution(context).derive() == whole
    assert len(calls) == 20
    assert json.loads(path.read_text()) == content

    damaged = [content["generations"][0][0] | {"options": [99] * len(SPACE.variables)}]
    for other in ("", "{}", json.dumps({**content, "generations": [damaged]})):
        path.write_text(other)
        calls.clear()
        assert Evolution(context).derive() == whole
        assert len(calls) == 40
    tighter: tuple[Constraint, ...] = (limit_on(SPACE, "macs", 0.7 * MACS),)
    calls.clear()
    found = Evolution(replace(context, constraints=tighter)).derive()
    assert len(calls) == 40
    assert SPACE.architecture(found.assignment).macs <= 0.7 * MACS


def test_a_space_of_few_networks_is_measured_whole_and_no_more(context: SearchContext) -> None:
    smallest = require_feasible(SPACE, [limit_on(SPACE, "params", 1e9)])
    few = limit_on(SPACE, "macs", 1.05 * SPACE.architecture(smallest).macs)
    found = Evolution(replace(context, constraints=(few,))).derive()
    assert SPACE.architecture(found.assignment).macs <= few.limit
    state = json.loads((context.folder / "evolution.json").read_text())
    assert 0 < sum(map(len, state["generations"])) < 40
