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

from fbnet_mobile.data.data import Data, load_data, training_batches
from fbnet_mobile.engine.checkpoint import load_checkpoint
from fbnet_mobile.train.loop import balanced, train
from fbnet_mobile.train.recipe import TrainRecipe
from fbnet_mobile.train.regularise import Mixing, regularise

CPU = torch.device("cpu")
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


def layers() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def train_layers(module: nn.Module, data: Data, out: Path, **changes: Any) -> dict[str, Tensor]:
    """The weights as the last step leaves them."""
    recipe = TrainRecipe(**{"epochs": 1, "batch_size": 16, "learning_rate": 0.05, "augmentations": (), **changes})
    fabric = Fabric(accelerator="cpu", devices=1)
    train(module, data, recipe, out, fabric, architecture="layers", show_progress=False)
    found: dict[str, Tensor] = torch.load(out / "last.pt", weights_only=True)["task"]["module"]
    return found


def test_a_batch_in_parts_is_a_batch(data: Data, tmp_path: Path) -> None:
    def without_norm() -> nn.Module:
        return nn.Sequential(*(layer for layer in layers() if not isinstance(layer, nn.BatchNorm2d)))

    whole = train_layers(without_norm(), data, tmp_path / "whole")
    parts = train_layers(without_norm(), data, tmp_path / "parts", accumulate=4)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-6)
    first, second = (pd.read_csv(tmp_path / name / "results.csv") for name in ("whole", "parts"))
    assert first["train_loss"][0] == pytest.approx(second["train_loss"][0], rel=1e-5)
    assert first["train_accuracy"][0] == pytest.approx(second["train_accuracy"][0])


def test_a_crop_without_a_strength_keeps_the_recipes_share(tmp_path: Path) -> None:
    digits = load_data("digits", resolution=64, limit=32, show_progress=False)

    def seen(name: str, **changes: Any) -> Tensor:
        views: list[Tensor] = []

        class Watched(Constant):
            def forward(self, images: Tensor) -> Tensor:
                if self.training:
                    views.append(images)
                return super().forward(images)

        train_layers(Watched(), digits, tmp_path / name, batch_size=len(digits.train), **changes)
        return views[0]

    usual = seen("usual", augmentations=None)
    assert torch.equal(seen("said", augmentations=("crop:0.35",)), usual)
    wide = seen("wide", augmentations=None, crop_area=0.9)
    assert torch.equal(seen("named", augmentations=("crop:0.9",)), wide)
    assert torch.equal(seen("both", augmentations=("crop:0.9",), crop_area=0.5), wide)
    assert not torch.equal(wide, usual)


def test_frozen_epochs_train_the_classifier_alone(data: Data, tmp_path: Path) -> None:
    module = layers()
    module[1].running_mean.fill_(0.3)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    kept: list[dict[str, Tensor]] = []

    class Watched(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            if self.training:
                kept.append({name: value.clone() for name, value in self.state_dict().items()})
            out: Tensor = super().forward(images)
            return out

    train_layers(Watched(*module), data, tmp_path, epochs=2, freeze_epochs=1, momentum=0.0)
    steps = len(kept) // 2
    for name, value in before.items():
        assert torch.equal(kept[steps][name], value) is not name.startswith("4."), name
    assert not torch.equal(kept[-1]["0.weight"], before["0.weight"])
    assert not torch.equal(kept[-1]["1.running_mean"], before["1.running_mean"])


def test_a_gradient_is_no_longer_than_the_clip(data: Data, tmp_path: Path) -> None:
    before = layers().state_dict()
    settings = {"batch_size": len(data.train), "clip": 0.01, "weight_decay": 0.0, "momentum": 0.0, "warmup_epochs": 0.0}
    # The one step is the last, at a learning rate of zero but for the schedule of steps.
    after = train_layers(layers(), data, tmp_path, schedule="step", **settings)
    moved = sum(float((after[name] - value).square().sum()) for name, value in before.items() if "running" not in name
                and "num_batches" not in name)  # fmt: skip
    assert moved**0.5 == pytest.approx(0.05 * 0.01, rel=1e-3)


def test_statistics_of_batch_norm_are_those_of_training_images_before_an_evaluation(data: Data, tmp_path: Path) -> None:
    changes = {"batch_norm_images": 10**6, "ema_decay": 0.9, "dropout": 0.5, "augmentations": ("flip",)}
    data = replace(data, train=data.train.limit(60))
    train_layers(layers(), data, tmp_path, **changes)
    kept = load_checkpoint(tmp_path / "best.pt").state_dict
    convolution = nn.Conv2d(3, 4, 3)
    convolution.load_state_dict({"weight": kept["0.weight"], "bias": kept["0.bias"]})
    ((images, _),) = training_batches(data.train, data, 60, seed=0, epoch=0, device=CPU, augmentations=["flip"])
    with torch.no_grad():
        found = convolution(images).mean((0, 2, 3))
    torch.testing.assert_close(kept["1.running_mean"], found, rtol=1e-4, atol=1e-5)


def test_inputs_and_branches_are_dropped_in_steps_alone() -> None:
    class Block(nn.Module):
        residual = True

        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            added: Tensor = x + self.project(x)
            return added

    module = nn.Sequential(Block(), Block(), nn.Linear(1, 1, bias=False))
    nn.init.ones_(module[2].weight)
    regularise(module, dropout=0.25, drop_path=0.5)
    torch.manual_seed(0)
    ones = torch.ones(8000, 1)
    found, counts = module(ones).detach().unique(return_counts=True)
    # Branches are kept with 3/4 and 1/2, and then grow by the inverse; so do inputs of the last layer.
    values = [0.0, *(one * two / 0.75 for one in (1.0, 1 + 4 / 3) for two in (1.0, 3.0))]
    assert found.tolist() == pytest.approx(sorted(values))
    share = dict(zip(found.round(decimals=3).tolist(), (counts / 8000).tolist(), strict=True))
    assert share[0.0] == pytest.approx(0.25, abs=0.03)
    with torch.no_grad():
        assert module(ones).unique().tolist() == [4.0], "statistics of batch norm are not of dropped branches"
    assert module.eval()(ones).unique().tolist() == [4.0]


def test_images_are_mixed_as_their_labels_are_in_the_first_epochs(data: Data) -> None:
    images, labels = torch.eye(10)[:, :, None, None].expand(-1, -1, 8, 8).clone(), torch.arange(10)
    for settings in ({"mixup": 0.5}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 1.0}):
        mixing = Mixing(TrainRecipe(epochs=10, mix_epochs=0.5, **settings), 10)
        torch.manual_seed(1)
        mixed, shares = mixing(images, labels, epoch=5)
        assert not torch.equal(mixed, images)
        torch.testing.assert_close(mixed.mean((2, 3)), shares, atol=1e-5, rtol=0)
        assert mixing(images, labels, epoch=6)[1] is labels


def test_a_balanced_sampler_draws_all_classes_equally_often(data: Data) -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    split = replace(data.train, index=torch.arange(100) % 5, labels=labels)
    drawn = [
        label
        for epoch in range(20)
        for _, found in split.shuffled(50, seed=0, epoch=epoch, weights=balanced(labels))
        for label in found
    ]
    assert 0.45 < float(torch.stack(drawn).float().mean()) < 0.55
    repeated = [label for _, found in split.shuffled(50, seed=0, epoch=0, repeats=2) for label in found]
    assert len(repeated) == 100
