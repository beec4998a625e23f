"""The latency table: what each block of a search space takes on one device, and what a whole network will take."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd

from fbnet_mobile.arch import Architecture, Block
from fbnet_mobile.devices.base import UNKNOWN
from fbnet_mobile.errors import UserError
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
"""The kind of a row and the keys of its blocks, joined."""

_JOIN = " | "
_ROUND_NUMBERS = ("round", "drift", "cores", "load_1m", "least_mhz", "most_mhz", "temperature_c", "steal_percent")
_ROUND_TEXTS = ("governor", "affinity")
_DRIFT = 0.05
_STEAL_PERCENT = 1.0
_STATISTICS = ("min_us", "p10_us", "median_us", "p90_us", "mean_us")


@dataclass(frozen=True)
class Conditions:
    """Under what conditions every row of a table was measured."""

    device: str
    cpu: str
    runtime: str
    runtime_version: str
    threads: int
    precision: str
    statistic: str
    space: str
    date: str

    def differs_from(self, other: "Conditions") -> str | None:
        """The first field in which two tables cannot be mixed, or None; the space and the date may differ."""
        for field in fields(self):
            if field.name not in NOT_CONDITIONS and getattr(self, field.name) != getattr(other, field.name):
                return field.name
        return None


@dataclass(frozen=True)
class Measurement:
    """What was measured of one model file, over all rounds, or estimated.

    ``latency_us`` is the statistic that the table's conditions name: for "min" the 10th percentile, over all turns of
    measuring, of each turn's minimum, while ``min_us`` is the least of all. ``uncertainty`` is relative to it: of a
    measured row how far the statistic differs between the even and the odd rounds, of an estimated one the root mean
    square error of the estimate on measured blocks. An estimated row has no other statistics, which are then not a
    number.
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

    @classmethod
    def estimated(cls, latency_us: float, uncertainty: float) -> Self:
        """A row that was not measured."""
        unknown = dict.fromkeys(_STATISTICS, math.nan)
        return cls(latency_us, runs=0, rounds=0, uncertainty=uncertainty, source=ESTIMATED, **unknown)


