"""What a classifier's answers to labelled images are worth, class by class."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from fbnet_mobile.train.results import ClassScore, Evaluation, Mistake

_BINS = 15
_MISTAKES = 64


def measure(logits: Tensor, labels: Tensor, classes: Sequence[str], names: Sequence[str]) -> Evaluation:
    """Every number of a set of answers.

    Args:
        logits: (N, classes) float32.
        labels: (N,) int64.
        classes: names, in the order of the logits.
        names: of the images.
    """
    count, top = len(classes), min(5, len(classes))
    share, answers = logits.softmax(1).max(1)
    each: dict[str, Any] = {"num_classes": count, "average": "none"}
    scores = zip(
        classes,
        torch.bincount(labels, minlength=count).tolist(),
        multiclass_precision(answers, labels, **each).tolist(),
        multiclass_recall(answers, labels, **each).tolist(),
        multiclass_f1_score(answers, labels, **each).tolist(),
        strict=True,
    )
    by_class = tuple(ClassScore(*score) for score in scores)
    there = [score for score in by_class if score.images]
    wrong = (answers != labels).nonzero().flatten()
    worst = wrong[share[wrong].argsort(descending=True, stable=True)][:_MISTAKES].tolist()
    return Evaluation(
        images=len(labels),
        accuracy=float((answers == labels).double().mean()),
        top5=float(multiclass_accuracy(logits, labels, count, average="micro", top_k=top)) if count > top else None,
        precision=sum(score.precision for score in there) / len(there),
        recall=sum(score.recall for score in there) / len(there),
        f1=sum(score.f1 for score in there) / len(there),
        calibration_error=float(multiclass_calibration_error(logits, labels, count, n_bins=_BINS)),
        classes=by_class,
        confusion=tuple(tuple(row) for row in multiclass_confusion_matrix(answers, labels, count).tolist()),
        mistakes=tuple(
            Mistake(
                number=place,
                image=names[place],
                true=classes[int(labels[place])],
                predicted=classes[int(answers[place])],
                probability=float(share[place]),
            )
            for place in worst
        ),
    )
