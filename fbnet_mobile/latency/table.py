"""The latency table: what each block of a search space takes on one device, and what a whole network will take."""

import math
import re
import shlex
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pandas as pd
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError

from fbnet_mobile.arch import Architecture, Block
from fbnet_mobile.devices.base import UNKNOWN
from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.files import write_whole
from fbnet_mobile.latency.calibration import Calibration, Network, PredictionError, calibrate, left_out_error
from fbnet_mobile.space import SearchSpace

SCHEMA_VERSION = 2
STATISTICS = ("min", "median", "mean")

INVOCATION = "invocation"
"""Kind of the row for the fixed cost of calling the runtime: a network that does next to nothing."""
BLOCK = "block"
NETWORK = "network"
"""Kind of the rows for whole networks, measured among the blocks to calibrate their sum."""

ROUND = "round"
"""Kind of the rows for rounds of measuring: a reference block, measured again and again among the others, and what the
device said of itself."""

MEASURED = "measured"
ESTIMATED = "estimated"
"""Source of the rows of blocks that there was no time for, which come from the measured ones."""

NOT_CONDITIONS = ("space", "date")
"""Columns that say why and when a table was measured, which does not change what it holds."""

RowKey = tuple[str, str]
"""Kind of a row, and what it is of: keys of blocks, or what a device said in a round."""

SAME_SPEED = 0.05
"""By how much the reference block may differ between sessions before their rows are scaled to one speed; as much as it
may differ within one without a warning."""

_JOIN = " | "
_ROUND_NUMBERS = ("round", "drift", "cores", "load_1m", "least_mhz", "most_mhz", "temperature_c", "steal_percent")
_ROUND_TEXTS = ("governor", "affinity")
_DRIFT = SAME_SPEED
_STEAL_PERCENT = 1.0
_STATISTICS = ("min_us", "p10_us", "median_us", "p90_us", "mean_us")


@dataclass(frozen=True)
class Conditions:
    """Under what conditions every row of a table was measured.

    ``format`` is that of the model files: the first that the runtime runs, if it is not given.
    """

    device: str
    cpu: str
    runtime: str
    runtime_version: str
    threads: int
    precision: str
    statistic: str
    space: str
    date: str
    format: str = ""

    def __post_init__(self) -> None:
        """Fill in the format; UserError for one that the runtime does not run, or a runtime that is not known."""
        from fbnet_mobile.formats.base import format_of_runtime, get_format

        usual = format_of_runtime(self.runtime).name
        object.__setattr__(self, "format", get_format(self.format or usual).run_by(self.runtime).name)

    @property
    def unusual(self) -> str:
        """The format, if it is not the runtime's first; else ""."""
        from fbnet_mobile.formats.base import format_of_runtime

        return "" if self.format == format_of_runtime(self.runtime).name else self.format

    def differs_from(self, other: "Conditions") -> str | None:
        """The first field in which two tables cannot be mixed, or None; the space and the date may differ."""
        for field in fields(self):
            if field.name not in NOT_CONDITIONS and getattr(self, field.name) != getattr(other, field.name):
                return field.name
        return None


@dataclass(frozen=True)
class Measurement:
    """What was measured of one model file, over all rounds, or estimated.

    ``latency_us`` is the statistic that the table's conditions name: for "min" the 10th percentile, over all samples,
    of each one's minimum, while ``min_us`` is the least of all. ``uncertainty`` is relative to it: of a
    measured row how far the statistic differs between the even and the odd rounds, of an estimated one the root mean
    square error of the estimate on measured blocks. An estimated row has no other statistics, which are then not a
    number. ``session`` names the calls of the command that measured it, joined by a plus if several did; "" where that
    was not recorded.
    """

    latency_us: float
    min_us: float
    p10_us: float
    median_us: float
    p90_us: float
    mean_us: float
    runs: int
    rounds: int
    uncertainty: float
    source: str = MEASURED
    session: str = ""

    @classmethod
    def estimated(cls, latency_us: float, uncertainty: float) -> Self:
        """A row that was not measured."""
        none: dict[str, Any] = dict.fromkeys(_STATISTICS, math.nan)
        return cls(latency_us, runs=0, rounds=0, uncertainty=uncertainty, source=ESTIMATED, **none)


