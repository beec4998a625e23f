"""Writing the model files of blocks and networks to be measured, as an exported network would be."""

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch
from torch import nn

from fbnet_mobile.arch import Block
from fbnet_mobile.errors import JobError
from fbnet_mobile.files import writing
from fbnet_mobile.formats.base import get_format
from fbnet_mobile.graph.operations import Graph
from fbnet_mobile.graph.trace import trace
from fbnet_mobile.measure.artifacts import Artifact
from fbnet_mobile.measure.quantise import write

_IMAGE_CHANNELS = 3


def file_of(artifact: Artifact, folder: Path) -> Path:
    """Where :func:`build` writes it."""
    return folder / f"{artifact.name}{get_format(artifact.format).suffix}"


def build(
    wanted: Iterable[Artifact], folder: Path, progress: Callable[[int], None] = lambda _: None
) -> dict[Artifact, Path]:
    """Write those files that the folder does not hold yet, on all cores.

    Args:
        wanted: what to write; random inputs decide the ranges of int8.
        folder: of the files.
        progress: called with how many more files are there.

    Returns:
        The file of each.

    Raises:
        UserError: an unknown precision, or a missing package.
        JobError: the folder cannot be written to, or a process that wrote was killed.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # One for all: to make and remove a folder for each file would take a fifth of the time.
        scratch = tempfile.TemporaryDirectory(dir=folder)
    files = {artifact: file_of(artifact, folder) for artifact in wanted}
    absent = [artifact for artifact, path in files.items() if not path.exists()]
    progress(len(files) - len(absent))
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    with scratch:
        if min(cores, len(absent)) < 2:
            for artifact in absent:
                _write(artifact, folder, Path(scratch.name))
                progress(1)
        else:
            _write_on(min(cores, len(absent)), absent, folder, Path(scratch.name), progress)
    return files


def graph_of(blocks: Sequence[Block]) -> Graph:
    """The graph of a chain of blocks, with random weights; of as little as a runtime can be asked for, without any."""
    if not blocks:
        return trace(nn.ReLU(), (1, 8, 1, 1))
    module = nn.Sequential(*(block.build() for block in blocks))
    return trace(module, (1, blocks[0].in_channels, blocks[0].resolution, blocks[0].resolution))


def _write(artifact: Artifact, folder: Path, scratch: Path) -> None:
    blocks, path = artifact.blocks, file_of(artifact, folder)
    first = not blocks or blocks[0].in_channels == _IMAGE_CHANNELS
    last = not blocks or blocks[-1].out_resolution == 1
    with writing(path):
        write(graph_of(blocks), scratch / path.name, artifact.format, artifact.precision, first, last)
        (scratch / path.name).replace(path)


def _write_on(
    cores: int, absent: Sequence[Artifact], folder: Path, scratch: Path, progress: Callable[[int], None]
) -> None:
    """Write files by a process for each core.

    They are forked, not started afresh: so they need not import torch again, and know kinds of blocks that were
    registered. Each has its share from the beginning, so that one whose parent was killed comes to an end.
    """
    context = multiprocessing.get_context("fork")
    processes, receivers = [], []
    try:
        for number in range(cores):
            receiver, sender = context.Pipe(duplex=False)
            share = absent[number::cores]
            process = context.Process(target=_write_share, args=(share, folder, scratch, sender), daemon=True)
            process.start()
            sender.close()
            processes.append(process)
            receivers.append(receiver)
        left = len(absent)
        while receivers:
            ready = wait(receivers)
            for receiver in [receiver for receiver in receivers if receiver in ready]:
                try:
                    message = receiver.recv()
                except EOFError:
                    receivers.remove(receiver)
                    continue
                if isinstance(message, Exception):
                    raise message
                left -= 1
                progress(1)
        if left:
            raise JobError(f"{left} model files were not written: a process that wrote them was killed; run again")
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _write_share(share: Sequence[Artifact], folder: Path, scratch: Path, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends this
    torch.set_num_threads(1)
    try:
        for artifact in share:
            _write(artifact, folder, scratch)
            sender.send(None)
    except BrokenPipeError:  # the parent was killed
        return
    except Exception as error:
        sender.send(error)
