"""What each block of a network takes within its file, by the profiler of what runs it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fbnet_mobile.arch import Block
from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.base import Runtime

_WARMUP, _RUNS = 20, 100


@dataclass(frozen=True)
class BlockTimes:
    """Where the time of one inference goes.

    Attributes:
        blocks_us: of each block, in their order.
        between_us: of what belongs to none, such as a change of layout.
    """

    blocks_us: tuple[float, ...]
    between_us: float


def time_by_block(path: Path, runtime: Runtime, threads: int, blocks: Sequence[Block]) -> BlockTimes:
    """Run a file of ours under its runtime's profiler, on this machine.

    Args:
        path: of the file.
        runtime: that has a profiler.
        threads: of the runtime.
        blocks: of the network in the file.

    Raises:
        UserError: the file cannot be run, or its operations are not named after the blocks.
    """
    assert runtime.operation_times_us is not None
    times = runtime.operation_times_us(path, threads, _WARMUP, _RUNS)
    found = shared_out(times, len(blocks))
    if not any(found.blocks_us):
        raise UserError(
            f"{runtime.name} names no operation of {path} after a block; time by block an .onnx file of fbnet-export"
        )
    return found


def shared_out(operation_times_us: Mapping[str, float], blocks: int) -> BlockTimes:
    """Add up the times of operations by the blocks that their names begin with, as in ``3.depthwise.0.conv2d``."""
    sums, between_us = [0.0] * blocks, 0.0
    for name, time_us in operation_times_us.items():
        number = re.match(r"(\d+)\.", name)
        if number and int(number[1]) < blocks:
            sums[int(number[1])] += time_us
        else:
            between_us += time_us
    return BlockTimes(tuple(sums), between_us)