class LatencyTable:
    """Rows of measurements under one set of conditions.

    A network's latency is predicted as the calibrated sum of ``fixed`` and of ``block - fixed`` over its blocks: each
    block was measured as a model of its own, so each contains the fixed cost of an invocation once. The calibration
    (:mod:`fbnet_mobile.latency.calibration`) is fitted on the table's own whole networks, and changes nothing if it
    has none.

    The file is CSV with one row for each measurement and the conditions repeated in each row, so that
    ``pandas.read_csv(path)`` opens it and two tables can be concatenated or compared. A column that is not one of the
    table's own and that holds numbers is kept in ``extra``, through loading, merging and saving: what else was
    measured of the rows, such as their energy.

    Args:
        conditions: of every row.
        rows: (kind, the keys of its blocks joined) to a measurement.
        extra: further columns: name to (row to number); finite, not negative, and not of every row.
    """

    def __init__(
        self,
        conditions: Conditions,
        rows: Mapping[RowKey, Measurement],
        extra: Mapping[str, Mapping[RowKey, float]] | None = None,
    ) -> None:
        self.conditions = conditions
        self._rows = dict(rows)
        self.extra: dict[str, dict[RowKey, float]] = {
            name: {key: value for key, value in column.items() if key in self._rows}
            for name, column in (extra or {}).items()
        }

    @staticmethod
    def row_key(kind: str, blocks: Iterable[Block] = ()) -> RowKey:
        """The key of a row for a block, a network (its blocks in order) or the invocation (no blocks)."""
        return kind, _JOIN.join(block.key for block in blocks)

    @staticmethod
    def parse_blocks(keys: str) -> tuple[Block, ...]:
        """The blocks in the key of a row for a block or a network; UserError if one of them is none."""
        return tuple(Block.parse_key(key) for key in keys.split(_JOIN))

    @property
    def rows(self) -> Mapping[RowKey, Measurement]:
        """All measurements."""
        return self._rows

    def blocks(self) -> dict[str, Measurement]:
        """Measurements of single blocks by the block's key."""
        return {keys: row for (kind, keys), row in self._rows.items() if kind == BLOCK}

    def networks(self) -> list[tuple[tuple[Block, ...], float]]:
        """Blocks and measured latency in us of each whole network in the table."""
        return [
            (self.parse_blocks(keys), row.latency_us) for (kind, keys), row in self._rows.items() if kind == NETWORK
        ]

    def rounds(self) -> list[tuple[dict[str, str], Measurement]]:
        """For each round of measuring what the device said of itself, and the reference block."""
        return [(_round_fields(text), row) for (kind, text), row in self._rows.items() if kind == ROUND]

    @cached_property
    def _invocation_us(self) -> float:
        row = self._rows.get((INVOCATION, ""))
        return row.latency_us if row is not None else 0.0

    def _alone_us(self, block: Block) -> float:
        """What a block takes by itself, without the fixed cost of an invocation."""
        row = self._rows.get((BLOCK, block.key))
        if row is None:
            raise UserError(
                f"the table for {self.conditions.device} has no row for the block '{block.key}'; "
                "measure it with fbnet-profile and a space that holds it"
            )
        return max(row.latency_us - self._invocation_us, 0.0)

    @cached_property
    def _calibration_networks(self) -> list[Network]:
        """The table's networks whose blocks are all in it."""
        known = self.blocks()
        return [
            Network(blocks, tuple(map(self._alone_us, blocks)), measured, self._invocation_us)
            for blocks, measured in self.networks()
            if all(block.key in known for block in blocks)
        ]

    @cached_property
    def calibration(self) -> Calibration:
        """How the sum of blocks is corrected, as the table's whole networks ask for."""
        return calibrate(self._calibration_networks)

    @property
    def fixed_us(self) -> float:
        """What every network pays for an invocation, calibrated."""
        return self.calibration.coefficients[0] * self._invocation_us

    def block_us(self, block: Block) -> float:
        """What a block adds to a network, in us, calibrated.

        Raises:
            UserError: the table has no row for it.
        """
        return self.calibration.block_us(block, self._alone_us(block))

    def total(self, architecture: Architecture) -> float:
        """The predicted latency of a network in us.

        Raises:
            UserError: the table lacks one of its blocks.
        """
        return self.fixed_us + sum(map(self.block_us, architecture.blocks))

    def by_block(self, architecture: Architecture) -> list[tuple[Block, float]]:
        """What each block of a network adds, in us; with ``fixed_us`` they add up to ``total``."""
        return [(block, self.block_us(block)) for block in architecture.blocks]

    def missing(self, blocks: Iterable[Block]) -> list[Block]:
        """The blocks that the table has no row for; for a whole space: ``table.missing(space.candidates())``."""
        known = self.blocks()
        return [block for block in blocks if block.key not in known]

    def require(self, space: SearchSpace, name: str, path: Path) -> None:
        """Refuse a table that lacks a candidate of the space.

        Args:
            space: the space to be searched.
            name: how the user named it, for the command in the message.
            path: the table's file, for the same.

        Raises:
            UserError: how many candidates are missing, the first of them, and the command that measures them.
        """
        candidates = space.candidates()
        missing = self.missing(candidates)
        if missing:
            raise UserError(
                f"the latency table lacks {len(missing)} of the {len(candidates)} candidate blocks of space {name}, "
                f"'{missing[0].key}' first; measure them with: {self.command(path, name, space.classes)}"
            )

    def command(self, path: Path, space: str | None = None, classes: int | None = None) -> str:
        """The command that measures into the table what it lacks of a space, of its own one by default."""
        own = self.conditions
        words: dict[str, object] = {
            "--device": own.device,
            "--runtime": own.runtime,
            "--space": space or own.space,
            **({"--format": own.unusual} if own.unusual else {}),
            **({"--num-classes": classes} if classes is not None else {}),
            "--threads": own.threads,
            "--precision": own.precision,
            "--statistic": own.statistic,
            "-o": path,
        }
        return shlex.join(["fbnet-profile", *(str(word) for pair in words.items() for word in pair)])

    def error(self) -> PredictionError | None:
        """The error on the table's whole networks, leaving each out of the fit; None with fewer than three."""
        networks = self._calibration_networks
        return left_out_error(networks) if len(networks) >= 3 else None

    def mismatch(self, measured: Mapping[str, object]) -> str | None:
        """Why the table does not predict what is measured under these conditions; None if it does.

        Args:
            measured: fields of :class:`Conditions` and their values, as far as they are known: ``device``, ``cpu``,
                ``runtime``, ``runtime_version``, ``threads``, ``precision``, ``format``.

        Returns:
            The first field that differs and both its values, in one line.
        """
        for name, value in measured.items():
            own = getattr(self.conditions, name)
            if own != value:
                what = {
                    "cpu": "processor",
                    "runtime_version": "runtime's version",
                    "threads": "number of threads",
                }.get(name, name)
                return f"the {what} is {'not known' if value is None else value}, that of the latency table {own}"
        return None

    def warnings(self) -> list[str]:
        """What makes the numbers less certain than they look, a line for each."""
        rounds = [fields for fields, _ in self.rounds()]
        governors = sorted({fields["governor"] for fields in rounds} - {UNKNOWN, "performance"})

        def most(name: str) -> float:
            return max((float(fields[name]) for fields in rounds if fields[name] != UNKNOWN), default=0.0)

        mhz = [float(fields["least_mhz"]) for fields in rounds if fields["least_mhz"] != UNKNOWN]
        latencies_us = {row.latency_us for row in self.blocks().values()}
        found = {
            f"other programs ran, {most('load_1m'):.1f} at once on {most('cores'):.0f} cores": (
                most("load_1m") > most("cores") > 0
            ),
            f"the virtual machine went without its processors for {most('steal_percent'):.1f} % of the time": (
                most("steal_percent") > _STEAL_PERCENT
            ),
            f"within a round the reference block took up to {most('drift'):.0%} longer than at its best": (
                most("drift") > _DRIFT
            ),
            f"the governor {', '.join(governors)} changes the frequency of the processor": bool(governors),
            f"the processor's frequency fell to {min(mhz, default=0):.0f} MHz from {most('most_mhz'):.0f}": (
                bool(mhz) and most("most_mhz") > (1 + _DRIFT) * min(mhz)
            ),
            f"every block takes the same {min(latencies_us, default=0):g} us, by which none can be chosen": (
                len(latencies_us) == 1 < len(self.blocks())
            ),
        }
        return [*self._scaled_sessions(), *(warning for warning, holds in found.items() if holds)]

    def _scaled_sessions(self) -> list[str]:
        """A warning for each session in which the machine had another speed."""
        speeds = {fields["session"]: float(fields["speed"]) for fields, _ in self.rounds() if "speed" in fields}
        warnings = []
        for session, speed in sorted(speeds.items()):
            rows = [key for key, row in self._rows.items() if key[0] != ROUND and session in row.session.split("+")]
            if rows and abs(speed - 1) > SAME_SPEED:
                warnings.append(
                    f"{len(rows)} rows are of the session of {session}, in which the reference block took {speed:.2f} "
                    "times as long as in the others, and were scaled to their speed; measure all in one go to be sure"
                )
        return warnings

    @property
    def network_repeatability(self) -> float:
        """How far the whole networks' own measurements differ between even and odd rounds, on average."""
        own = [row.uncertainty for (kind, _), row in self._rows.items() if kind == NETWORK]
        return sum(own) / len(own) if own else 0.0

    def merged(self, other: "LatencyTable") -> "LatencyTable":
        """This table with the rows of another under the same conditions; the other's rows win.

        Raises:
            UserError: the conditions differ.
        """
        field = self.conditions.differs_from(other.conditions)
        if field is not None:
            mine, theirs = getattr(self.conditions, field), getattr(other.conditions, field)
            raise UserError(f"cannot mix two tables: {field} is {mine} in one and {theirs} in the other")
        extra = {
            name: {**self.extra.get(name, {}), **other.extra.get(name, {})} for name in (*self.extra, *other.extra)
        }
        return LatencyTable(other.conditions, {**self._rows, **other.rows}, extra)

    def compared(self, other: "LatencyTable") -> pd.DataFrame:
        """The rows that both tables have: ``kind``, ``blocks``, ``latency_us`` here, ``other_us``, and ``ratio``.

        The ratio is the other's latency over this one's, sorted from what became faster to what became slower.
        """
        shared = [key for key in self._rows if key in other.rows]
        frame = pd.DataFrame(shared, columns=["kind", "blocks"])
        frame["latency_us"] = [self._rows[key].latency_us for key in shared]
        frame["other_us"] = [other.rows[key].latency_us for key in shared]
        frame["ratio"] = frame["other_us"] / frame["latency_us"]
        return frame.sort_values("ratio", ignore_index=True)

    def save(self, path: Path) -> None:
        """Write the CSV file, whole or not at all.

        Raises:
            UserError: it cannot be written.
            JobError: the disk is full.
        """
        shared = {"schema_version": SCHEMA_VERSION, **asdict(self.conditions)}
        records = [{**shared, "kind": kind, "blocks": keys, **asdict(row)} for (kind, keys), row in self._rows.items()]
        frame = pd.DataFrame(records)
        if not any(row.session for row in self._rows.values()):
            frame = frame.drop(columns="session", errors="ignore")
        if not self.conditions.unusual:
            frame = frame.drop(columns="format")
        for name, column in self.extra.items():
            frame[name] = [column.get(key) for key in self._rows]
        with write_whole(path) as partial:
            frame.to_csv(partial, index=False, float_format="%.5g", lineterminator="\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a table.

        Raises:
            UserError: missing, not a table, another schema version, conditions that differ between rows, a row twice, a
                number that cannot be, something that is not a block or not written as :attr:`Block.key` writes it, a
                runtime that is not known, no block at all; names the line.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # a line with more values than columns
                frame = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; measure a table with fbnet-profile") from error
        except pd.errors.ParserWarning as error:
            raise UserError(f"{path} is not a latency table: lines have more values than there are columns") from error
        except (ValueError, OverflowError) as error:  # those of pandas and of the decoder are among them
            raise UserError(f"{path} is not a latency table: {str(error).splitlines()[0][:200]}") from error
        own = ["schema_version", "kind", "blocks", *_ConditionsFields.model_fields, *_RowFields.model_fields]
        first = str(frame["schema_version"].iloc[0]) if "schema_version" in frame.columns and len(frame) else ""
        if re.fullmatch("[0-9]{1,9}", first) and int(first) != SCHEMA_VERSION:
            raise UserError(
                f"{path}, line 2: schema version {first}, but this release reads {SCHEMA_VERSION}; profile again"
            )
        absent = [name for name in own if name not in frame.columns and name not in _OPTIONAL]
        if absent:
            raise UserError(f"{path} is not a latency table: column {absent[0]!r} is missing")
        records = frame.to_dict("records")
        extra: dict[str, dict[RowKey, float]] = {
            str(name): {} for name in frame.columns if name not in own and _has_number(frame[name])
        }
        conditions: Conditions | None = None
        rows: dict[RowKey, Measurement] = {}
        for line, record in enumerate(records, start=2):
            try:
                if record["schema_version"] != str(SCHEMA_VERSION):
                    raise ValueError(
                        f"schema version {shown(record['schema_version'], 40)}, but this release reads {SCHEMA_VERSION}"
                    )
                current = Conditions(**_checked(_ConditionsFields, record))
                if conditions is None:
                    conditions = current
                elif name := conditions.differs_from(current):
                    raise ValueError(f"{name} is {getattr(current, name)!r}, above it {getattr(conditions, name)!r}")
                key = (str(record["kind"]), str(record["blocks"]))
                _check_kind(*key)
                if key in rows:
                    raise ValueError("the same row stands twice")
                rows[key] = _measurement(record)
                for name, column in extra.items():
                    if record[name]:
                        column[key] = _number(name, record[name])
            except (ValueError, UserError) as error:
                raise UserError(f"{path}, line {line}: {error}") from error
        if conditions is None or not any(kind == BLOCK for kind, _ in rows):
            raise UserError(f"{path} has no row for a block; measure a table with fbnet-profile")
        return cls(conditions, rows, extra)


_MOST_US = 1e10
Text = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(lambda text: _printable(text))]
Microseconds = Annotated[float, Field(gt=0, le=_MOST_US, allow_inf_nan=False)]
Statistic = Annotated[Microseconds | None, BeforeValidator(lambda text: None if text in ("", "nan") else text)]


