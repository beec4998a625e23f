"""ONNX and TFLite files, by OpenVINO on this machine's processor."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.base import Session, loading
from fbnet_mobile.formats.openvino import loader
from fbnet_mobile.graph.operations import INPUT, OUTPUT


def load(path: Path, threads: int = 1) -> Session:
    """Load a file of float32 or uint8 inputs."""
    with loading(path, "OpenVINO"):
        return OpenVinoSession(path, threads)


class OpenVinoSession(Session):
    """A compiled model, which stays reachable as ``model``."""

    def __init__(self, path: Path, threads: int) -> None:
        read = loader.read(str(path))
        kinds = {port.element_type.get_type_name() for port in read.inputs}
        if not read.outputs or kinds not in ({"f32"}, {"u8"}):
            raise UserError(
                f"{path} has {len(read.inputs)} inputs of {', '.join(sorted(kinds)) or 'nothing'}; only float32 or "
                "uint8 inputs can be run"
            )
        shapes: dict[str, tuple[int, ...]] = {}
        for name, port in zip(_names(read.inputs, INPUT), read.inputs, strict=True):
            shape = port.get_partial_shape()
            shapes[name] = tuple(size.get_length() if size.is_static else 0 for size in shape)
            if 0 in shapes[name][1:]:
                raise UserError(f"{path} leaves the size of its input open: {shape}; export it for one size")
        # TFLite's order is NHWC, ONNX's and ours is NCHW.
        super().__init__(shapes, kinds == {"u8"}, path.suffix == ".tflite")
        # Before it is compiled, as ports then have the names of what was merged into them, too.
        self._names = _names(read.outputs, OUTPUT)
        self.model = loader.compiled(read, threads)
        self._request = self.model.create_infer_request()

    def compute(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[np.float32]]:
        """See :meth:`Session.compute`."""
        self._request.infer([inputs[name] for name in self.input_shapes])
        results = self._request.output_tensors
        return {name: np.array(result.data, np.float32) for name, result in zip(self._names, results, strict=True)}


def _names(ports: Sequence[Any], alone: str) -> list[str]:
    """The names of tensors; that of the only one, which TFLite's quantiser gives another name, is ``alone``."""
    return [alone] if len(ports) == 1 else [port.any_name for port in ports]
