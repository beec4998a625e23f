"""What a model file says of itself, so that whoever has the file alone can feed it and read its output."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from fbnet_mobile import __version__


@dataclass(frozen=True)
class ModelMetadata:
    """The strings that travel in a file's own metadata.

    Attributes:
        architecture: YAML text; empty for a network without one.
        classes: class names in the order of the logits.
        mean: of each channel, on the scale from 0 to 1: the input is (pixel / 255 - mean) / std.
        std: standard deviation of each channel, on the same scale.
        input: "float32", normalised; or "uint8": pixels from 0 to 255, which the file normalises itself.
        precision: "fp32", "fp16" or "int8"; see :mod:`fbnet_mobile.formats.precision`.
    """

    architecture: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input: str = "float32"
    precision: str = "fp32"

    def to_strings(self) -> dict[str, str]:
        """As a file keeps it."""
        return {
            "architecture": self.architecture,
            "classes": json.dumps(self.classes),
            "mean": json.dumps(self.mean),
            "std": json.dumps(self.std),
            "input": self.input,
            "precision": self.precision,
            "tool_version": __version__,
        }

    @classmethod
    def from_strings(cls, strings: Mapping[str, str]) -> "ModelMetadata | None":
        """Read back; None for a file that another tool made."""
        if not {"architecture", "classes", "mean", "std"} <= set(strings):
            return None
        return cls(
            architecture=strings["architecture"],
            classes=tuple(json.loads(strings["classes"])),
            mean=tuple(json.loads(strings["mean"])),
            std=tuple(json.loads(strings["std"])),
            input=strings.get("input", "float32"),
            precision=strings.get("precision", "fp32"),
        )