def _printable(text: str) -> str:
    if not text.isprintable() or text.lower() == "nan":
        raise ValueError("it must be printable text that says something")
    return text


def _known_runtime(name: str) -> str:
    from fbnet_mobile.formats.base import get_runtime

    try:
        get_runtime(name)
    except UserError as error:
        raise ValueError(str(error)) from error
    return name


class _ConditionsFields(BaseModel):
    """A line's conditions, as they may be."""

    device: Text
    cpu: Text
    runtime: Annotated[Text, AfterValidator(_known_runtime)]
    runtime_version: Text
    threads: Annotated[int, Field(ge=1, le=1024)]
    precision: Text
    statistic: Literal["min", "median", "mean"]
    space: Text
    date: Text
    format: Annotated[str, Field(max_length=1000)] = ""


class _RowFields(BaseModel):
    """A line's measurement, as it may be; the statistics that are not known are None."""

    latency_us: Microseconds
    min_us: Statistic
    p10_us: Statistic
    median_us: Statistic
    p90_us: Statistic
    mean_us: Statistic
    runs: Annotated[int, Field(ge=0, le=10**12)]
    rounds: Annotated[int, Field(ge=0, le=10**6)]
    uncertainty: Annotated[float, Field(ge=0, le=1e13, allow_inf_nan=False)]  # two latencies that can be
    source: Literal["measured", "estimated"]
    session: Annotated[str, Field(max_length=10_000)] = ""


