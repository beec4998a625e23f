"""How a device's Python loads a program to time it: put beside the runner, without imports of this project."""

from __future__ import annotations

from importlib.metadata import version as _version
from typing import Any

import torch
from executorch.extension.pybindings import portable_lib
from executorch.runtime import Runtime


def version() -> str:
    """As a table states it."""
    return _version("executorch")


def method(path: str, threads: int) -> Any:
    """The network of a program."""
    portable_lib._unsafe_reset_threadpool(threads)
    return Runtime.get().load_program(path).load_method("forward")


def load(path: str, threads: int) -> Any:
    """A function that runs the network once, on random numbers or bytes."""
    network = method(path, threads)
    torch.manual_seed(0)
    inputs = []
    for number in range(network.metadata.num_inputs()):
        given = network.metadata.input_tensor_meta(number)
        values = torch.randn(tuple(given.sizes()))
        inputs.append((values * 64 + 128).clamp(0, 255).to(torch.uint8) if given.dtype() == 0 else values)
    return lambda: network.execute(inputs)
