"""What training minimises: one class a loss, registered by name."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from fbnet_mobile.data.data import Data
from fbnet_mobile.documents import parse_yaml
from fbnet_mobile.engine.checkpoint import load_checkpoint
from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.files import read_text
from fbnet_mobile.registry import Registry

Colours = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of each channel, on the scale from 0 to 1."""

Teach = Callable[[Tensor], Tensor]
"""A teacher's logits, (B, classes) float32 without gradient, for the images that the network saw."""


class LossSettings(Protocol):
    """What is read here of a recipe (``TrainRecipe``)."""

    @property
    def loss(self) -> str:
        """Name of the loss."""

    @property
    def teacher(self) -> str:
        """Path of the teacher's checkpoint; empty for none."""

    @property
    def class_weights(self) -> str:
        """Of the labels' part: "balanced", a file, or empty for none."""

    @property
    def label_smoothing(self) -> float:
        """Share of the target spread over all classes."""

    @property
    def distillation(self) -> str:
        """What of the teacher is learnt: "soft", "hard" or "logits"."""

    @property
    def distillation_weight(self) -> float:
        """Share of the teacher's part, 0 to 1."""

    @property
    def distillation_temperature(self) -> float:
        """By which logits of both are divided."""


class Loss(ABC):
    """A loss of one batch.

    Subclass it, and register the class with ``LOSSES.add(name, MyLoss)``; ``--loss name`` takes it.

    Args:
        recipe: how to train.

    Attributes:
        class_weights: (classes,) float32, how much each class counts; None for all the same.
        partly: whether some images have no label, which is -1 for them.
    """

    class_weights: Tensor | None = None
    partly = False

    needs_teacher: ClassVar[bool] = False
    """Whether it learns from a teacher; without one it is then refused before the training begins."""

    def __init__(self, recipe: LossSettings) -> None:
        self.recipe = recipe

    @abstractmethod
    def __call__(self, logits: Tensor, labels: Tensor, images: Tensor, teacher: Teach | None) -> Tensor:
        """The mean loss of a batch, a scalar.

        Args:
            logits: (B, classes) float32, of the network that is trained.
            labels: (B,) int64, or (B, classes) float32 shares where images were mixed.
            images: (B, 3, R, R) float32, as the network saw them: augmented and normalised.
            teacher: gives its logits for images; None if there is none.
        """

    def by_labels(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy with smoothed labels, of the images that have one; arguments as of the loss."""
        share = 1.0
        if self.partly:
            known = labels >= 0
            share = int(known.sum()) / len(labels)
            if not share:
                return 0 * logits.sum()
            logits, labels = logits[known], labels[known]
        smoothing = self.recipe.label_smoothing
        return share * F.cross_entropy(logits, labels, self.class_weights, label_smoothing=smoothing)


LOSSES: Registry[type[Loss]] = Registry("loss")


class CrossEntropy(Loss):
    """Cross-entropy with smoothed labels (Szegedy et al. 2016, arXiv 1512.00567, section 7)."""

    def __call__(self, logits: Tensor, labels: Tensor, images: Tensor, teacher: Teach | None) -> Tensor:
        """See ``Loss``."""
        return self.by_labels(logits, labels)


class Focal(Loss):
    """Cross-entropy in which what is known already counts less (Lin et al. 2017, arXiv 1708.02002): (1 - p)^2 CE."""

    def __call__(self, logits: Tensor, labels: Tensor, images: Tensor, teacher: Teach | None) -> Tensor:
        """See ``Loss``."""
        smoothing = self.recipe.label_smoothing
        surprise = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
        weighted = F.cross_entropy(logits, labels, self.class_weights, label_smoothing=smoothing, reduction="none")
        return ((1 - torch.exp(-surprise)).square() * weighted).mean()


class Distillation(Loss):
    """A teacher's answers to the same views, beside the labels; ``distillation`` says which.

    (1 - w) CE(labels, logits) + w D(teacher, logits), where D is
    soft: T^2 KL(softmax(teacher / T) || softmax(logits / T)) (Hinton et al. 2015, arXiv 1503.02531, section 2): T^2
    keeps the size of its gradients the same at every temperature T, as they fall with 1 / T^2;
    hard: the cross-entropy with the teacher's most probable class (Touvron et al. 2021, arXiv 2012.12877);
    logits: the mean squared difference of the logits, each less their mean (Ba and Caruana 2014, arXiv 1312.6184).
    """

    needs_teacher: ClassVar[bool] = True

    def __call__(self, logits: Tensor, labels: Tensor, images: Tensor, teacher: Teach | None) -> Tensor:
        """See ``Loss``."""
        assert teacher is not None
        weight = self.recipe.distillation_weight
        taught = _KINDS[self.recipe.distillation](logits, teacher(images), self.recipe.distillation_temperature)
        if weight == 1:
            return taught
        return (1 - weight) * self.by_labels(logits, labels) + weight * taught


def _soft(logits: Tensor, answers: Tensor, temperature: float) -> Tensor:
    student, targets = F.log_softmax(logits / temperature, dim=1), F.log_softmax(answers / temperature, dim=1)
    return temperature**2 * F.kl_div(student, targets, reduction="batchmean", log_target=True)


def _hard(logits: Tensor, answers: Tensor, temperature: float) -> Tensor:
    return F.cross_entropy(logits, answers.argmax(1))


def _logits(logits: Tensor, answers: Tensor, temperature: float) -> Tensor:
    return F.mse_loss(logits - logits.mean(1, keepdim=True), answers - answers.mean(1, keepdim=True))


_KINDS = {"soft": _soft, "hard": _hard, "logits": _logits}

LOSSES.add("cross_entropy", CrossEntropy)
LOSSES.add("focal", Focal)
LOSSES.add("distillation", Distillation)


class Teacher:
    """A trained network that only answers: in evaluation mode, without gradient, at its own resolution and colours.

    Args:
        network: gives (B, classes) logits.
        seen: mean and standard deviation of each channel that it wants its images normalised with.
        resolution: of its input.
        given: those that the images are normalised with.
        fabric: where it runs, at the precision of the training.
        digest: changes where its weights do.
    """

    def __init__(
        self, network: nn.Module, seen: Colours, resolution: int, given: Colours, fabric: Fabric, digest: str
    ) -> None:
        network = network.requires_grad_(False).eval()
        self._network = network.to(fabric.device).to(memory_format=torch.channels_last)
        self._precision, self._resolution, self.digest = fabric.strategy.precision, resolution, digest

        def channels(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, device=fabric.device).view(1, -1, 1, 1)

        (own_mean, own_std), (mean, std) = seen, given
        # (x std + mean - own mean) / own std
        self._scale = channels(std) / channels(own_std)
        self._shift = (channels(mean) - channels(own_mean)) / channels(own_std)
        self._same = tuple(std) == tuple(own_std) and tuple(mean) == tuple(own_mean)

    @classmethod
    def load(cls, path: Path, classes: Sequence[str], given: Colours, fabric: Fabric) -> "Teacher":
        """That of a checkpoint.

        Args:
            path: its file.
            classes: of the data; must be the checkpoint's, in the same order.
            given: see the class.
            fabric: see the class.

        Raises:
            UserError: the file is no checkpoint, or one of a network with other classes.
        """
        checkpoint = load_checkpoint(path)
        if checkpoint.classes != tuple(classes):
            pairs = zip(checkpoint.classes, classes, strict=False)
            first = next((f"{a!r} where the data have {b!r}" for a, b in pairs if a != b), None)
            detail = first or f"{len(checkpoint.classes)} classes where the data have {len(classes)}"
            raise UserError(f"the teacher {shown(path)} has {shown(detail)}; give one trained on the same classes")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        seen = checkpoint.mean, checkpoint.std
        return cls(checkpoint.module(str(path)), seen, checkpoint.resolution, given, fabric, digest)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """See ``Teach``."""
        if not self._same:
            images = images * self._scale + self._shift
        if images.shape[-1] != self._resolution:
            images = F.interpolate(
                images, size=(self._resolution, self._resolution), mode="bilinear", antialias=True, align_corners=False
            )
        with self._precision.forward_context():
            logits: Tensor = self._network(self._precision.convert_input(images))
        return logits.float()


def make_loss(
    recipe: LossSettings, data: Data, fabric: Fabric, teacher: Teacher | None = None
) -> tuple[Loss, Teacher | None]:
    """The loss of a recipe, and its teacher if it learns from one.

    Args:
        recipe: how to train.
        data: what to train on.
        fabric: where.
        teacher: that the recipe names, if it is no checkpoint.

    Raises:
        UserError: no such loss, a teacher that is missing or of no use, or none for these classes; class weights that
            cannot be.
    """
    loss = LOSSES.get(recipe.loss)(recipe)
    loss.partly = bool((data.train.labels < 0).any())
    if recipe.class_weights:
        loss.class_weights = class_weights(recipe.class_weights, data).to(fabric.device)
    if not recipe.teacher:
        if loss.needs_teacher:
            raise UserError(f"the loss {recipe.loss} learns from a teacher; give its checkpoint with --teacher")
        if loss.partly:
            raise UserError("unlabelled images teach nothing without a teacher; give its checkpoint with --teacher")
        return loss, None
    if not loss.needs_teacher:
        raise UserError(f"the loss {recipe.loss} has no use for a teacher; give --loss distillation with --teacher")
    return loss, teacher or Teacher.load(Path(recipe.teacher), data.classes, (data.mean, data.std), fabric)


def class_weights(text: str, data: Data) -> Tensor:
    """How much each class counts in the loss: (classes,) float32.

    Args:
        text: "balanced" for N / (K n), where n of the N training images are of the class and K is the number of
            classes; or a YAML or JSON file of a number for each class name.
        data: with the classes.

    Raises:
        UserError: the file does not have a number for each class.
    """
    if text == "balanced":
        counts = torch.bincount(data.train.labels[data.train.labels >= 0], minlength=len(data.classes))
        return counts.sum() / (len(counts) * counts.clamp(min=1).float())
    content = parse_yaml(read_text(Path(text)), text)
    known = content if isinstance(content, dict) else {}
    named = {str(name): value for name, value in known.items()}
    for name in data.classes:
        value = named.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
            raise UserError(
                f"{shown(text)} has no weight for the class {shown(name)}; write a line such as {name}: 1.5"
            )
    return torch.tensor([float(named[name]) for name in data.classes])
