"""ONNX and TFLite files, by OpenVINO on this machine's processor."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.base import Session, existing, unreadable
from fbnet_mobile.formats.packages import needs, quiet

Array = NDArray[np.float32]


def version() -> str:
    """Return the version of ``openvino``."""
    return str(_loader().version())


def load(path: Path, threads: int = 1) -> Session:
    """Load a file of one float32 or uint8 input and one output."""
    loader = _loader()
    existing(path)
    try:
        with quiet():
            model = loader.compiled(str(path), threads)
    except Exception as error:  # RuntimeError, whatever it is that was wrong
        raise unreadable(path, "OpenVINO", error) from error
    return OpenVinoSession(path, model)


class OpenVinoSession(Session):
    """A compiled model, which stays reachable as ``model``."""

    def __init__(self, path: Path, model: Any) -> None:
        self.model = model
        kinds = [port.element_type.get_type_name() for port in model.inputs]
        if len(kinds) != 1 or len(model.outputs) != 1 or kinds[0] not in ("f32", "u8"):
            raise UserError(
                f"{path} has {len(kinds)} inputs and {len(model.outputs)} outputs; only one float32 or uint8 input and "
                "one output can be run"
            )
        shape = model.inputs[0].get_partial_shape()
        sizes = [size.get_length() if size.is_static else 0 for size in shape]
        if 0 in sizes[1:]:
            raise UserError(f"{path} leaves the size of its input open: {shape}; export it for one size")
        self.takes_pixels = kinds[0] == "u8"
        # TFLite's order is NHWC, ONNX's and ours is NCHW.
        self._channels_last = path.suffix == ".tflite" and len(sizes) == 4
        self._shape = tuple(sizes)
        self._request = model.create_infer_request()
        self._images: NDArray[Any] = np.zeros((0,), np.float32)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """See :attr:`Session.input_shape`."""
        if self._channels_last:
            batch, height, width, channels = self._shape
            return batch, channels, height, width
        return self._shape

    def set_input(self, images: NDArray[Any]) -> None:
        """See :meth:`Session.set_input`."""
        self._images = np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if self._channels_last else images

    def invoke(self) -> None:
        """See :meth:`Session.invoke`."""
        self._request.infer([self._images])

    def output(self) -> Array:
        """See :meth:`Session.output`."""
        result: Array = np.array(self._request.get_output_tensor(0).data, np.float32)
        return result.transpose(0, 3, 1, 2) if self._channels_last and result.ndim == 4 else result


def _loader() -> ModuleType:
    with needs("openvino", "fbnet-mobile[openvino]"), quiet():
        return importlib.import_module("fbnet_mobile.formats.openvino.loader")
