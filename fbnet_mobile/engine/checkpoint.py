"""Checkpoint files: tensors and plain values only, so that opening one cannot run code."""

import pickle
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fbnet_mobile import __version__
from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.files import write_whole

_FORMAT = "fbnet-mobile checkpoint 1"


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and what is needed to use it.

    Attributes:
        architecture: the architecture as YAML text.
        state_dict: parameters and buffers by name, on the CPU.
        classes: class names, in the order of the logits.
        mean: of each channel over the training images, on the scale from 0 to 1.
        std: standard deviation of each channel, on the same scale.
        resolution: height and width of the input in pixels.
        val_accuracy: top-1 on the validation images, 0 to 1.
        test_accuracy: top-1 on the test images, 0 to 1; None until training has ended.
        recipe: the settings it was trained with.
        tool_version: version of fbnet-mobile that wrote it.
    """

    architecture: str
    state_dict: dict[str, Tensor]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resolution: int
    val_accuracy: float
    test_accuracy: float | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    tool_version: str = __version__


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, replacing ``path`` only once it is whole.

    Raises:
        UserError: the folder cannot be written to.
        JobError: writing failed half-way, as on a full disk.
    """
    content = {item.name: getattr(checkpoint, item.name) for item in fields(checkpoint)}
    write_tensors(path, content, _FORMAT)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read what ``save_checkpoint`` wrote.

    Raises:
        UserError: the file is missing, damaged, or no checkpoint of this tool.
    """
    content = read_tensors(path, _FORMAT)
    try:
        return Checkpoint(**content)
    except TypeError as error:
        raise UserError(
            f"{path} was written by fbnet-mobile {content.get('tool_version', 'of unknown version')}; "
            "install that version, or train again"
        ) from error


def write_tensors(path: Path, content: dict[str, Any], file_format: str) -> None:
    """Write tensors and plain values with torch.save, whole or not at all, marked with ``file_format``.

    Raises:
        UserError: the folder cannot be written to.
        JobError: writing failed half-way, as on a full disk.
    """
    try:
        with write_whole(path) as partial:
            torch.save({"format": file_format, **content}, partial)
    except (OSError, RuntimeError) as error:
        raise JobError(f"cannot write {path}; free some space there and run this again") from error


def read_tensors(path: Path, file_format: str) -> dict[str, Any]:
    """Read what ``write_tensors`` wrote, onto the CPU, refusing anything but tensors and plain values.

    Raises:
        UserError: the file is missing, damaged, of another format, or holds more than tensors and plain
            values.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist or is no file; give a checkpoint that fbnet-train wrote")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is no checkpoint, or holds Python objects that could run code, which are never loaded; "
            "give a checkpoint that fbnet-train wrote"
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged or no checkpoint; restore it or train again") from error
    if not isinstance(content, dict) or content.pop("format", None) != file_format:
        raise UserError(f"{path} is not a '{file_format}' file; give a checkpoint that fbnet-train wrote")
    return content
