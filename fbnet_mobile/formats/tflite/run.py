"""TFLite files, by LiteRT's ``Interpreter`` (``ai_edge_litert``), or that of an installed ``tflite_runtime``.

Not by ``CompiledModel``, which dies on ARM cores without LSE atomics, such as a Raspberry Pi 4's.
"""

import importlib
import mmap
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.base import Session, existing, unreadable
from fbnet_mobile.formats.packages import needs, quiet
from fbnet_mobile.formats.tflite.metadata import METADATA

Array = NDArray[np.float32]


def version() -> str:
    """Return the version of ``ai-edge-litert``, or of the older package in its place."""
    for package in ("ai-edge-litert", "tflite-runtime"):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    _interpreter_module()
    return "unknown"


def load(path: Path, threads: int = 1) -> Session:
    """Load a file of one float32 or uint8 input and one float32 output."""
    module = _interpreter_module()
    existing(path)
    try:
        with quiet():
            interpreter = module.Interpreter(model_path=str(path), num_threads=threads)
            interpreter.allocate_tensors()
        return LiteRTSession(path, interpreter)
    except UserError:
        raise
    except Exception as error:  # names that are no UTF-8, types that numpy has not, as well as what LiteRT says
        raise unreadable(path, "LiteRT", error) from error


class LiteRTSession(Session):
    """A model in an interpreter, which stays reachable as ``interpreter``."""

    def __init__(self, path: Path, interpreter: Any) -> None:
        self.interpreter = interpreter
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        if len(inputs) != 1 or len(outputs) != 1:
            raise UserError(f"{path} has {len(inputs)} inputs and {len(outputs)} outputs; only one each can be run")
        # Plain numbers, or integers of which a step is a pixel's.
        taken = (inputs[0]["dtype"], *inputs[0]["quantization"])
        self.takes_pixels = taken in ((np.uint8, 0.0, 0), (np.uint8, 1.0, 0), (np.int8, 1.0, -128))
        given = (np.float32, np.int8, np.uint8)
        if (inputs[0]["dtype"] != np.float32 and not self.takes_pixels) or outputs[0]["dtype"] not in given:
            raise UserError(
                f"{path} does not take float32, or pixels, and give float32 or 8-bit integers; export it with such "
                "inputs and outputs"
            )
        (self._taken,), (self._given,) = inputs, outputs
        self._input, self._output = inputs[0]["index"], outputs[0]["index"]
        self._shape = tuple(int(size) for size in inputs[0]["shape"])
        # TFLite's order is NHWC, and ours. Files that other tools convert from PyTorch may keep NCHW: with
        # few input channels, the axis that holds them is plain to see.
        looks_first = len(self._shape) == 4 and self._shape[1] in (1, 3) and self._shape[3] not in (1, 3)
        self._channels_last = len(self._shape) == 4 and (not looks_first or self._is_ours(path))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """See :attr:`Session.input_shape`."""
        if self._channels_last:
            batch, height, width, channels = self._shape
            return batch, channels, height, width
        return self._shape

    def set_input(self, images: NDArray[Any]) -> None:
        """See :meth:`Session.set_input`."""
        if self._channels_last:
            images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        self.interpreter.set_tensor(self._input, as_taken(images, self._taken))

    def invoke(self) -> None:
        """See :meth:`Session.invoke`."""
        self.interpreter.invoke()

    def output(self) -> Array:
        """See :meth:`Session.output`."""
        result: Array = as_reals(self.interpreter.get_tensor(self._output), self._given)
        return result.transpose(0, 3, 1, 2) if self._channels_last and result.ndim == 4 else result

    def _is_ours(self, path: Path) -> bool:
        """Tell by its signature and by its metadata's name, which alone says nothing: litert-torch, for one, writes
        the names of PyTorch's modules, and those of our networks, into its files."""
        if list(self.interpreter.get_signature_list().values()) != [{"inputs": ["input"], "outputs": ["output"]}]:
            return False
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(METADATA.encode()) >= 0


def as_taken(images: NDArray[Any], details: Mapping[str, Any]) -> NDArray[Any]:
    """What an input takes of images: themselves, or of pixels what they are less 128 where it is int8."""
    if details["dtype"] == np.int8:
        return (images.astype(np.int16) - 128).astype(np.int8)
    return images.astype(details["dtype"], copy=False)


def as_reals(values: NDArray[Any], details: Mapping[str, Any]) -> Array:
    """What the integers of a tensor stand for; floats as they are."""
    scale, zero = details["quantization"]
    return (values.astype(np.float32) - zero) * np.float32(scale) if scale else np.asarray(values, np.float32)


def _interpreter_module() -> ModuleType:
    try:
        return importlib.import_module("ai_edge_litert.interpreter")
    except ModuleNotFoundError:
        with needs("tflite_runtime", "ai-edge-litert"):
            return importlib.import_module("tflite_runtime.interpreter")
