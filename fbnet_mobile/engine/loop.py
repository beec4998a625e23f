"""Epochs of steps: what a search and a training have in common."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic

import torch
from lightning_fabric import Fabric
from torch import Tensor

from fbnet_mobile.data.augment import derive_seed
from fbnet_mobile.engine.allocator import tune_allocator
from fbnet_mobile.engine.checkpoint import tensors_in
from fbnet_mobile.engine.forecast import duration, memory_used
from fbnet_mobile.engine.processes import mean
from fbnet_mobile.engine.run_folder import Row, RunFolder
from fbnet_mobile.errors import JobError, enough_memory
from fbnet_mobile.progress import ProgressBar

_REPORT_STEPS = 20


class Means:
    """Means of some numbers over steps and processes, kept on the device, so that no step waits for it."""

    def __init__(self, fabric: Fabric, names: int) -> None:
        self._fabric = fabric
        self._sums = self._shared = torch.zeros(names, device=fabric.device)
        self.steps = 0

    def add(self, *values: Tensor) -> None:
        """The numbers of one step, scalars on the device."""
        self._sums = self._sums + torch.stack(values)
        self.steps += 1

    def read(self) -> list[float] | None:
        """The means; None where there was no step. Every process must ask."""
        if not self.steps:
            return None
        self._shared = mean(self._fabric, self._sums)
        means: list[float] = (self._shared / self.steps).tolist()
        return means

    def state_dict(self) -> dict[str, Any]:
        """As they were when they were last read."""
        return {"sums": self._shared, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave, in every process."""
        self._sums = self._shared = state["sums"].to(self._fabric.device)
        self.steps = int(state["steps"])


class Task(ABC, Generic[Row]):
    """What is trained.

    Attributes:
        title: for the progress bar, such as "training".
        epochs: how many there are.
        steps: in each.
        batch_size: images a step, of all processes together.
        images: what they look like, such as "224 x 224 pixels".
        learning_rate: its peak, to be lowered where the loss explodes.
        seed: decides, with the epoch, what torch's own generator draws.
        done: steps of the current epoch that are made already, as in a state that was kept within an epoch.
        save_seconds: after how long the state is kept within an epoch; None where it is not.
    """

    title: str
    epochs: int
    steps: int
    batch_size: int
    images: str
    learning_rate: float
    seed: int
    done: int = 0
    save_seconds: float | None = None

    @abstractmethod
    def run(self, epoch: int) -> Iterator[None]:
        """Make the steps of an epoch that are not ``done``, yielding after each."""

    def steps_left(self, epoch: int, step: int) -> float:
        """How many steps are to be made after one of an epoch, others than those of weights counted by their cost."""
        return (self.epochs - epoch) * self.steps + self.steps - step

    def forecast(self) -> str:
        """How long what is left will take and how much memory it needs, for people; empty if that is not known."""
        return ""

    @abstractmethod
    def losses(self) -> list[float]:
        """The mean of each loss since the epoch began, over the processes; asked for every few steps."""

    @abstractmethod
    def note(self) -> str:
        """How the epoch stands, for the progress bar; after ``losses``."""

    @abstractmethod
    def row(self, epoch: int, started: float) -> Row:
        """Close the epoch; ``started`` is when it began, by ``time.monotonic``."""

    def write(self, row: Row) -> None:
        """What the folder keeps beside state and log; called in the first process, before these are written."""
        del row

    @abstractmethod
    def line(self, row: Row) -> str:
        """The epoch for people."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What is needed to continue: tensors, which must stay finite, and plain values."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take up an optimiser's state, which torch itself does not check.

    Raises:
        ValueError: it is that of another optimiser, or of other parameters; other errors if it is none.
    """

    def fixed() -> list[dict[str, Any]]:
        return [
            {name: group[name] for name in group if name not in ("params", "lr")} for group in optimizer.param_groups
        ]

    before = fixed()
    optimizer.load_state_dict(state)
    shapes_fit = all(
        value is None
        or isinstance(value, float | int)
        or (isinstance(value, Tensor) and value.shape in ((), parameter.shape))
        for parameter, values in optimizer.state.items()
        for value in values.values()
    )
    if fixed() != before or not shapes_fit:
        raise ValueError("the state of another optimiser")


