"""ExecuTorch programs, by its runtime in this process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.base import Session, loading
from fbnet_mobile.formats.executorch import loader
from fbnet_mobile.graph.operations import INPUT, OUTPUT

_BYTE, _FLOAT = 0, 6
"""Numbers of types of PyTorch (``c10/core/ScalarType.h``)."""


def load(path: Path, threads: int = 1) -> Session:
    """Load a program whose ``forward`` takes one float32 or uint8 tensor and gives one."""
    with loading(path, "ExecuTorch"):
        return ExecuTorchSession(path, loader.method(str(path), threads))


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
        super().__init__({INPUT: tuple(map(int, said.input_tensor_meta(0).sizes()))}, kinds[0] == _BYTE)

    def compute(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[np.float32]]:
        """See :meth:`Session.compute`."""
        (result,) = self.method.execute([torch.from_numpy(np.array(inputs[INPUT]))])
        return {OUTPUT: result.numpy().copy()}
