"""What an export found, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fbnet_mobile.formats.int8 import Quantised


@dataclass(frozen=True)
class ExportReport:
    """What was written and how far it is from PyTorch.

    Attributes:
        path: the file, or folder.
        format: its format.
        precision: of what it stores: "fp32", "fp16" or "int8".
        inputs: number of inputs compared.
        largest_difference: between any two logits; of probabilities, between logits of mean 0 that give them.
        relative_difference: the same, divided by the largest absolute logit of PyTorch's.
        agreement: part of the answers (the class, or channel, of the largest logit) that is PyTorch's, from 0 to 1;
            None for a network of one logit, which has no such answers.
        accuracy: part of the answers that are the inputs' labels, from 0 to 1; None without labels or answers.
        pytorch_accuracy: the same of PyTorch's answers.
        size: of the file, or of the folder's files together, in bytes.
        seconds: that the export and its check took.
        quantised: how it was quantised: the ranges, layers in float32, and what each layer suffers; None if it was not.
        merged: how many modules of each class had their branches merged.
        outputs: of each result, its shape and its difference over its own largest number, by name; the differences
            above are the largest of these.
    """

    path: Path
    format: str
    precision: str
    inputs: int
    largest_difference: float
    relative_difference: float
    agreement: float | None
    accuracy: float | None
    pytorch_accuracy: float | None
    size: int
    seconds: float
    quantised: "Quantised | None" = None
    merged: Mapping[str, int] = field(default_factory=dict)
    outputs: Mapping[str, tuple[tuple[int, ...], float]] = field(default_factory=dict)
