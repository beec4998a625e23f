"""What a model file says of itself, so that whoever has the file alone can feed it and read its output."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, Field, FiniteFloat, Json

from fbnet_mobile import __version__
from fbnet_mobile.documents import validated
from fbnet_mobile.errors import UserError

_CHANNELS, _CLASSES, _TEXT = 1024, 1_000_000, 10_000_000


class _Strings(BaseModel):
    """What the strings of a file may hold; a file comes from anywhere."""

    architecture: Annotated[str, Field(max_length=_TEXT)]
    classes: Json[Annotated[tuple[str, ...], Field(max_length=_CLASSES)]]
    mean: Json[Annotated[tuple[FiniteFloat, ...], Field(max_length=_CHANNELS)]]
    std: Json[Annotated[tuple[FiniteFloat, ...], Field(max_length=_CHANNELS)]]
    input: Literal["float32", "uint8", "int8"] = "float32"
    precision: Annotated[str, Field(max_length=20)] = "fp32"
    scores: Literal["logits", "probabilities"] = "logits"
    score_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    description: Annotated[str, Field(max_length=_TEXT)] = ""
    author: Annotated[str, Field(max_length=_TEXT)] = ""
    license: Annotated[str, Field(max_length=_TEXT)] = ""
    version: Annotated[str, Field(max_length=_TEXT)] = ""


@dataclass(frozen=True)
class ModelMetadata:
    """The strings that travel in a file's own metadata.

    Attributes:
        architecture: YAML text; empty for a network without one.
        classes: class names in the order of the logits.
        mean: of each channel, on the scale from 0 to 1: the input is (pixel / 255 - mean) / std.
        std: standard deviation of each channel, on the same scale.
        input: "float32", normalised; or "uint8": pixels from 0 to 255, which the file normalises itself;
            or "int8": pixels less 128.
        precision: "fp32", "fp16" or "int8"; see :attr:`fbnet_mobile.formats.base.Format.precisions`.
        scores: what it gives for each class: "logits", or "probabilities", their softmax.
        score_threshold: the least probability that an app should show, from 0 to 1.
        description: of the model, for people; "" for none, as for the following.
        author: of the model.
        license: of the model, such as "Apache-2.0".
        version: of the model.

    Raises:
        UserError: a mean or a standard deviation is not finite, or a standard deviation not above 0.
    """

    architecture: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input: str = "float32"
    precision: str = "fp32"
    scores: str = "logits"
    score_threshold: float = 0.0
    description: str = ""
    author: str = ""
    license: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        check_normalisation(self.mean, self.std)

    def to_strings(self) -> dict[str, str]:
        """As a file keeps it."""
        said = {name: str(getattr(self, name)) for name in _IF_SAID if getattr(self, name)}
        return {
            "architecture": self.architecture,
            "classes": json.dumps(self.classes),
            "mean": json.dumps(self.mean),
            "std": json.dumps(self.std),
            "input": self.input,
            "precision": self.precision,
            "scores": self.scores,
            **said,
            "tool_version": __version__,
        }

    @classmethod
    def from_strings(cls, strings: Mapping[str, str], where: str = "the model's metadata") -> "ModelMetadata | None":
        """Read back; None for a file that another tool made.

        Raises:
            UserError: a string does not hold what it should; the message begins with ``where``.
        """
        if not {"architecture", "classes", "mean", "std"} <= set(strings):
            return None
        known = {name: strings[name] for name in _Strings.model_fields if name in strings}
        read = validated(_Strings, known, where)
        try:
            return cls(**dict(read))
        except UserError as error:
            raise UserError(f"{where}: {error}") from error


_IF_SAID = ("score_threshold", "description", "author", "license", "version")
"""What a file keeps only where there is something to keep."""


def check_normalisation(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Check what pixels are normalised by.

    Raises:
        UserError: a number that is not finite, or a standard deviation not above 0.
    """
    if not all(map(math.isfinite, (*mean, *std))) or min(std, default=1) <= 0:
        raise UserError(
            f"cannot normalise pixels by mean {mean} and std {std}; each must be a finite number, and std above 0"
        )
