"""The folder of a search or a training: its settings, its state, its log, and one run at a time."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import pandas as pd
from lightning_fabric import Fabric
from pydantic import JsonValue, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from fbnet_mobile import __version__
from fbnet_mobile.data.data import Data
from fbnet_mobile.documents import first_problem
from fbnet_mobile.engine.checkpoint import read_tensors, write_tensors
from fbnet_mobile.engine.processes import in_first_process
from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.files import locked, remove_leftovers, write_whole, writing

STATE, LOG = "last.pt", "log.csv"


class Epoch(Protocol):
    """A row of the log: a frozen dataclass of numbers."""

    @property
    def epoch(self) -> int:
        """Its number, from 1."""

    def columns(self) -> dict[str, float | None]:
        """Its numbers by name; None for what there is none of."""


Row = TypeVar("Row", bound=Epoch)


class State(TypedDict):
    """What the state file holds; ``task`` is the task's own affair."""

    settings: dict[str, JsonValue]
    history: list[dict[str, Any]]
    precision: dict[str, Any]
    tool_version: str
    task: dict[str, Any]


_STATE: TypeAdapter[State] = TypeAdapter(State)


def read_state(path: Path, what: str) -> State:
    """The state file of a run.

    Args:
        path: of the file.
        what: kind of run, such as "search".

    Raises:
        UserError: it is missing, damaged or another kind's.
    """
    content = read_tensors(path, f"fbnet-mobile {what} state 2", "use another folder, or remove this one")
    try:
        return _STATE.validate_python(content)
    except ValidationError as error:
        raise UserError(f"{shown(path)} is damaged ({first_problem(error)}); remove its folder") from error


def data_settings(data: Data) -> dict[str, object]:
    """What tells one set of images from another in a run's settings."""
    labels = hashlib.sha256()
    for split in (data.train, data.val, data.test):
        labels.update(split.labels.numpy().tobytes())
    return {
        "data": data.source,
        "resolution": data.resolution,
        "classes": list(data.classes),
        "training images": len(data.train),
        "validation images": len(data.val),
        "test images": len(data.test),
        "mean colour": list(data.mean),
        "deviation of colours": list(data.std),
        "labels": labels.hexdigest(),
        "images": data.fingerprint,
    }


