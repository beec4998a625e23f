"""How long a run will take and how much memory it needs: before it starts, and from its first steps."""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_TRIAL_IMAGES = 16
_COPIES = 2
"""Of the weights, that there are not before the first step: their gradients, and the optimiser's momentum."""


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to need.

    Attributes:
        seconds: for what is left of it.
        memory: bytes, of the process on a CPU, of the accelerator otherwise.
    """

    seconds: float
    memory: int

    def __str__(self) -> str:
        """For people."""
        return f"about {duration(self.seconds)} and {self.memory / 2**30:.1f} GiB of memory"


def duration(seconds: float) -> str:
    """A length of time for people, in two units at most.

    >>> duration(42.4), duration(600), duration(5000)
    ('42 s', '10 min', '1 h 23 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def forecast(
    network: nn.Module, passes: Sequence[tuple[float, Callable[[int], Tensor]]], batch_size: int, steps: float
) -> Forecast:
    """Estimate a run by a step of a few images, which leaves the network as it was.

    What a step keeps for its backward pass is counted and grows with the images in it, as its time does; a step of few
    images takes longer for each of them, so that the estimate is rather too long than too short.

    Args:
        network: whose step is tried; its buffers and gradients are given back as they were.
        passes: forward passes of so many images to a scalar, of which each step does one, each with its share of the
            steps.
        batch_size: images a step of this process.
        steps: how many the run has left.
    """
    used, images = memory_used() or 0, min(batch_size, _TRIAL_IMAGES)
    buffers = [buffer.clone() for buffer in network.buffers()]
    weights = {parameter.data_ptr(): parameter.nbytes for parameter in network.parameters()}
    kept: dict[int, int] = {}
    step_seconds, features = 0.0, 0

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    for share, loss in passes:
        seconds = math.inf
        for _ in range(3):  # the first sets things up
            kept.clear()
            started = time.monotonic()
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                value = loss(images)
            torch.autograd.backward(value)
            value.item()  # waits for an accelerator
            seconds = min(seconds, time.monotonic() - started)
            network.zero_grad(set_to_none=True)
        step_seconds += share * seconds
        features = max(features, sum(size for pointer, size in kept.items() if pointer not in weights))
    with torch.no_grad():
        for buffer, before in zip(network.buffers(), buffers, strict=True):
            buffer.copy_(before)
    memory = used + _COPIES * sum(weights.values()) + features * batch_size / images
    return Forecast(step_seconds * batch_size / images * steps, int(memory))


def memory_used() -> int | None:
    """The most bytes that this process, or its accelerator, had in use so far; None where that is not known."""
    if torch.cuda.is_available() and torch.cuda.memory_allocated():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
