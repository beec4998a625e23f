"""Model files of blocks and networks to be measured, written as an exported network would be."""

import hashlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import nn

from fbnet_mobile.arch import Block
from fbnet_mobile.export.formats import get_format
from fbnet_mobile.export.graph import Graph
from fbnet_mobile.export.trace import trace
from fbnet_mobile.latency.measure import RowKey
from fbnet_mobile.latency.quantise import write
from fbnet_mobile.nn import build_block

_AT_ONCE = 16
"""Files between two reports of a process."""
_IMAGE_CHANNELS = 3


def build(
    wanted: Mapping[RowKey, Sequence[Block]],
    folder: Path,
    format: str,  # noqa: A002
    precision: str,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[RowKey, Path]:
    """Write those files that the folder does not hold yet, on all cores.

    Args:
        wanted: for each row of a table the chain of blocks to measure; none for the fixed cost of an invocation.
        folder: of the files, which are named after what they hold.
        format: of the files.
        precision: of the files; random inputs decide the ranges of int8.
        progress: called with how many more files are there.

    Returns:
        The file of each row.
    """
    folder.mkdir(parents=True, exist_ok=True)
    suffix = get_format(format).suffix
    files = {key: folder / f"{digest(' '.join(key))}{suffix}" for key in wanted}
    absent = [(list(blocks), files[key]) for key, blocks in wanted.items() if not files[key].exists()]
    progress(len(wanted) - len(absent))
    portions = [absent[start : start + _AT_ONCE] for start in range(0, len(absent), _AT_ONCE)]
    write_some = partial(_write_some, format=format, precision=precision)
    with _processes(len(portions)) as pool:
        for count in pool.map(write_some, portions) if pool else map(write_some, portions):
            progress(count)
    return files


def graph_of(blocks: Sequence[Block]) -> Graph:
    """The graph of a chain of blocks, with random weights; of as little as a runtime can be asked for, without any."""
    if not blocks:
        return trace(nn.ReLU(), (1, 8, 1, 1))
    module = nn.Sequential(*(build_block(block) for block in blocks))
    return trace(module, (1, blocks[0].in_channels, blocks[0].resolution, blocks[0].resolution))


def digest(text: str) -> str:
    """A short name for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write_some(portion: Sequence[tuple[Sequence[Block], Path]], format: str, precision: str) -> int:  # noqa: A002
    for blocks, path in portion:
        first = not blocks or blocks[0].in_channels == _IMAGE_CHANNELS
        last = not blocks or blocks[-1].out_resolution == 1
        write(graph_of(blocks), path, format, precision, first, last)
    return len(portion)


@contextmanager
def _processes(portions: int) -> Iterator[ProcessPoolExecutor | None]:
    """A process for each core; none where there is only one, or little to do, or processes cannot be forked."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if sys.platform != "linux" or min(cores, portions) < 2:
        yield None
        return
    # Forked, not started afresh: they need not import torch again, and know kinds of blocks that were registered.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(min(cores, portions), context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield pool
