"""A search as TensorBoard shows it."""

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from fbnet_mobile.errors import UserError
from fbnet_mobile.files import writing
from fbnet_mobile.search.results import SearchEpoch
from fbnet_mobile.space import SearchSpace


class Board:
    """A file of TensorBoard's, to be used as a context; what an earlier one has of epochs that are repeated is dropped.

    Not tensorboardX's SummaryWriter: that writes in a thread of its own, which dies of a full disk, and whoever adds
    to it then waits forever.

    Args:
        folder: of the file; made if it is not there.
        first_epoch: that will be written.

    Raises:
        UserError: tensorboardX is not installed, or the folder cannot be written to.
        JobError: the disk is full.
    """

    def __init__(self, folder: Path, first_epoch: int) -> None:
        try:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog
            from tensorboardX.summary import scalar
        except ImportError as error:
            raise UserError(
                "no tensorboardX to write TensorBoard's files with; pip install fbnet-mobile[tensorboard]"
            ) from error
        self._event, self._scalar, self._folder = Event, scalar, folder
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"), f".{first_epoch}")
        self._add(first_epoch, session_log=SessionLog(status=SessionLog.START))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # each epoch was flushed: what is left is what did not fit
            self._writer.close()

    def log_epoch(self, row: SearchEpoch, probabilities: Mapping[str, Tensor], space: SearchSpace) -> None:
        """Write an epoch's numbers, and the probability of every option.

        Raises:
            JobError: the disk is full.
        """
        numbers = {f"search/{name}": value for name, value in row.columns().items() if name != "epoch"}
        for name, found in probabilities.items():
            if len(found) > 1:
                numbers |= {f"{name}/{each}": p for each, p in zip(space.variables[name], found.tolist(), strict=True)}
        for name, value in numbers.items():
            if value is not None and math.isfinite(value):
                self._add(row.epoch, summary=self._scalar(name, value))
        with writing(self._folder):
            self._writer.flush()

    def _add(self, step: int, **what: Any) -> None:
        with writing(self._folder):
            self._writer.write_event(self._event(wall_time=time.time(), step=step, **what))
