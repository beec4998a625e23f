"""Recipes by name, and what of them is a formula."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fbnet_mobile.api.train import completed
from fbnet_mobile.errors import UserError
from fbnet_mobile.recipe import build
from fbnet_mobile.train.optimizer import make_optimizer, parameter_groups, set_learning_rate
from fbnet_mobile.train.recipe import RECIPES, TrainRecipe, read_recipe, with_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_named_recipe_is_one_and_what_is_given_counts_before_it(name: str) -> None:
    values = read_recipe(name)
    recipe = build(TrainRecipe, values)
    assert recipe != TrainRecipe()
    given = with_recipe({"recipe": name, "epochs": 7, "data": "digits"})
    assert given == {**values, "recipe": name, "epochs": 7, "data": "digits"}
    assert with_recipe({"epochs": 7}) == {"epochs": 7}


@pytest.mark.parametrize("weights", [{"pretrained": True}, {"weights": "mine.pth"}, {"checkpoint": "best.pt"}])
def test_trained_weights_are_fine_tuned_unless_another_recipe_is_named(weights: dict[str, object]) -> None:
    found = with_recipe({**weights, "clip": 1.0})
    assert found == {**read_recipe("finetune"), "recipe": "finetune", **weights, "clip": 1.0}
    assert with_recipe({**weights, "recipe": ""}) == {**weights, "recipe": ""}
    assert with_recipe({**weights, "quantize": "int8"})["recipe"] == "quantize"
    assert with_recipe({**weights, "quantize": "int8", "recipe": "mobile"})["recipe"] == "mobile"
    assert with_recipe({**weights, "recipe": "quick"}) == {**read_recipe("quick"), **weights, "recipe": "quick"}
    assert with_recipe({"pretrained": False, "weights": None}) == {"pretrained": False, "weights": None}


def test_what_is_trained_with_rounding_learns_from_itself_without() -> None:
    rounding = {"checkpoint": Path("best.pt"), "quantize": "int8", "recipe": ""}
    assert with_recipe(rounding) == {**rounding, "teacher": "best.pt"}
    for other in ({"teacher": ""}, {"teacher": "large.pt"}, {"loss": "focal"}):
        assert with_recipe({**rounding, **other}) == {**rounding, **other}
    losses = [build(TrainRecipe, {"teacher": name}).loss for name in ("large.pt", "")]
    assert losses == ["distillation", "cross_entropy"]


def test_what_a_search_within_a_trained_network_leaves_is_fine_tuned(tmp_path: Path) -> None:
    inherited = {"inherit": tmp_path}
    assert completed(inherited) == inherited  # no search: said by whoever reads its weights
    for written, chosen in (('{"within": "lite0"}', True), ('{"space": "small"}', False), ("[]", False), ("{", False)):
        (tmp_path / "result.json").write_text(written)
        assert (completed(inherited).get("recipe") == "finetune") is chosen
    (tmp_path / "result.json").write_text('{"within": "lite0"}')
    assert completed({**inherited, "recipe": ""}) == {**inherited, "recipe": ""}


def test_a_recipe_of_ones_own_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("batch-size: 12\naugmentations: [crop, erase:0.1]\n")
    assert read_recipe(str(path)) == {"batch_size": 12, "augmentations": ["crop", "erase:0.1"]}
    for text, said in (
        ("batchsize: 3\n", r"mine\.yaml: unknown option 'batchsize'; did you mean 'batch_size'"),
        ("clip: -1\n", r"mine\.yaml: clip is -1; give a finite number of at least 0"),
        ("output: run\n", "unknown option 'output'"),
        ("- 3\n", "holds no options of training"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=said):
            read_recipe(str(path))
    with pytest.raises(UserError, match="unknown recipe 'fine-tune'; did you mean 'finetune'"):
        read_recipe("fine-tune")
    with pytest.raises(UserError, match="no 3 equal parts; give an accumulate that divides batch_size"):
        TrainRecipe(batch_size=64, accumulate=3)


def test_the_learning_rate_falls_in_steps_or_steadily() -> None:
    steps = TrainRecipe(schedule="step", decay_epochs=2, decay_rate=0.5, warmup_epochs=1, learning_rate=0.8)
    steady = TrainRecipe(schedule="exponential", decay_epochs=2, decay_rate=0.25, warmup_epochs=1, learning_rate=0.8)
    assert [steps.learning_rate_at(epoch) for epoch in (0.5, 1, 2.9, 3, 5)] == pytest.approx([0.4, 0.8, 0.8, 0.4, 0.2])
    assert [steady.learning_rate_at(epoch) for epoch in (0.5, 1, 2, 3, 5)] == pytest.approx([0.4, 0.8, 0.4, 0.2, 0.05])


def test_earlier_layers_learn_more_slowly() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Linear(4, 2, bias=False))
    recipe = TrainRecipe(optimizer="adamw", layer_decay=0.5, weight_decay=0.3, momentum=0.8)
    optimizer = make_optimizer(module, recipe)
    set_learning_rate(optimizer, 0.4)
    found = [(len(group["params"]), group["weight_decay"], group["lr"]) for group in optimizer.param_groups]
    assert found == [(1, 0.3, 0.1), (1, 0.0, 0.1), (1, 0.3, 0.4)]
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.999)}
    assert [len(group["params"]) for group in parameter_groups(module, 0.1)] == [2, 1]


def test_rmsprop_is_tensorflows() -> None:
    """The mean square begins at 1, and epsilon is under the root."""
    weight = nn.Parameter(torch.tensor([[2.0]]))
    holder = nn.Module()
    holder.weight = weight
    recipe = TrainRecipe(optimizer="rmsprop", learning_rate=0.1, momentum=0.0, weight_decay=0.0)
    optimizer = make_optimizer(holder, recipe)
    weight.grad = torch.tensor([[3.0]])
    optimizer.step()
    assert float(weight.detach()) == pytest.approx(2 - 0.1 * 3 / (0.9 * 1 + 0.1 * 9 + 1e-3) ** 0.5, rel=1e-6)