class LatencyTable:
    """Rows of measurements under one set of conditions.

    A network's latency is predicted as the calibrated sum of ``fixed`` and of ``block - fixed`` over its blocks: each
    block was measured as a model of its own, so each contains the fixed cost of an invocation once. The calibration
    (:mod:`fbnet_mobile.latency.calibration`) is fitted on the table's own whole networks, and changes nothing if it
    has none.

    The file is CSV with one row for each measurement and the conditions repeated in each row, so that
    ``pandas.read_csv(path)`` opens it and two tables can be concatenated or compared.
    """

    def __init__(
        self,
        conditions: Conditions,
        rows: Mapping[RowKey, Measurement],
        extra: Mapping[str, Mapping[RowKey, float]] | None = None,
    ) -> None:
        """``rows`` maps (kind, the keys of its blocks joined) to a measurement, ``extra`` other columns to values.

        The columns of ``extra`` are what somebody else measured of the same blocks, such as energy: finite numbers that
        are not negative, of rows for blocks and the invocation.
        """
        self.conditions = conditions
        self._rows = dict(rows)
        self.extra = {name: dict(values) for name, values in (extra or {}).items()}

    @staticmethod
    def row_key(kind: str, blocks: Iterable[Block] = ()) -> tuple[str, str]:
        """The key of a row for a block, a network (its blocks in order) or the invocation (no blocks)."""
        return kind, _JOIN.join(block.key for block in blocks)

    @staticmethod
    def parse_blocks(keys: str) -> tuple[Block, ...]:
        """The blocks in the key of a row for a block or a network; UserError if one of them is none."""
        return tuple(Block.parse_key(key) for key in keys.split(_JOIN))

    @property
    def rows(self) -> Mapping[tuple[str, str], Measurement]:
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
        return [(_words(text), row) for (kind, text), row in self._rows.items() if kind == ROUND]

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
            (self._invocation_us + sum(map(self._alone_us, blocks)), blocks, measured)
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
            conditions = self.conditions
            raise UserError(
                f"the latency table lacks {len(missing)} of the {len(candidates)} candidate blocks of space {name}, "
                f"'{missing[0].key}' first; measure them with: fbnet-profile --device {conditions.device} "
                f"--runtime {conditions.runtime} --space {name} --classes {space.classes} "
                f"--threads {conditions.threads} --precision {conditions.precision} -o {path}"
            )

    def error(self) -> PredictionError | None:
        """The error on the table's whole networks, leaving each out of the fit; None with fewer than three."""
        networks = self._calibration_networks
        return left_out_error(networks) if len(networks) >= 3 else None

    def doubts(self) -> list[str]:
        """What of the device's state while it was measured makes the numbers doubtful, a line for each."""
        rounds = [words for words, _ in self.rounds()]
        governors = sorted({words["governor"] for words in rounds} - {UNKNOWN, "performance"})

        def most(name: str) -> float:
            return max((float(words[name]) for words in rounds if words[name] != UNKNOWN), default=0.0)

        mhz = [float(words["least_mhz"]) for words in rounds if words["least_mhz"] != UNKNOWN]
        doubts = {
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
        }
        return [doubt for doubt, holds in doubts.items() if holds]

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
            name: {**self.extra.get(name, {}), **other.extra.get(name, {})} for name in {**self.extra, **other.extra}
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
        """Write the CSV file, whole or not at all."""
        shared = {"schema_version": SCHEMA_VERSION, **asdict(self.conditions)}
        records = [
            {
                **shared,
                "kind": key[0],
                "blocks": key[1],
                **asdict(row),
                **{name: values.get(key) for name, values in self.extra.items()},
            }
            for key, row in self._rows.items()
        ]
        with write_whole(path) as partial:
            pd.DataFrame(records).to_csv(partial, index=False, float_format="%.5g", lineterminator="\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a table.

        Raises:
            UserError: missing, not a table, another schema version, conditions that differ between rows, a row twice, a
                number that is negative, missing or not finite, or something that is not a block; names the line.
        """
        try:
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; measure a table with fbnet-profile") from error
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not a latency table: {str(error).splitlines()[0]}") from error
        expected = ["schema_version", *_names(Conditions), "kind", "blocks", *_names(Measurement)]
        first = frame["schema_version"].iloc[0] if "schema_version" in frame.columns and len(frame) else ""
        if first.isdecimal() and int(first) != SCHEMA_VERSION:
            raise UserError(
                f"{path}, line 2: schema version {first}, but this release reads {SCHEMA_VERSION}; profile again"
            )
        absent = [name for name in expected if name not in frame.columns]
        if absent:
            raise UserError(f"{path} is not a latency table: column {absent[0]!r} is missing")
        if frame.empty:
            raise UserError(f"{path} has no rows; measure a table with fbnet-profile")
        conditions: Conditions | None = None
        rows: dict[RowKey, Measurement] = {}
        extra: dict[str, dict[RowKey, float]] = {name: {} for name in frame.columns if name not in expected}
        for line, record in enumerate(frame.to_dict("records"), start=2):
            try:
                if record["schema_version"] != str(SCHEMA_VERSION):
                    raise ValueError(
                        f"schema version {record['schema_version']!r}, but this release reads {SCHEMA_VERSION}"
                    )
                own = Conditions(**_typed(Conditions, record))
                if conditions is None:
                    conditions = _checked(own)
                elif name := conditions.differs_from(own):
                    raise ValueError(f"{name} is {getattr(own, name)!r}, above it {getattr(conditions, name)!r}")
                key = (str(record["kind"]), str(record["blocks"]))
                _check_kind(*key)
                if key in rows:
                    raise ValueError("the same row stands twice")
                rows[key] = _measurement(record)
                for name, values in extra.items():
                    if record[name]:
                        values[key] = _extra(name, str(record[name]), key[0])
            except (ValueError, UserError) as error:
                raise UserError(f"{path}, line {line}: {error}") from error
        assert conditions is not None
        return cls(conditions, rows, extra)


def _extra(name: str, text: str, kind: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise ValueError(f"{name} is {text!r}, which is not a number") from error
    if kind not in (BLOCK, INVOCATION) or not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {text}; such a column has finite numbers of blocks that are not negative")
    return value


def _names(record: type) -> list[str]:
    return [field.name for field in fields(record)]


def _typed(record: type, values: Mapping[Any, Any]) -> dict[str, Any]:
    """The fields of a dataclass from their text."""
    found: dict[str, Any] = {}
    for field in fields(record):
        text = values[field.name]
        try:
            found[field.name] = text if field.type is str else field.type(text)  # type: ignore[operator]
        except ValueError as error:
            raise ValueError(f"{field.name} is {text!r}, which is not a number") from error
    return found


def _measurement(record: Mapping[Any, Any]) -> Measurement:
    record = {**record, **{name: text or "nan" for name, text in record.items() if name in _STATISTICS}}
    row = Measurement(**_typed(Measurement, record))
    if row.source not in (MEASURED, ESTIMATED):
        raise ValueError(f"source {row.source!r} is not one of {MEASURED}, {ESTIMATED}")
    for name in _names(Measurement):
        value = getattr(row, name)
        if name in _STATISTICS and math.isnan(value):  # of an estimate; or benchmark_model does not print it
            continue
        if isinstance(value, float | int) and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} is {value}; a table holds finite numbers that are not negative")
    if row.latency_us <= 0:
        raise ValueError("latency_us is 0; it must be positive")
    return row


def _checked(conditions: Conditions) -> Conditions:
    if conditions.statistic not in STATISTICS:
        raise ValueError(f"statistic {conditions.statistic!r} is not one of {', '.join(STATISTICS)}")
    return conditions


def _check_kind(kind: str, keys: str) -> None:
    kinds = (INVOCATION, BLOCK, NETWORK, ROUND)
    if kind not in kinds:
        raise ValueError(f"kind {kind!r} is not one of {', '.join(kinds)}")
    if kind == ROUND:
        _words(keys)
    elif kind != INVOCATION:
        LatencyTable.parse_blocks(keys)


def _words(text: str) -> dict[str, str]:
    """The fields ``name=value name=value`` of a round; ValueError for others, or what is no number."""
    words = dict(word.split("=", 1) for word in text.split(" ") if "=" in word)
    for name in (*_ROUND_NUMBERS, *_ROUND_TEXTS):
        if name not in words:
            raise ValueError(f"not what a round says of the device: {text!r} has no {name}")
        if name in _ROUND_NUMBERS and words[name] != UNKNOWN:
            float(words[name])
    return words
