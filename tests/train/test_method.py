"""The method of training, by numbers worked out by hand: each of its parts would be missed here."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from fbnet_mobile.data.data import Data, load_data
from fbnet_mobile.engine.checkpoint import load_checkpoint
from fbnet_mobile.train.loop import train
from fbnet_mobile.train.recipe import TrainRecipe

SMOOTHING, DECAY, RATE, MOMENTUM = 0.1, 0.5, 0.2, 0.9


class Constant(nn.Module):
    """Logits that no weight moves: only decay changes a weight, and the loss is known.

    The first logit is the weight, the second is given: once the weight has shrunk below it, another class is the
    answer.
    """

    def __init__(self, second: float = 0.6) -> None:
        super().__init__()
        self.second = second
        self.weight = nn.Parameter(torch.ones(1, 1))
        self.bias = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        nothing = 0 * (self.norm(images).sum() + self.weight.sum() + self.bias.sum())
        first = self.weight.detach().expand(len(images), 1)
        second = torch.full_like(first, self.second)
        return torch.cat([first, second, torch.zeros(len(images), 8)], dim=1) + nothing


@pytest.fixture(scope="module")
def data() -> Data:
    """Validation images of the first class alone."""
    found = load_data("digits", resolution=8, limit=80, show_progress=False)
    zeros = found.val.labels == 0
    return replace(found, val=replace(found.val, index=found.val.index[zeros], labels=found.val.labels[zeros]))


Run = tuple[pd.DataFrame, dict[str, Any], dict[str, Tensor]]


def run(data: Data, out: Path, second: float = 0.6, **changes: Any) -> Run:
    """The log, the state, and the weights of the checkpoint."""
    settings = {"epochs": 2, "batch_size": 16, "learning_rate": RATE, "weight_decay": DECAY, "warmup_epochs": 0.0}
    recipe = TrainRecipe(**{**settings, "momentum": MOMENTUM, "label_smoothing": SMOOTHING, **changes})
    fabric = Fabric(accelerator="cpu", devices=1)
    train(Constant(second), data, recipe, out, fabric, architecture="constant", show_progress=False)
    state = torch.load(out / "last.pt", weights_only=True)["task"]
    return pd.read_csv(out / "results.csv"), state, load_checkpoint(out / "best.pt").state_dict


def weights_by_hand(steps: int, decay: float = DECAY) -> list[float]:
    """The decayed weight after each step of SGD with Nesterov's momentum at a cosine's learning rate."""
    weight, velocity, found = 1.0, 0.0, []
    for step in range(1, steps + 1):
        rate = RATE * (1 + math.cos(math.pi * step / steps)) / 2
        gradient = decay * weight
        velocity = MOMENTUM * velocity + gradient
        weight -= rate * (gradient + MOMENTUM * velocity)
        found.append(weight)
    return found


def test_weights_decay_as_nesterovs_steps_say_and_biases_and_batch_norm_do_not(data: Data, tmp_path: Path) -> None:
    _, state, _ = run(data, tmp_path)
    steps = 2 * (len(data.train) // 16)
    assert float(state["module"]["weight"]) == pytest.approx(weights_by_hand(steps)[-1], rel=1e-5)
    for name, expected in (("bias", 1.0), ("norm.weight", 1.0), ("norm.bias", 0.0)):
        assert (state["module"][name] == expected).all(), name


def test_the_learning_rate_in_the_log_rises_in_the_warm_up_and_falls_as_a_cosine_to_zero(
    data: Data, tmp_path: Path
) -> None:
    log, _, _ = run(data, tmp_path, epochs=5, warmup_epochs=2.0)
    cosine = [RATE * (1 + math.cos(math.pi * done / 3)) / 2 for done in (0, 1, 2, 3)]
    assert log["learning_rate"].tolist() == pytest.approx([RATE / 2, *cosine], abs=1e-12)


def test_the_loss_is_the_cross_entropy_with_smoothed_labels(data: Data, tmp_path: Path) -> None:
    few = data.train.labels < 3  # where all classes are equally many, smoothing changes nothing
    data = replace(data, train=replace(data.train, index=data.train.index[few], labels=data.train.labels[few]))
    log, _, _ = run(data, tmp_path, epochs=1, weight_decay=0.0, batch_size=len(data.train))
    logits = [1.0, 0.6, *[0.0] * 8]
    surprise = [math.log(sum(math.exp(x) for x in logits)) - x for x in logits]
    mean = sum(surprise[label] for label in data.train.labels.tolist()) / len(data.train)
    assert log["train_loss"][0] == pytest.approx((1 - SMOOTHING) * mean + SMOOTHING * sum(surprise) / 10, rel=1e-5)
    assert log["train_accuracy"][0] == pytest.approx(float((data.train.labels == 0).float().mean()))


def test_the_moving_average_is_what_is_evaluated_and_kept(data: Data, tmp_path: Path) -> None:
    """After the first epoch the weight itself answers the second class, its moving average still the first."""
    decay, steps = 0.9, len(data.train) // 16
    weights = weights_by_hand(steps)
    average = weights[0]
    for number, weight in enumerate(weights[1:], start=1):
        share = min(decay, (1 + number) / (10 + number))
        average = share * average + (1 - share) * weight
    between = (weights[-1] + average) / 2
    log, state, kept = run(data, tmp_path, between, epochs=1, ema_decay=decay)
    assert float(state["module"]["weight"]) == pytest.approx(weights[-1], rel=1e-5)
    assert float(kept["weight"]) == pytest.approx(average, rel=1e-5)
    assert log["val_accuracy"][0] == 1.0
    plain, _, _ = run(data, tmp_path / "plain", between, epochs=1)
    assert plain["val_accuracy"][0] == 0.0


def test_statistics_of_batch_norm_are_averaged_as_weights_are_across_an_interruption(
    data: Data, tmp_path: Path
) -> None:
    after: list[Tensor] = []
    steps = len(data.train) // 16

    class Watched(Constant):
        interrupted = False

        def forward(self, images: Tensor) -> Tensor:
            out = super().forward(images)
            if self.training:
                if self.interrupted and len(after) == steps:  # in the second epoch, which begins again
                    raise KeyboardInterrupt
                assert self.norm.running_mean is not None
                after.append(self.norm.running_mean.clone())
            return out

    def run(module: nn.Module) -> None:
        recipe, fabric = TrainRecipe(epochs=2, batch_size=16, ema_decay=0.9), Fabric(accelerator="cpu", devices=1)
        train(module, data, recipe, tmp_path, fabric, architecture="", show_progress=False)

    first = Watched()
    first.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        run(first)
    run(Watched())
    assert len(after) == 2 * steps
    average = after[0]
    for number, now in enumerate(after[1:], start=1):
        share = (1 + number) / (10 + number)
        average = share * average + (1 - share) * now
    state = torch.load(tmp_path / "last.pt", weights_only=True)["task"]["average"]
    torch.testing.assert_close(state["module.norm.running_mean"], average)
    assert not torch.allclose(average, after[-1], rtol=0.01)


def test_dropout_is_on_while_training_and_off_while_evaluating(data: Data, tmp_path: Path) -> None:
    seen: list[bool] = []

    class Watched(Constant):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(self.training)
            return super().forward(images)

    recipe = TrainRecipe(epochs=1, batch_size=len(data.train))
    train(Watched(), data, recipe, tmp_path, Fabric(accelerator="cpu", devices=1), architecture="", show_progress=False)
    assert seen[0], "the training step"
    assert len(seen) > 1
    assert not any(seen[1:]), "validation and test"