_OPTIONAL = {"session", "format"}


def _checked(schema: type[BaseModel], record: Mapping[Any, Any]) -> dict[str, Any]:
    """The schema's fields of a line; ValueError with the field, its text, and what it may be."""
    try:
        return schema.model_validate(
            {name: record[name] for name in schema.model_fields if name in record}
        ).model_dump()
    except ValidationError as error:
        (problem, *_) = error.errors(include_url=False)
        name = str(problem["loc"][0])
        message = problem["msg"].removeprefix("Value error, ")
        raise ValueError(f"{name} is '{shown(record[name], 40)}': {message[0].lower()}{message[1:]}") from error


def _measurement(record: Mapping[Any, Any]) -> Measurement:
    values = _checked(_RowFields, record)
    return Measurement(**{**values, **{name: math.nan for name in _STATISTICS if values[name] is None}})


def _has_number(column: Iterable[object]) -> bool:
    """Whether a column that is not the table's own holds numbers, and no notes."""
    values = [str(text) for text in column if text]
    return bool(values) and any(_is_number(text) for text in values)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(name: str, text: str) -> float:
    value = float(text) if _is_number(text) else math.nan
    if not 0 <= value <= _MOST_EXTRA:
        raise ValueError(
            f"{shown(name, 40)} is '{shown(text, 40)}': it must be a number from 0 to {_MOST_EXTRA:g}, or empty"
        )
    return value


