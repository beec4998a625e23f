"""Samples, and the journal of them: every number that comes from a device or from a half-done run is checked here.

A sample is what was measured of one model file at one time. The journal keeps each sample with the name of its file,
which says what the file is (:mod:`fbnet_mobile.measure.artifacts`), and with the session that measured it, which says
where, by what and how. So samples of another precision or of another runtime may stand in the same journal: they are
not those of the files that are asked for now, or not of a session like this one, and are passed over. A table is a view
of the rest.
"""

import datetime
import errno
import itertools
import math
import os
from collections import defaultdict
from pathlib import Path
from time import monotonic
from typing import IO, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from fbnet_mobile.devices.base import UNKNOWN, DeviceState
from fbnet_mobile.files import writing

LEAST_US, MOST_US = 1e-3, 1e10
"""What a latency can be: a nanosecond, the unit of the clocks, to nearly three hours."""
_MOST_S = 1e8
_ROUNDED = 1.001
"""By how much numbers that are printed with few digits may be off."""
_LONGEST = 1 << 20
"""Bytes of a line; what is longer is damaged."""

Latency = Annotated[float, Field(ge=LEAST_US, le=MOST_US)]
Seconds = Annotated[float, Field(ge=0, le=_MOST_S)]
Name = Annotated[str, Field(min_length=1, max_length=4096)]


class _Record(BaseModel):
    """Strict: a boolean or a text is no number, and neither is what is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Sample(_Record):
    """What was measured of one model at one time.

    Attributes:
        runs: inferences that were timed.
        load_us: how long loading took.
        min_us: the fastest inference; with the mean, and with percentiles where they are printed.
        hot_c: the temperature of a device that was still above its limit when the batch began.
    """

    runs: Annotated[int, Field(ge=1, le=1_000_000_000)]
    load_us: Annotated[float, Field(ge=0, le=MOST_US)]
    min_us: Latency
    p10_us: Latency | None = None
    median_us: Latency | None = None
    p90_us: Latency | None = None
    mean_us: Latency
    hot_c: float | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        """Of other numbers than these no statistic says how long the model takes."""
        ordered = [each for each in (self.min_us, self.p10_us, self.median_us, self.p90_us) if each is not None]
        pairs = [*itertools.pairwise(ordered), (self.min_us, self.mean_us)]
        if any(less > _ROUNDED * more for less, more in pairs):
            raise ValueError("statistics that contradict one another")
        return self

    def value(self, statistic: str) -> float | None:
        """``min``, ``median`` or ``mean`` in us; None if it was not printed."""
        value: float | None = getattr(self, f"{statistic}_us")
        return value

    def scaled(self, factor: float) -> Self:
        """The sample as it would be on a device whose inferences take ``factor`` times as long."""
        if factor == 1:
            return self
        names = ("min_us", "p10_us", "median_us", "p90_us", "mean_us")
        return self.model_copy(
            update={
                name: min(max(value * factor, LEAST_US), MOST_US)
                for name in names
                if (value := getattr(self, name)) is not None
            }
        )


class RoundState(_Record):
    """What the device said of itself before and after what a session measured of a round, and how long that took."""

    before: DeviceState
    after: DeviceState
    elapsed_s: Seconds

    @field_validator("before", "after")
    @classmethod
    def _finite(cls, state: DeviceState) -> DeviceState:
        if not is_finite(state):
            raise ValueError("a number is not finite")
        return state


NO_STATE = DeviceState(None, UNKNOWN, None, None, None, UNKNOWN)
"""Of a device that was lost while it was asked."""


def is_finite(state: DeviceState) -> bool:
    """Whether every number that a device says of itself is one."""
    return all(math.isfinite(value) for value in vars(state).values() if isinstance(value, float | int))


class Session(_Record):
    """One call of a command that measures: where, by what, and how.

    Attributes:
        begun: date and time in UTC, which names the session.
        device: as the user named it.
        cpu: its processor.
        runtime: what runs the models.
        runtime_version: with the compute unit or the delegate, where there is a choice.
        threads: of the runtime.
        warmup_ms: how long a model runs in a turn before it is timed.
        min_ms: how long it is timed at least.
    """

    line: Literal["session"] = "session"
    begun: Name
    device: Name
    cpu: str
    runtime: Name
    runtime_version: Name
    threads: Annotated[int, Field(ge=1)]
    warmup_ms: float
    min_ms: float

    def is_like(self, other: "Session") -> bool:
        """Whether samples of the two may be used together."""
        return self == other.model_copy(update={"begun": self.begun})


def session_name() -> str:
    """A name for a session that begins now."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class SampleLine(_Record):
    """A sample of a model file: when in its session it came, and how long after the one before."""

    line: Literal["sample"] = "sample"
    session: Name
    round: Annotated[int, Field(ge=0, le=1_000_000)]
    model: Name
    sample: Sample
    at_s: Seconds
    took_s: Seconds


