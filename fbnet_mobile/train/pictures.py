"""Pictures of a training: what the network saw, how it learnt, what it confuses."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fbnet_mobile.data.data import Data
from fbnet_mobile.data.split import Split
from fbnet_mobile.documents import write_json
from fbnet_mobile.files import write_whole
from fbnet_mobile.train.results import EpochResult, Evaluation

_MOST_NAMED = 40
"""Classes from which a matrix has no names and no numbers."""
_MOST_SHOWN = 25


def _draw(path: Path, size: tuple[float, float], fill: Callable[[Any], None]) -> None:
    from matplotlib.figure import Figure  # half a second, and only at the beginning and at the end of a run

    figure = Figure(figsize=size, layout="constrained")
    fill(figure)
    with write_whole(path) as partial:
        figure.savefig(partial, dpi=110, format="png")


def draw_images(path: Path, pixels: Tensor, titles: Sequence[str]) -> None:
    """Images under their titles, 25 at most; pixels are (N, 3, R, R) uint8."""
    shown = pixels[:_MOST_SHOWN].permute(0, 2, 3, 1).contiguous().numpy()
    columns = math.ceil(math.sqrt(len(shown)))
    rows = math.ceil(len(shown) / columns)

    def fill(figure: Any) -> None:
        axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
        for place in axes:
            place.axis("off")
        for place, image, title in zip(axes, shown, titles, strict=False):
            place.imshow(image, interpolation="nearest")
            place.set_title(_plain(title), fontsize=7)

    _draw(path, (1.7 * columns, 1.9 * rows), fill)


def draw_batch(path: Path, images: Tensor, labels: Tensor, data: Data) -> None:
    """A batch as the network sees it: (B, 3, R, R) normalised images with their labels or shares."""
    std, mean = (torch.tensor(values).view(1, 3, 1, 1) for values in (data.std, data.mean))
    pixels = (images[:_MOST_SHOWN].float().cpu() * std + mean).clamp(0, 1).mul(255).round().to(torch.uint8)

    def title(label: Tensor) -> str:
        if label.ndim == 0:
            return data.classes[int(label)] if label >= 0 else "(unlabelled)"
        shares = [(float(share), data.classes[number]) for number, share in enumerate(label) if share > 0]
        return " + ".join(f"{share:.0%} {name}" for share, name in sorted(shares, reverse=True)[:2])

    draw_images(path, pixels, [title(label) for label in labels[: len(pixels)].cpu()])


def draw_curves(path: Path, history: Sequence[EpochResult]) -> None:
    """Loss, accuracies and learning rate by epoch."""
    epochs = [row.epoch for row in history]

    def fill(figure: Any) -> None:
        loss, accuracy, rate = figure.subplots(1, 3)
        loss.plot(epochs, [row.train_loss for row in history], marker=".")
        loss.set_title("training loss")
        accuracy.plot(epochs, [100 * row.train_accuracy for row in history], marker=".", label="training, augmented")
        accuracy.plot(epochs, [100 * row.val_accuracy for row in history], marker=".", label="validation")
        accuracy.set_title("accuracy, %")
        accuracy.legend(fontsize=8)
        rate.plot(epochs, [row.learning_rate for row in history], marker=".")
        rate.set_title("learning rate at the end of the epoch")
        for axes in (loss, accuracy, rate):
            axes.set_xlabel("epoch")
            axes.grid(alpha=0.3)

    _draw(path, (12, 3.5), fill)


def draw_confusion(path: Path, evaluation: Evaluation, *, normalised: bool) -> None:
    """The confusion matrix, in images or in shares of each row's class."""
    counts = np.array(evaluation.confusion, dtype=float)
    values = counts / counts.sum(1, keepdims=True).clip(1) if normalised else counts
    names, count = [_plain(item.name) for item in evaluation.classes], len(counts)

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        picture = axes.imshow(values, cmap="Blues", vmin=0, vmax=1 if normalised else None)
        axes.set_xlabel("taken for")
        axes.set_ylabel("is")
        if count <= _MOST_NAMED:
            axes.set_xticks(range(count), names, rotation=90)
            axes.set_yticks(range(count), names)
            dark = values.max() / 2
            for row, column in np.argwhere(values > 0):
                value = values[row, column]
                axes.text(
                    column,
                    row,
                    f"{value:.2f}" if normalised else f"{value:.0f}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if value > dark else "black",
                )
        figure.colorbar(picture, ax=axes, shrink=0.8)

    side = 3 + 0.35 * min(count, _MOST_NAMED)
    _draw(path, (side + 1, side), fill)


def _plain(text: str) -> str:
    """A name as matplotlib may draw it: a dollar sign would begin a formula."""
    return (text if len(text) <= 24 else f"{text[:21]}...").replace("$", r"\$")


def write_evaluation(folder: Path, evaluation: Evaluation, split: Split) -> None:
    """``evaluation.json``, the confusion matrix in two pictures, and one of the worst mistakes.

    Raises:
        UserError: the folder cannot be written to.
        JobError: the disk is full.
    """
    write_json(folder / "evaluation.json", evaluation)
    draw_confusion(folder / "confusion_matrix.png", evaluation, normalised=False)
    draw_confusion(folder / "confusion_matrix_normalised.png", evaluation, normalised=True)
    worst = evaluation.mistakes[:_MOST_SHOWN]
    if worst:
        chosen = split.pick(torch.tensor([mistake.number for mistake in worst]))
        ((pixels, _),) = chosen.batches(len(worst))
        titles = [f"{item.true}, taken for\n{item.predicted} {item.probability:.0%}" for item in worst]
        draw_images(folder / "mistakes.png", pixels, titles)
