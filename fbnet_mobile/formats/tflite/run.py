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
from fbnet_mobile.formats.base import Session, loading
from fbnet_mobile.formats.packages import needs
from fbnet_mobile.formats.tflite.metadata import METADATA
from fbnet_mobile.graph.operations import INPUT

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
    """Load a file of float32 inputs, or one of uint8, and float32 outputs."""
    module = _interpreter_module()
    with loading(path, "LiteRT"):
        interpreter = module.Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
        return LiteRTSession(path, interpreter)


class LiteRTSession(Session):
    """A model in an interpreter, which stays reachable as ``interpreter``."""

    def __init__(self, path: Path, interpreter: Any) -> None:
        self.interpreter = interpreter
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        # Plain numbers, or integers of which a step is a pixel's.
        pixels = ((np.uint8, 0.0, 0), (np.uint8, 1.0, 0), (np.int8, 1.0, -128))
        takes_pixels = all((item["dtype"], *item["quantization"]) in pixels for item in inputs)
        known = takes_pixels or all(item["dtype"] == np.float32 for item in inputs)
        gives = all(item["dtype"] in (np.float32, np.int8, np.uint8) for item in outputs)
        if not inputs or not outputs or not known or not gives:
            raise UserError(
                f"{path} does not take float32, or pixels, and give float32 or 8-bit integers; export it with such "
                "inputs and outputs"
            )
        signature: dict[str, list[str]] = next(
            iter(interpreter.get_signature_list().values()), {"inputs": [], "outputs": []}
        )
        self._inputs = self._named(inputs, signature["inputs"], "get_input_details")
        self._outputs = self._named(outputs, signature["outputs"], "get_output_details")
        # TFLite's order is NHWC, and ours. Files that other tools convert from PyTorch may keep NCHW: with
        # few input channels, the axis that holds them is plain to see.
        shape = tuple(int(size) for size in inputs[0]["shape"])
        looks_first = len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3)
        channels_last = not looks_first or self._is_ours(path)
        shapes = {name: tuple(map(int, item["shape"])) for name, item in self._inputs.items()}
        super().__init__(shapes, takes_pixels, channels_last)

    def compute(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, Array]:
        """See :meth:`Session.compute`."""
        for name, item in self._inputs.items():
            self.interpreter.set_tensor(item["index"], as_taken(inputs[name], item))
        self.interpreter.invoke()
        return {
            name: as_reals(self.interpreter.get_tensor(item["index"]), item) for name, item in self._outputs.items()
        }

    def _named(self, items: list[Any], names: list[str], details: str) -> dict[str, Any]:
        """Tensors by the names that the signature has for them; of a file without one, by their own."""
        if sorted(names) != sorted({*names}) or len(names) != len(items):
            return {item["name"]: item for item in items}
        if len(items) == 1:
            return {names[0]: items[0]}
        found: dict[str, Any] = getattr(self.interpreter.get_signature_runner(), details)()
        order = [item["index"] for item in items]
        return dict(sorted(found.items(), key=lambda entry: order.index(entry[1]["index"])))

    def _is_ours(self, path: Path) -> bool:
        """Tell by its signature and by its metadata's name, which alone says nothing: litert-torch, for one, writes
        the names of PyTorch's modules, and those of our networks, into its files."""
        names = [signature["inputs"] for signature in self.interpreter.get_signature_list().values()]
        if names != [[INPUT]]:
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
