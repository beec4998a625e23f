"""ExecuTorch programs, by its runtime in this process."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.base import Session, existing, unreadable
from fbnet_mobile.formats.packages import needs, quiet

Array = NDArray[np.float32]
_BYTE, _FLOAT = 0, 6
"""Numbers of types of PyTorch (``c10/core/ScalarType.h``)."""


def version() -> str:
    """Return the version of ``executorch``."""
    return str(_loader().version())


def load(path: Path, threads: int = 1) -> Session:
    """Load a program whose ``forward`` takes one float32 or uint8 tensor and gives one."""
    loader = _loader()
    existing(path)
    try:
        with quiet():
            method = loader.method(str(path), threads)
    except Exception as error:  # RuntimeError, whatever it is that was wrong
        raise unreadable(path, "ExecuTorch", error) from error
    return ExecuTorchSession(path, method)


class ExecuTorchSession(Session):
    """A loaded method, which stays reachable as ``method``."""

    def __init__(self, path: Path, method: Any) -> None:
        self.method = method
        said = method.metadata
        kinds = [said.input_tensor_meta(number).dtype() for number in range(said.num_inputs())]
        if len(kinds) != 1 or said.num_outputs() != 1 or kinds[0] not in (_BYTE, _FLOAT):
            raise UserError(
                f"{path} has {len(kinds)} inputs and {said.num_outputs()} outputs; only one float32 or uint8 input and "
                "one output can be run"
            )
        self.takes_pixels = kinds[0] == _BYTE
        self._shape = tuple(int(size) for size in said.input_tensor_meta(0).sizes())
        self._images = self._result = torch.zeros(0)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """See :attr:`Session.input_shape`."""
        return self._shape

    def set_input(self, images: NDArray[Any]) -> None:
        """See :meth:`Session.set_input`."""
        self._images = torch.from_numpy(np.array(images))

    def invoke(self) -> None:
        """See :meth:`Session.invoke`."""
        (self._result,) = self.method.execute([self._images])

    def output(self) -> Array:
        """See :meth:`Session.output`."""
        result: Array = self._result.numpy().copy()
        return result


def _loader() -> ModuleType:
    with needs("executorch", "fbnet-mobile[executorch]"), quiet():
        return importlib.import_module("fbnet_mobile.formats.executorch.loader")
