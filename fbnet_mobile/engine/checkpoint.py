"""Checkpoint files: tensors and plain values only, so that opening one cannot run code."""

import io
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Len
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from torch import Tensor, nn

from fbnet_mobile import __version__
from fbnet_mobile.arch import Architecture
from fbnet_mobile.blocks.network import Network, build, restore
from fbnet_mobile.documents import first_problem
from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.files import write_whole
from fbnet_mobile.graph.merge import merge_branches
from fbnet_mobile.graph.operations import Graph
from fbnet_mobile.graph.rounded import Rounded, points
from fbnet_mobile.graph.trace import trace

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
        quantized: "int8" if the weights, and ranges beside them, are those of the network lowered and rounded
            (:class:`fbnet_mobile.graph.rounded.Rounded`); else "".
        kept: names of operations of that network that are computed in float32.
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
    quantized: str = ""
    kept: tuple[str, ...] = ()

    def network(self, where: str) -> Network:
        """The trained network, ready for evaluation; ``where`` names the checkpoint in error messages.

        Raises:
            UserError: the architecture is none, or weights or class names do not fit it, or they are quantised.
        """
        if self.quantized:
            raise UserError(f"{shown(where)} is quantised already; give the checkpoint that it was trained from")
        return restore(self._architecture(where), self.state_dict, where)

    def module(self, where: str) -> nn.Module:
        """The same; or, of a quantised checkpoint, the network that rounds as an int8 file does."""
        if not self.quantized:
            return self.network(where)
        architecture = self._architecture(where)
        graph = lower(build(architecture), architecture.input_shape)
        try:
            if not {*self.kept} <= graph.by_name().keys():
                raise RuntimeError("operations in float32 that there are not")
            rounded = Rounded(graph, dict.fromkeys(points(graph), (0.0, 0.0)), keep=self.kept)
            rounded.load_state_dict(self.state_dict)
        except RuntimeError as error:
            raise UserError(
                f"{where}: its weights do not fit its architecture {architecture.name} in int8; train it again"
            ) from error
        return rounded.eval()

    def _architecture(self, where: str) -> Architecture:
        architecture = Architecture.from_yaml(self.architecture, where)
        if architecture.classes != len(self.classes):
            raise UserError(
                f"{shown(where)}: {len(self.classes)} class names for {architecture.classes} logits; train it again"
            )
        return architecture


_Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
_Deviation = Annotated[FiniteFloat, Field(gt=0, le=1)]
_Names = Annotated[tuple[Annotated[str, Field(max_length=1000)], ...], Len(1, 1_000_000)]


class _Content(BaseModel):
    """What a checkpoint file may hold."""

    model_config = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)

    architecture: Annotated[str, Field(max_length=2**20)]
    state_dict: dict[str, Tensor]
    classes: _Names
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    std: tuple[_Deviation, _Deviation, _Deviation]
    resolution: Annotated[int, Field(ge=1, le=10_000)]
    val_accuracy: _Share
    test_accuracy: _Share | None
    recipe: dict[str, Any]
    tool_version: Annotated[str, Field(max_length=100)]
    quantized: Literal["", "int8"] = ""
    kept: tuple[Annotated[str, Field(max_length=1000)], ...] = ()


def lower(network: nn.Module, input_shape: tuple[int, int, int, int]) -> Graph:
    """Return what is written of a network, its branches merged."""
    return trace(merge_branches(network)[0], input_shape)


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
        checked = _Content.model_validate(content)
    except ValidationError as error:
        raise UserError(
            f"{shown(path)} is damaged, or of another version of fbnet-mobile ({first_problem(error)}); train it again"
        ) from error
    require_finite(checked.state_dict, f"{shown(path)}: its weights")
    return Checkpoint(**{name: getattr(checked, name) for name in _Content.model_fields})


def require_finite(weights: dict[str, Tensor], what: str) -> None:
    """Refuse weights of which one is not a finite number.

    Raises:
        UserError: there is one; names it.
    """
    for name, value in weights.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise UserError(f"{what} are not finite numbers ({shown(name)}); train it again")


def write_tensors(path: Path, content: dict[str, Any], file_format: str) -> None:
    """Write tensors and plain values with torch.save, whole or not at all, marked with ``file_format``.

    Raises:
        UserError: the folder cannot be written to.
        JobError: writing failed half-way, as on a full disk.
    """
    # In memory first: torch says by errors of many kinds, and not always, that a disk is full.
    packed = io.BytesIO()
    torch.save({"format": file_format, **content}, packed)
    with write_whole(path) as partial:
        partial.write_bytes(packed.getbuffer())


def tensors_in(content: object) -> Iterator[Tensor]:
    """Every tensor of plain values, at whatever depth."""
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from tensors_in(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from tensors_in(value)


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is numbers in memory, each of its own: a few bytes may say that they are a trillion equal numbers."""
    return (
        tensor.layout is torch.strided
        and not tensor.requires_grad
        and tensor.device.type == "cpu"
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )


def read_tensors(
    path: Path, file_format: str, remedy: str = "give a checkpoint that fbnet-train wrote"
) -> dict[str, Any]:
    """Read what ``write_tensors`` wrote, onto the CPU, refusing anything but tensors and plain values.

    Args:
        path: of the file.
        file_format: that it must have.
        remedy: for one of another.

    Raises:
        UserError: the file is missing, damaged, of another format, or holds more than tensors and plain
            values.
    """
    name = shown(path)
    try:
        if not path.is_file():
            raise UserError(f"{name} does not exist or is no file; {remedy}")
        # torch.save packs nothing, so that what is read takes no more memory than the file; old kinds are no zip files.
        with zipfile.ZipFile(path) as records:
            if any(record.file_size != record.compress_size for record in records.infolist()):
                raise UserError(f"{name} is damaged or no checkpoint; restore it or train again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kinds of tensors that are refused in the next line
            content = torch.load(path, map_location="cpu", weights_only=True)
        if not all(map(_is_plain, tensors_in(content))):
            raise UserError(f"{name} is damaged or no checkpoint; restore it or train again")
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{name} is no checkpoint, or holds Python objects that could run code, which are never loaded; " + remedy
        ) from error
    except Exception as error:  # whatever torch's reader trips over in a damaged file
        raise UserError(f"{name} is damaged or no checkpoint; restore it or train again") from error
    if not isinstance(content, dict) or content.pop("format", None) != file_format:
        raise UserError(f"{name} is not a '{file_format}' file; {remedy}")
    return content
