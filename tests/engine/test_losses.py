"""Losses by hand, and teachers."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from fbnet_mobile.arch import Architecture
from fbnet_mobile.blocks.network import build
from fbnet_mobile.data.data import load_data
from fbnet_mobile.engine.checkpoint import Checkpoint, save_checkpoint
from fbnet_mobile.engine.losses import LOSSES, Teacher, class_weights, make_loss
from fbnet_mobile.errors import UserError
from fbnet_mobile.train.recipe import TrainRecipe

ARCHITECTURE = """
name: tiny
resolution: 16
blocks:
  - {kind: conv, out_channels: 4, stride: 2}
  - {kind: head, out_channels: 2, conv_channels: 8}
"""
IMAGES = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
FABRIC = Fabric(accelerator="cpu", devices=1)


def teacher_file(folder: Path) -> Path:
    torch.manual_seed(0)
    module = build(Architecture.from_yaml(ARCHITECTURE, "tiny"))
    torch.nn.init.normal_(module[-1].classifier.weight)
    checkpoint = Checkpoint(
        ARCHITECTURE, module.state_dict(), ("cat", "dog"), (0.5, 0.4, 0.3), (0.2, 0.25, 0.5), 16, 0.9, 0.8
    )
    save_checkpoint(folder / "teacher.pt", checkpoint)
    return folder / "teacher.pt"


def test_distillation_is_hintons_sum_of_soft_and_hard_targets() -> None:
    recipe = TrainRecipe(
        distillation="soft", distillation_weight=0.3, distillation_temperature=2.0, label_smoothing=0.0
    )
    logits, labels = torch.tensor([[2.0, 0.0]], requires_grad=True), torch.tensor([1])
    loss = LOSSES.get("distillation")(recipe)(logits, labels, IMAGES[:1], lambda images: torch.tensor([[0.0, 4.0]]))
    student, taught = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(2))  # of the first class, at temperature 2
    divergence = taught * math.log(taught / student) + (1 - taught) * math.log((1 - taught) / (1 - student))
    assert float(loss.detach()) == pytest.approx(0.7 * math.log(1 + math.exp(2)) + 0.3 * 4 * divergence, rel=1e-5)
    (slope,) = torch.autograd.grad(loss, logits)
    hard = 1 / (1 + math.exp(-2))
    assert float(slope[0, 0]) == pytest.approx(0.7 * hard + 0.3 * 2 * (student - taught), rel=1e-5)


def test_a_network_that_answers_as_its_teacher_has_nothing_to_learn_from_it() -> None:
    logits = torch.randn(6, 4)
    for kind in ("soft", "logits"):
        recipe = TrainRecipe(distillation=kind, distillation_weight=1.0, distillation_temperature=5.0)  # type: ignore[arg-type]
        loss = LOSSES.get("distillation")(recipe)(logits, torch.zeros(6, dtype=torch.int64), IMAGES, lambda _: logits)
        assert float(loss) == pytest.approx(0.0, abs=1e-6)


def test_a_teacher_answers_as_its_checkpoint_does_whatever_the_images_are_normalised_with(tmp_path: Path) -> None:
    path = teacher_file(tmp_path)
    own = Teacher.load(path, ("cat", "dog"), ((0.5, 0.4, 0.3), (0.2, 0.25, 0.5)), FABRIC)
    found = own(IMAGES.requires_grad_())
    assert not found.requires_grad
    torch.testing.assert_close(found[:2], own(IMAGES[:2]))  # an answer does not depend on the others in its batch
    std, mean = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.2, 0.25, 0.5), (0.5, 0.4, 0.3)))
    pixels = IMAGES * std + mean
    other = Teacher.load(path, ("cat", "dog"), ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5)), FABRIC)
    torch.testing.assert_close(other((pixels - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)) / 0.5), found)
    assert other(torch.randn(2, 3, 32, 32)).shape == (2, 2), "at its own resolution"


def test_a_teacher_of_other_classes_is_refused(tmp_path: Path) -> None:
    path = teacher_file(tmp_path)
    for classes, said in ((("dog", "cat"), "has 'cat' where the data have 'dog'"), (("cat",), "has 2 classes where")):
        with pytest.raises(UserError, match=rf"the teacher .*teacher\.pt {said}.*; give one trained on the same"):
            Teacher.load(path, classes, ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), FABRIC)
    with pytest.raises(UserError, match="unknown loss 'cross-entropy'; did you mean 'cross_entropy'"):
        LOSSES.get("cross-entropy")


LOGITS, TAUGHT = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 4.0, 1.0]])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("hard", math.log(math.exp(2) + 2)), ("logits", ((2 - 2 / 3 + 5 / 3) ** 2 + (7 / 3 + 2 / 3) ** 2) / 3)],
)
def test_other_kinds_of_distillation_by_hand(kind: str, expected: float) -> None:
    recipe = TrainRecipe(distillation=kind, distillation_weight=1.0)  # type: ignore[arg-type]
    loss = LOSSES.get("distillation")(recipe)(LOGITS, torch.tensor([0]), IMAGES[:1], lambda images: TAUGHT)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_the_focal_loss_by_hand() -> None:
    loss = LOSSES.get("focal")(TrainRecipe(label_smoothing=0.0))(LOGITS, torch.tensor([0]), IMAGES[:1], None)
    share = math.exp(2) / (math.exp(2) + 2)
    assert float(loss) == pytest.approx(-((1 - share) ** 2) * math.log(share), rel=1e-5)


def test_images_without_a_label_count_for_the_teacher_alone(tmp_path: Path) -> None:
    data = load_data("digits", resolution=16, limit=100, show_progress=False)
    labels = data.train.labels.clone()
    labels[:50] = -1
    mixed = replace(data, train=replace(data.train, labels=labels))
    recipe = TrainRecipe(label_smoothing=0.0)
    with pytest.raises(UserError, match="unlabelled images teach nothing without a teacher"):
        make_loss(recipe, mixed, FABRIC)
    loss = LOSSES.get("distillation")(TrainRecipe(label_smoothing=0.0, distillation_weight=0.5))
    loss.partly = True
    logits = torch.cat([LOGITS, LOGITS])
    found = loss(logits, torch.tensor([-1, 1]), IMAGES[:2], lambda images: logits)
    assert float(found) == pytest.approx(0.5 * math.log(math.exp(2) + 2) / 2, rel=1e-5)
    assert float(loss(logits, torch.tensor([-1, -1]), IMAGES[:2], lambda images: logits)) == 0


def test_rare_classes_weigh_more(tmp_path: Path) -> None:
    data = load_data("digits", resolution=16, limit=100, show_progress=False)
    labels = torch.tensor([0] * 30 + [1] * 10)
    data = replace(data, classes=("cat", "dog"), train=replace(data.train, labels=labels, index=torch.arange(40)))
    assert class_weights("balanced", data).tolist() == pytest.approx([40 / 60, 2.0])
    path = tmp_path / "weights.yaml"
    path.write_text("dog: 3\ncat: 0.5\n")
    assert class_weights(str(path), data).tolist() == [0.5, 3.0]
    loss, _ = make_loss(TrainRecipe(class_weights=str(path), label_smoothing=0.0), data, FABRIC)
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    right, wrong = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    expected = (0.5 * right + 3 * wrong) / 3.5
    assert float(loss(logits, torch.tensor([0, 1]), IMAGES[:2], None)) == pytest.approx(expected, rel=1e-5)
    path.write_text("dog: 3\n")
    with pytest.raises(
        UserError, match=r"weights\.yaml has no weight for the class cat; write a line such as cat: 1\.5"
    ):
        class_weights(str(path), data)
