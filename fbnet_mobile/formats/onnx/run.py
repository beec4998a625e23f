"""ONNX files, by ONNX Runtime's CPU execution provider."""

import importlib
from collections.abc import Mapping
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
    """Load a file of float32 or uint8 inputs."""
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
        kinds = {item.type for item in inputs}
        if not outputs or kinds not in ({"tensor(float)"}, {"tensor(uint8)"}):
            raise UserError(
                f"{path} has {len(inputs)} inputs of {', '.join(sorted(kinds)) or 'nothing'}; only float32 or uint8 "
                "inputs can be run"
            )
        self.takes_pixels = kinds == {"tensor(uint8)"}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for item in inputs:
            shape = tuple(size if isinstance(size, int) else 0 for size in item.shape)
            if 0 in shape[1:]:
                raise UserError(f"{path} leaves the size of its input open: {item.shape}; export it for one size")
            self._shapes[item.name] = shape
        self._names = [item.name for item in outputs]
        self._given: dict[str, NDArray[Any]] = {}
        self._results: list[Array] = []

    @property
    def input_shape(self) -> tuple[int, ...]:
        """See :attr:`Session.input_shape`."""
        return next(iter(self._shapes.values()))

    @property
    def input_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """See :attr:`Session.input_shapes`."""
        return self._shapes

    def set_input(self, images: Any) -> None:
        """See :meth:`Session.set_input`."""
        self._given = dict(images) if isinstance(images, Mapping) else {next(iter(self._shapes)): images}

    def invoke(self) -> None:
        """See :meth:`Session.invoke`."""
        self._results = self.session.run(None, self._given)

    def output(self) -> Array:
        """See :meth:`Session.output`."""
        return self._results[0]

    def outputs(self) -> Mapping[str, Array]:
        """See :meth:`Session.outputs`."""
        return dict(zip(self._names, self._results, strict=True))


def _module() -> ModuleType:
    with needs("onnxruntime", "fbnet-mobile[onnx]"):
        return importlib.import_module("onnxruntime")