class RoundLine(_Record):
    """A round that came to its end."""

    line: Literal["round"] = "round"
    session: Name
    round: Annotated[int, Field(ge=0, le=1_000_000)]
    state: RoundState
    at_s: Seconds


class BuiltLine(_Record):
    """How long writing so many model files took."""

    line: Literal["built"] = "built"
    session: Name
    files: Annotated[int, Field(ge=1)]
    took_s: Seconds
    at_s: Seconds


class ChosenLine(_Record):
    """How many of these blocks there is time for in a budget, as was decided once."""

    line: Literal["chosen"] = "chosen"
    session: Name
    budget_s: Annotated[float, Field(ge=0)]
    of: Name
    blocks: Annotated[int, Field(ge=0)]
    at_s: Seconds


_Event = SampleLine | RoundLine | BuiltLine | ChosenLine
_LINE: TypeAdapter[Session | _Event] = TypeAdapter(Annotated[Session | _Event, Field(discriminator="line")])


class Journal:
    """What was measured so far: a file of one JSON object a line, or only in memory.

    Lines of sessions unlike this one are passed over in silence; ``passed_over`` counts those that are damaged.

    Args:
        path: continued if it is there; None to keep nothing.
        session: that measures now.

    Raises:
        FbnetError: the file cannot be read or written.
    """

    def __init__(self, path: Path | None, session: Session) -> None:
        self.path, self.session = path, session
        self.passed_over = 0
        self.samples: list[SampleLine] = []
        self.rounds: list[RoundLine] = []
        self.built: list[BuiltLine] = []
        self.chosen: list[ChosenLine] = []
        self._known = {session.begun}
        self._ended_s: dict[str, float] = defaultdict(float)
        self._began = monotonic()
        self._file: IO[bytes] | None = None
        if path is not None:
            with writing(path):
                self._open(path)
            self._write(session)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def elapsed_s(self) -> float:
        """Seconds since this session began."""
        return monotonic() - self._began

    def spent_s(self) -> float:
        """Seconds that this session and those before it that it continues took."""
        return self.elapsed_s() + sum(s for session, s in self._ended_s.items() if session != self.session.begun)

    def add(self, line: _Event) -> None:
        """Keep a line.

        Raises:
            FbnetError: it cannot be written; what was written before is kept.
        """
        self._keep(line)
        self._write(line)

    def _keep(self, line: _Event) -> None:
        if line.session not in self._known:
            return
        self._ended_s[line.session] = max(self._ended_s[line.session], line.at_s)
        match line:
            case SampleLine():
                self.samples.append(line)
            case RoundLine():
                self.rounds.append(line)
            case BuiltLine():
                self.built.append(line)
            case ChosenLine():
                self.chosen.append(line)

    def _write(self, line: Session | _Event) -> None:
        if self._file is None or self.path is None:
            return
        text = line.model_dump_json().encode() + b"\n"
        with writing(self.path):
            if self._file.write(text) != len(text):  # not buffered: what did not fit is not written later either
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _open(self, path: Path) -> None:
        """Read what is there, and cut off a line that an interruption left unfinished."""
        if path.exists():
            whole = 0
            with path.open("rb") as file:
                while text := file.readline(_LONGEST):
                    if text.endswith(b"\n"):
                        whole = file.tell()
                        self._read(text)
            if whole < path.stat().st_size:
                os.truncate(path, whole)
        self._file = path.open("ab", buffering=0)

    def _read(self, text: bytes) -> None:
        try:
            line = _LINE.validate_json(text)
        except (ValidationError, RecursionError):
            self.passed_over += 1
            return
        if not isinstance(line, Session):
            self._keep(line)
        elif line.is_like(self.session):
            self._known.add(line.begun)
