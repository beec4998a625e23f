"""What training comes to, as plain records."""

from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class EpochResult:
    """One line of ``results.csv``.

    Attributes:
        epoch: its number, from 1.
        learning_rate: at its last step, of the last layer.
        train_loss: mean over its images, as trained (augmented, smoothed labels).
        train_accuracy: top-1 on the augmented images while training, 0 to 1.
        val_accuracy: top-1 on the validation images after it, 0 to 1.
        seconds: time it took, evaluation included.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    val_accuracy: float
    seconds: float

    def columns(self) -> dict[str, float | None]:
        """Everything by name."""
        return asdict(self)


@dataclass(frozen=True)
class Trained:
    """What training came to.

    Attributes:
        checkpoint: path of the best epoch's checkpoint.
        val_accuracy: top-1 of that epoch on the validation images, 0 to 1.
        test_accuracy: top-1 of that epoch on the test images, 0 to 1.
        history: every epoch, those of earlier runs included.
        first_epoch: the epoch this run began with: 1 if it started afresh, ``epochs + 1`` if all was done
            before.
    """

    checkpoint: Path
    val_accuracy: float
    test_accuracy: float
    history: tuple[EpochResult, ...]
    first_epoch: int


@dataclass(frozen=True)
class ClassScore:
    """How well one class is told from the others.

    Attributes:
        name: of the class.
        images: that are of it.
        precision: share of the images taken for it that are of it.
        recall: share of its images that are taken for it.
        f1: the harmonic mean of the two.
    """

    name: str
    images: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Mistake:
    """A wrong answer.

    Attributes:
        number: of the image among those that were looked at.
        image: its file, or what else names it.
        true: name of its class.
        predicted: name of the class that it was taken for.
        probability: that the network gave it.
    """

    number: int
    image: str
    true: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Evaluation:
    """What a network's answers to labelled images are worth; ``evaluation.json``.

    Attributes:
        images: how many.
        accuracy: top-1.
        top5: share of the images whose class is among the five most probable; None for five classes or fewer.
        precision: mean over the classes that have images.
        recall: likewise (the balanced accuracy).
        f1: likewise.
        calibration_error: expected, of the probability of the answer, in 15 bins (Guo et al. 2017).
        classes: each by itself, in the order of the logits.
        confusion: how many images of each class (a row) were taken for each (a column).
        mistakes: the wrong answers that the network was surest of, 64 at most.
    """

    images: int
    accuracy: float
    top5: float | None
    precision: float
    recall: float
    f1: float
    calibration_error: float
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    mistakes: tuple[Mistake, ...]


@dataclass(frozen=True)
class DryRun:
    """What a training would be.

    Attributes:
        options: all of them, by name.
        classes: how many.
        images: how many of "train", "val" and "test".
        steps: of an epoch.
        schedule: the learning rate at the end of some epochs, by their number.
        device: where a step was tried.
        step_seconds: that a step takes there, the images being there already.
        seconds: that all of it takes, about: steps, evaluation, decoding.
        memory_bytes: most that it needs there, about: the process, or the accelerator's memory.
        image_bytes: of decoded images held in memory; 0 where they are decoded on the way.
    """

    options: dict[str, object]
    classes: int
    images: dict[str, int]
    steps: int
    schedule: dict[int, float]
    device: str
    step_seconds: float
    seconds: float
    memory_bytes: int
    image_bytes: int
