"""A search as TensorBoard shows it."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fbnet_mobile.errors import UserError
from fbnet_mobile.search.results import SearchEpoch
from fbnet_mobile.space import SearchSpace


def open_board(folder: Path, first_epoch: int) -> Any:
    """TensorBoard's writer; what an interrupted run wrote of epochs that are repeated is dropped.

    Raises:
        UserError: tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UserError(
            "no tensorboardX to write TensorBoard's files with; pip install fbnet-mobile[tensorboard]"
        ) from error
    return SummaryWriter(str(folder), purge_step=first_epoch)


def log_epoch(board: Any, row: SearchEpoch, probabilities: Mapping[str, Tensor], space: SearchSpace) -> None:
    """Write an epoch's numbers, and the probability of every option."""
    for name, value in row.columns().items():
        if name != "epoch" and value is not None and math.isfinite(value):
            board.add_scalar(f"search/{name}", value, row.epoch)
    for name, found in probabilities.items():
        for option, probability in zip(space.variables[name], found.tolist(), strict=True):
            if len(found) > 1:
                board.add_scalar(f"{name}/{option}", probability, row.epoch)
    board.flush()
