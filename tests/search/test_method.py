"""The method of the search, by numbers worked out by hand: each of its parts would be missed here."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from fbnet_mobile.cost.constraint import limit_on
from fbnet_mobile.data.data import Data, load_data
from fbnet_mobile.data.store import Change, Request
from fbnet_mobile.search.loop import search
from fbnet_mobile.search.recipe import SearchRecipe
from fbnet_mobile.search.strategies.base import SearchContext, Step
from fbnet_mobile.search.strategies.gradient import Gradient
from fbnet_mobile.search.supernet import Supernet
from fbnet_mobile.space import SearchSpace

SPACE = SearchSpace.from_yaml(
    """
name: tiny
resolution: 8
classes: 10
stem: {out_channels: [8, 12, 16], stride: 2}
stages:
  - out_channels: [8, 12, 16]
    depth: 1
    skip: false
    expansion_ratio: [1, 2, 3]
    kernel_size: 3
    squeeze_excite: false
    activation: relu
head: {conv_channels: [16, 32]}
"""
)
WIDTH = "stage1.block1.expansion_ratio"


class Numbered:
    """A store whose images are their numbers: one value in all pixels of an image."""

    cuts = False

    def fetch(self, requests: Sequence[Request], change: Change | None = None) -> Iterator[Tensor]:
        assert change is not None  # which nobody would see in an image of one value
        for request in requests:
            yield request.numbers.to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 8, 8)


@pytest.fixture(scope="module")
def data() -> Data:
    """200 images that a network sees as their numbers, 0 to 199, in the middle pixel."""
    found, index = load_data("digits", resolution=8, limit=200, show_progress=False), torch.arange(200)
    train = replace(found.train, store=Numbered(), index=index, labels=index % 10)
    return replace(found, train=train, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))


def run(data: Data, out: Path, **changes: Any) -> pd.DataFrame:
    recipe = SearchRecipe(**{"epochs": 2, "batch_size": 8, "learning_rate": 1e-4, "warmup": 0.25, **changes})
    limit = limit_on(SPACE, "macs", 40_000)
    search(SPACE, [limit], data, recipe, out, Fabric(accelerator="cpu", devices=1), show_progress=False)
    return pd.read_csv(out / "log.csv")


class Watched:
    """What the supernet is given in each step of the weights and of the architecture parameters."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.weight_steps: list[dict[str, Tensor]] = []
        self.architecture_steps: list[dict[str, Tensor]] = []
        self.images: dict[str, set[int]] = {"weights": set(), "architecture": set()}
        self.classifiers: list[Tensor] = []
        forward = Supernet.forward

        def watched(supernet: Supernet, images: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
            classifier = supernet.parts[-1].classifier.weight
            kind = "weights" if classifier.requires_grad else "architecture"
            self.images[kind] |= {round(value) for value in images[:, 0, 4, 4].tolist()}
            steps = self.weight_steps if kind == "weights" else self.architecture_steps
            steps.append({name: value.detach().clone() for name, value in weights.items()})
            if kind == "weights":
                self.classifiers.append(classifier.detach().clone())
            return forward(supernet, images, weights)

        monkeypatch.setattr(Supernet, "forward", watched)


def test_the_temperature_falls_from_5_to_its_end_and_the_weights_see_draws_that_become_decided(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    log = run(data, tmp_path)
    assert log["temperature"].tolist() == pytest.approx([math.sqrt(5 * 0.087), 0.087])
    largest = [float(weights[WIDTH].max()) for weights in watched.weight_steps]
    assert max(largest[:4]) < 0.6, "near a third each, at a temperature of 5"
    assert min(largest[-4:]) > 0.9, "nearly one option, at 0.087"
    assert log["confidence"].iloc[-1] < 0.5, "although the probabilities are far from decided"
    chosen = {int(weights[WIDTH].argmax()) for weights in watched.weight_steps[-20:]}
    assert chosen == {0, 1, 2}, "every option is trained"


def test_weights_and_architecture_learn_of_disjoint_images(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    run(data, tmp_path)
    assert watched.images["weights"].isdisjoint(watched.images["architecture"])
    assert len(watched.images["weights"]) == 160
    assert len(watched.images["architecture"]) > 30


def test_the_learning_rate_of_the_weights_has_fallen_to_nothing_in_the_last_step(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    run(data, tmp_path)
    end = torch.load(tmp_path / "last.pt", weights_only=True)["task"]["supernet"]
    (name,) = (name for name in end if name.endswith("classifier.weight"))
    assert torch.equal(watched.classifiers[-1], end[name]), "what the last step saw is what is left"
    moves = [float((b - a).abs().mean()) for a, b in zip(watched.classifiers, watched.classifiers[1:], strict=False)]
    assert moves[-1] < 0.1 * max(moves)


def test_the_weights_decay_with_momentum_at_a_rate_that_rises_and_falls(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing depends on the weights, what is left of them is known."""

    def constant(supernet: Supernet, images: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        nothing = sum(part.sum() for part in (*supernet.parameters(), *weights.values()))
        return torch.zeros(len(images), 10) + 0 * nothing

    monkeypatch.setattr(Supernet, "forward", constant)
    watched = Watched(monkeypatch)
    run(data, tmp_path, learning_rate=0.2, momentum=0.8, weight_decay=0.5)
    left, velocity = 1.0, 0.0
    assert len(watched.classifiers) == 40
    for number in range(1, 41):
        rate = 0.2 * min(1.0, number / 2) * (1 + math.cos(math.pi * number / 40)) / 2  # up within 5 % of the steps
        velocity = 0.8 * velocity + 0.5 * left
        left -= rate * velocity
        if number < 40:
            torch.testing.assert_close(watched.classifiers[number], left * watched.classifiers[0])


def test_every_step_of_either_kind_has_a_draw_of_its_own(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    run(data, tmp_path)
    draws = [tuple(weights[WIDTH].tolist()) for weights in watched.weight_steps + watched.architecture_steps]
    assert len(watched.architecture_steps) == 8, "of 5 in each of two epochs, after a warm-up of half an epoch"
    assert len(set(draws)) == len(draws)


class Constant(nn.Module):
    """A supernet whose cross-entropy does not depend on the architecture."""

    def forward(self, images: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        return torch.zeros(len(images), 10) + 0 * sum(weight.sum() for weight in weights.values())


def strategy(data: Data, supernet: nn.Module, limit: float, **changes: Any) -> Gradient:
    recipe = SearchRecipe(**{"architecture_learning_rate": 0.02, "architecture_weight_decay": 0.0, **changes})
    fabric = Fabric(accelerator="cpu", devices=1)
    macs = limit_on(SPACE, "macs", limit)
    return Gradient(SearchContext(SPACE, [macs], recipe, fabric, supernet, data.train, data, Path()))  # type: ignore[arg-type]


def step(number: int, progress: float = 1.0) -> Step:
    return Step(1, number, progress, torch.Generator().manual_seed(number))


IMAGES, LABELS = torch.zeros(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64)


def test_at_constant_cross_entropy_the_expected_cost_falls_to_the_limit_and_the_multiplier_rises(data: Data) -> None:
    start = strategy(data, Constant(), 1.0).columns()["expected_macs"]
    limit = 0.8 * start
    found = strategy(data, Constant(), limit)
    rows = []
    for number in range(1, 301):
        found.learn(IMAGES, LABELS, step(number))
        rows.append(found.columns())
    assert rows[0]["expected_macs"] == pytest.approx(start, rel=0.05)
    assert rows[0]["multiplier_macs"] == pytest.approx(0.05 * (1 / 0.8 - 1), rel=1e-3), "the rate times the excess"
    rising = [row["multiplier_macs"] for row in rows[:10]]
    assert rising == sorted(rising)
    assert rising[-1] > 5 * rising[0]
    assert rows[-1]["expected_macs"] <= limit


def test_the_first_step_of_adam_moves_every_logit_of_a_free_choice_by_the_learning_rate(data: Data) -> None:
    found = strategy(data, Constant(), 1000.0, architecture_learning_rate=0.03)
    found.learn(IMAGES, LABELS, step(1))
    for logits in found.choices.parameters():  # options from narrow to wide
        assert float(logits[0].detach()) == pytest.approx(0.03, rel=1e-3)
        assert float(logits[-1].detach()) == pytest.approx(-0.03, rel=1e-3)
    assert found.columns()["expected_macs"] < strategy(data, Constant(), 1000.0).columns()["expected_macs"]


def test_logits_decay_towards_even_choices(data: Data) -> None:
    found = strategy(data, Constant(), 1e9, architecture_learning_rate=0.03, architecture_weight_decay=0.1)
    number = [name for name, options in SPACE.variables.items() if len(options) > 1].index(WIDTH)
    with torch.no_grad():
        found.choices.logits[number].copy_(torch.tensor([-1.0, 0.0, 2.0]))
    found.learn(IMAGES, LABELS, step(1))
    assert found.choices.logits[number].tolist() == pytest.approx([-0.97, 0.0, 1.97], rel=1e-3)


def test_the_architecture_step_sees_the_statistics_of_its_batch(data: Data) -> None:
    torch.manual_seed(0)
    supernet = Supernet(SPACE)
    nn.init.normal_(supernet.parts[-1].classifier.weight)
    images, labels = torch.randn(16, 3, 8, 8), torch.arange(16) % 10
    for part in supernet.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            part.running_mean.fill_(3.0)  # of no batch
    found = strategy(data, supernet, 1e9)
    with torch.no_grad():
        weights = found.sample(step(7))
        of_the_batch, gathered = (
            float(F.cross_entropy(supernet.train(mode)(images, weights), labels)) for mode in (True, False)
        )
    for part in supernet.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            part.running_mean.fill_(3.0)
    loss = float(found.learn(images, labels, step(7)).loss) if supernet.train() else math.nan
    assert loss == pytest.approx(of_the_batch, rel=1e-5)
    assert abs(of_the_batch - gathered) > 1e-3, "the test is to tell one from the other"


def test_options_are_drawn_as_often_as_they_are_probable(data: Data) -> None:
    """Gumbel-softmax: the largest weight is that of option i with probability softmax(theta)_i, whatever the theta."""
    found = strategy(data, Constant(), 1e9)
    number = [name for name, options in SPACE.variables.items() if len(options) > 1].index(WIDTH)
    with torch.no_grad():
        found.choices.logits[number].copy_(torch.tensor([0.0, 1.0, 2.0]))
    draws = [int(found.sample(step(seed))[WIDTH].argmax()) for seed in range(2000)]
    shares = [draws.count(option) / 2000 for option in range(3)]
    assert shares == pytest.approx(torch.tensor([0.0, 1.0, 2.0]).softmax(0).tolist(), abs=0.035)


def test_both_kinds_of_steps_see_the_same_rounding_in_mixed_precision(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    forward = Supernet.forward

    def watched(supernet: Supernet, images: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        kinds = {images.dtype, *(weight.dtype for weight in weights.values())}
        seen[next(supernet.parameters()).requires_grad] |= kinds
        logits = forward(supernet, images, weights)
        seen[next(supernet.parameters()).requires_grad].add(logits.dtype)
        return logits

    monkeypatch.setattr(Supernet, "forward", watched)
    recipe = SearchRecipe(epochs=1, batch_size=16)
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    limit = limit_on(SPACE, "macs", 40_000)
    search(SPACE, [limit], data, recipe, tmp_path, fabric, show_progress=False)
    assert seen[True] == seen[False] == {torch.bfloat16}