_MOST_EXTRA = 1e15


def _check_kind(kind: str, keys: str) -> None:
    kinds = (INVOCATION, BLOCK, NETWORK, ROUND)
    if kind not in kinds:
        raise ValueError(f"kind '{shown(kind, 40)}' is not one of {', '.join(kinds)}")
    if kind == ROUND:
        _round_fields(keys)
    elif kind == INVOCATION:
        if keys:
            raise ValueError("an invocation has no blocks; leave the column blocks empty")
    else:
        blocks = LatencyTable.parse_blocks(keys)
        if kind == BLOCK and len(blocks) != 1:
            raise ValueError(f"{len(blocks)} blocks in a row of kind {BLOCK}; several make a {NETWORK}")


def _round_fields(text: str) -> dict[str, str]:
    """The metadata fields ``name=value name=value`` of a round; ValueError for others, or what is no number."""
    found = dict(field.split("=", 1) for field in text.split(" ") if "=" in field)
    for name in (*_ROUND_NUMBERS, *_ROUND_TEXTS):
        if name not in found:
            raise ValueError(f"not what a round says of the device: {text[:80]!r} has no {name}")
    for name in (*_ROUND_NUMBERS, "speed"):
        value = found.get(name, UNKNOWN)
        if value != UNKNOWN and not (_is_number(value) and math.isfinite(float(value))):
            raise ValueError(f"{name} is {value[:40]!r} in what a round says of the device; it must be a number")
    if "speed" in found and "session" not in found:
        raise ValueError("a round that says a speed says no session")
    return found
