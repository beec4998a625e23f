"""ONNX files, by ONNX Runtime's CPU execution provider."""

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
    """Return the version of ``onnxruntime``."""
    return str(_module().__version__)


def load(path: Path, threads: int = 1) -> Session:
    """Load a file of one float32 or uint8 input and one output."""
    ort = _module()
    existing(path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        with quiet():
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exception classes derive from Exception alone, and differ by release
        raise unreadable(path, "ONNX Runtime", error) from error
    return OnnxSession(path, session)


class OnnxSession(Session):
    """A model in an inference session, which stays reachable as ``session``."""

    def __init__(self, path: Path, session: Any) -> None:
        self.session = session
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or inputs[0].type not in ("tensor(float)", "tensor(uint8)"):
            raise UserError(
                f"{path} has {len(inputs)} inputs and {len(outputs)} outputs; only one float32 "
                "or uint8 input and one output can be run"
            )
        self.takes_pixels = inputs[0].type == "tensor(uint8)"
        shape = [size if isinstance(size, int) else 0 for size in inputs[0].shape]
        if 0 in shape[1:]:
            raise UserError(f"{path} leaves the size of its input open: {inputs[0].shape}; export it for one size")
        self._shape, self._name = tuple(shape), inputs[0].name
        self._images: NDArray[Any] = np.zeros((0,), np.float32)
        self._result: Array = self._images

    @property
    def input_shape(self) -> tuple[int, ...]:
        """See :attr:`Session.input_shape`."""
        return self._shape

    def set_input(self, images: NDArray[Any]) -> None:
        """See :meth:`Session.set_input`."""
        self._images = images

    def invoke(self) -> None:
        """See :meth:`Session.invoke`."""
        self._result = self.session.run(None, {self._name: self._images})[0]

    def output(self) -> Array:
        """See :meth:`Session.output`."""
        return self._result


def _module() -> ModuleType:
    with needs("onnxruntime", "fbnet-mobile[onnx]"):
        return importlib.import_module("onnxruntime")
