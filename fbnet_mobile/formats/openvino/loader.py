"""How a device's Python loads a file to time it by OpenVINO: put beside the runner, without imports of this project."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import openvino


def version() -> str:
    """As a table states it."""
    return str(openvino.__version__.split("-")[0])


@cache
def _core() -> Any:
    """The one of this process.

    Each sets a stack for signals aside, and when two are given up in the order of their making it leaves the second
    one's, which is gone, as the process's: the next signal with a handler, Ctrl-C too, is a segmentation fault
    (OpenVINO 2026.4).
    """
    return openvino.Core()


def read(path: str) -> Any:
    """The model as it stands in its file."""
    return _core().read_model(path)


def compiled(model: Any, threads: int, more: Mapping[str, Any] | None = None) -> Any:
    """It, compiled to answer one question as soon as it can, with more properties if there are any."""
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # whoever measures chooses the cores
        **(more or {}),
    }
    return _core().compile_model(model, "CPU", options)


def request(path: str, threads: int, more: Mapping[str, Any] | None = None) -> Any:
    """The compiled model with random numbers or bytes as its inputs."""
    made = compiled(read(path), threads, more).create_infer_request()
    rng = np.random.RandomState(0)
    for tensor in made.input_tensors:
        tensor.shape = [size or 1 for size in tensor.shape]  # a batch that is open would be one of no images
        if np.issubdtype(tensor.data.dtype, np.integer):
            limits = np.iinfo(tensor.data.dtype)
            tensor.data[:] = rng.randint(limits.min, limits.max + 1, size=tensor.data.shape)
        else:
            tensor.data[:] = rng.standard_normal(tensor.data.shape)
    return made


def load(path: str, threads: int) -> Any:
    """A function that runs the model once."""
    return request(path, threads).infer