class RunFolder(Generic[Row]):
    """A folder that continues where a run was stopped, to be used as a context: one run at a time may be in it.

    It holds ``last.pt`` (what is needed to continue), a log (a row for each epoch), and what the task writes. The
    log is made from the state, so that they never disagree.

    Args:
        path: the folder; made if it is not there.
        what: kind of run, such as "search".
        settings: plain values; a run with other ones is not continued.
        row: class of the log's rows.
        fabric: already launched; the first process writes.
        results: names of what a finished run leaves; refused if they stand there without a state.
        log: name of the log.
    """

    def __init__(
        self,
        path: Path,
        what: str,
        settings: Mapping[str, object],
        row: type[Row],
        fabric: Fabric,
        *,
        results: Collection[str] = (),
        log: str = LOG,
    ) -> None:
        self.log = log
        self.path, self.what, self.fabric, self.results = path, what, fabric, results
        # As they come back from a file.
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.history: list[Row] = []
        self._rows: TypeAdapter[list[Row]] = TypeAdapter(list[row])  # type: ignore[valid-type]
        self._held = ExitStack()

    def __enter__(self) -> Self:
        """Take the folder.

        Raises:
            JobError: another process works in it; says which.
            UserError: it cannot be written to.
        """
        in_first_process(
            self.fabric, lambda: self._held.enter_context(locked(self.path / ".lock", f"the folder {shown(self.path)}"))
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.__exit__(kind, error, trace)

    def resume(
        self,
        take_up: Callable[[dict[str, Any]], None],
        state: Callable[[], dict[str, Any]],
        *,
        shared: Path | None = None,
        free: Collection[str] = (),
    ) -> None:
        """Take up the state if there is one, or write the one to begin with.

        Args:
            take_up: gets what ``state`` gave in the run before.
            state: of the task.
            shared: the state of the first epochs of runs that differ only in settings named in ``free``; taken if the
                folder has none and this file is there.
            free: see ``shared``.

        Raises:
            UserError: the folder holds a run with other settings, results without a state, or a damaged state.
        """
        own = self.path / STATE
        path = own if own.exists() or shared is None or not shared.exists() else shared
        found = path.exists()
        in_first_process(self.fabric, lambda: None)  # which may write only when all have looked
        if found:
            self._take_up(path, take_up, free if path == shared else ())
        else:
            for name in self.results:
                if (self.path / name).exists():
                    raise UserError(
                        f"{shown(self.path)} has {name} but no {STATE} to continue; use another folder, or remove it"
                    )

        def prepare() -> None:
            remove_leftovers(self.path)
            if path == own and found:
                self._write_log()
            else:  # before the first epoch, so that one that is killed in it begins with the same weights again
                self._write(state())

        in_first_process(self.fabric, prepare)

    def _take_up(self, path: Path, take_up: Callable[[dict[str, Any]], None], free: Collection[str]) -> None:
        found = read_state(path, self.what)
        for name, value in self.settings.items():
            before = found["settings"].get(name)
            if before != value and name not in free:
                raise UserError(
                    f"{shown(path.parent)} holds a {self.what} {_difference(name, before, value)}; use another folder, "
                    "or remove that one"
                )
        try:
            self.history = self._rows.validate_python(found["history"])
            if [row.epoch for row in self.history] != list(range(1, len(self.history) + 1)):
                raise ValueError("epochs are missing")
            take_up(found["task"])
            self.fabric.strategy.precision.load_state_dict(found["precision"])
        except Exception as error:  # whatever the parts of a task raise for a state that is not theirs
            raise UserError(f"{shown(path)} is damaged; remove it, or use another folder") from error

    def save(self, row: Row, state: Callable[[], dict[str, Any]], before: Callable[[], None] = lambda: None) -> None:
        """Keep an epoch: what ``before`` writes, then the state, then the log; all processes call this.

        In this order a kill in between costs the epoch, which then runs again in just the same way.

        Raises:
            FbnetError: the first process could not write; then in all processes.
        """
        self.history.append(row)

        def write() -> None:
            before()
            self._write(state())

        in_first_process(self.fabric, write)

    def save_within(self, state: Callable[[], dict[str, Any]]) -> None:
        """Keep the state as it is within an epoch; all processes call this.

        Raises:
            FbnetError: the first process could not write; then in all processes.
        """
        in_first_process(self.fabric, lambda: self._write(state()))

    def write_state(self, path: Path, state: Callable[[], dict[str, Any]]) -> None:
        """Write the state as it is now to ``path`` too."""
        write_tensors(path, dict(self._content(state())), self._format)

    @property
    def _format(self) -> str:
        return f"fbnet-mobile {self.what} state 2"

    def _content(self, state: dict[str, Any]) -> State:
        return {
            "settings": self.settings,
            "history": self._rows.dump_python(self.history),
            "precision": self.fabric.strategy.precision.state_dict(),
            "tool_version": __version__,
            "task": state,
        }

    def _write(self, state: dict[str, Any]) -> None:
        write_tensors(self.path / STATE, dict(self._content(state)), self._format)
        self._write_log()

    def _write_log(self) -> None:
        if not self.history:
            with writing(self.path / self.log):
                (self.path / self.log).unlink(missing_ok=True)
            return
        with write_whole(self.path / self.log) as partial:
            pd.DataFrame([row.columns() for row in self.history]).to_csv(partial, index=False)


def _difference(name: str, before: object, now: object) -> str:
    if any(len(str(value)) > 40 or "\n" in str(value) for value in (before, now)):
        return f"that differs from this one in its {name}"
    return f"with {name} {before}, and this one asks for {now}"
