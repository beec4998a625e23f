"""What training comes to, as plain records."""

from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class EpochResult:
    """One line of ``log.csv``.

    Attributes:
        epoch: its number, from 1.
        learning_rate: at its last step.
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
