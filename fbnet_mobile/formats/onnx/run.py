"""ONNX files, by ONNX Runtime's CPU execution provider."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.base import Session, loading
from fbnet_mobile.formats.packages import needs


def version() -> str:
    """Return the version of ``onnxruntime``."""
    return str(_module().__version__)


def load(path: Path, threads: int = 1) -> Session:
    """Load a file of float32 or uint8 inputs."""
    ort = _module()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    with loading(path, "ONNX Runtime"):
        return OnnxSession(path, ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))


class OnnxSession(Session):
    """A model in an inference session, which stays reachable as ``session``."""

    def __init__(self, path: Path, session: Any) -> None:
        self.session = session
        inputs, outputs = session.get_inputs(), session.get_outputs()
        kinds = {item.type for item in inputs}
        if not outputs or kinds not in ({"tensor(float)"}, {"tensor(uint8)"}):
            raise UserError(
                f"{path} has {len(inputs)} inputs of {', '.join(sorted(kinds)) or 'nothing'}; only float32 or uint8 "
                "inputs can be run"
            )
        shapes: dict[str, tuple[int, ...]] = {}
        for item in inputs:
            shapes[item.name] = tuple(size if isinstance(size, int) else 0 for size in item.shape)
            if 0 in shapes[item.name][1:]:
                raise UserError(f"{path} leaves the size of its input open: {item.shape}; export it for one size")
        super().__init__(shapes, kinds == {"tensor(uint8)"})
        self._names = [item.name for item in outputs]

    def compute(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[np.float32]]:
        """See :meth:`Session.compute`."""
        return dict(zip(self._names, self.session.run(None, dict(inputs)), strict=True))


def _module() -> ModuleType:
    with needs("onnxruntime", "fbnet-mobile[onnx]"):
        return importlib.import_module("onnxruntime")