def run_epochs(task: Task[Row], folder: RunFolder[Row], *, show_progress: bool = True) -> None:
    """Make all epochs that the folder does not have yet; each is kept when it is done.

    Raises:
        JobError: a loss or a weight stopped being a finite number, or memory ran out; the epochs before are kept.
        FbnetError: the folder cannot be written to.
    """
    tune_allocator()
    fabric, first = folder.fabric, len(folder.history) + 1
    images = task.steps * task.batch_size
    bar = ProgressBar(
        task.title,
        images * task.epochs,
        done=images * (first - 1) + task.done * task.batch_size,
        show=show_progress and fabric.is_global_zero,
    )
    batch = f"a batch of {task.batch_size} images of {task.images}"
    with bar, enough_memory(batch, "use a smaller --batch-size, fewer pixels or a smaller network"):
        pace = _Pace(task)
        if show_progress and first <= task.epochs and (remark := task.forecast()):
            bar.say(remark)
        for epoch in range(first, task.epochs + 1):
            started = saved = time.monotonic()
            # Seeded for every epoch, which spares keeping the state of every generator.
            with seeded(fabric, derive_seed(task.seed, epoch, fabric.global_rank)):
                for step, _ in enumerate(task.run(epoch), start=task.done + 1):
                    note = None
                    if step % _REPORT_STEPS == 0 or step == task.steps:
                        for value in task.losses():
                            if not math.isfinite(value):
                                raise _exploded(f"the loss became {value}", epoch, task, folder)
                        note = f"epoch {epoch}/{task.epochs} {task.note()}"
                        if step < task.steps and _due(task, fabric, saved):
                            folder.save_within(task.state_dict)
                            saved = time.monotonic()
                    bar.advance(task.batch_size, note)
                    if remark := pace.after(epoch, step):
                        bar.say(remark)
                # The last step may have spoilt the weights, which no loss has seen yet.
                if not all(bool(value.isfinite().all()) for value in tensors_in(task.state_dict())):
                    raise _exploded("the weights became infinite", epoch, task, folder)
                row = task.row(epoch, started)
            speed = images / max(time.monotonic() - started, 1e-9)
            folder.save(row, task.state_dict, lambda: task.write(folder.history[-1]))
            bar.say(f"epoch {epoch}/{task.epochs}: {task.line(row)}, {speed:,.0f} images/s")


class _Pace:
    """Says once, after the first steps, how long the rest will take; the first of all sets things up, and is not in."""

    def __init__(self, task: Task[Any]) -> None:
        self._task, self._steps = task, 0

    def after(self, epoch: int, step: int) -> str:
        """A remark to be made after a step, or nothing."""
        self._steps += 1
        if self._steps not in (1, _REPORT_STEPS):
            return ""
        left = self._task.steps_left(epoch, step)
        if self._steps == 1:
            self._began, self._left = time.monotonic(), left
            return ""
        seconds = (time.monotonic() - self._began) / (self._left - left) * left
        memory = memory_used()
        used = "" if memory is None else f", {memory / 2**30:.1f} GiB of memory in use"
        return f"{self._task.title}: about {duration(seconds)} left{used}"


def _due(task: Task[Row], fabric: Fabric, saved: float) -> bool:
    """Whether the state is to be kept within the epoch, as the first process's clock says."""
    if task.save_seconds is None:
        return False
    due = time.monotonic() - saved >= task.save_seconds
    return bool(fabric.broadcast(due)) if fabric.world_size > 1 else due


def _exploded(what: str, epoch: int, task: Task[Row], folder: RunFolder[Row]) -> JobError:
    return JobError(
        f"{what} in epoch {epoch}; the epochs before it are kept in {folder.path}: "
        f"use another folder and a learning rate below {task.learning_rate:g}"
    )


@contextmanager
def seeded(fabric: Fabric, seed: int) -> Iterator[None]:
    """Seed torch's generators while the block runs, and give them back as they were."""
    device = fabric.device
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        torch.manual_seed(seed)
        yield
