"""The latency table: what each block of a search space takes on one device, and what a whole network will take."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from fbnet_mobile.arch import Architecture, Block
from fbnet_mobile.errors import UserError
from fbnet_mobile.files import write_whole
from fbnet_mobile.space import SearchSpace

SCHEMA_VERSION = 1
STATISTICS = ("min", "median", "mean")

INVOCATION = "invocation"
"""Kind of the row for the fixed cost of calling the runtime: a network that does next to nothing."""
BLOCK = "block"
NETWORK = "network"
"""Kind of the rows for whole networks, measured among the blocks to calibrate their sum."""

NOT_CONDITIONS = ("space", "date")
"""Columns that say why and when a table was measured, which does not change what it holds."""

_JOIN = " | "


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
    """What was measured of one model file, over all rounds.

    ``latency_us`` is the statistic that the table's conditions name. ``spread`` is how far that statistic differs
    between the even and the odd rounds, relative to the smaller.
    """

    latency_us: float
    min_us: float
    p10_us: float
    median_us: float
    p90_us: float
    mean_us: float
    runs: int
    rounds: int
    spread: float
    source: str = "measured"


@dataclass(frozen=True)
class PredictionError:
    """How well a table predicts the whole networks measured with it, each left out of the calibration in turn."""

    networks: int
    mean: float
    within_5_percent: float
    within_10_percent: float
    spearman: float


class LatencyTable:
    """Rows of measurements under one set of conditions.

    A network's latency is predicted as ``scale * (fixed + sum over blocks of (block - fixed))``: each block was
    measured as a model of its own, so each contains the fixed cost of an invocation once. ``scale`` is fitted on the
    table's own whole networks, and 1 if it has none.

    The file is CSV with one row for each measurement and the conditions repeated in each row, so that
    ``pandas.read_csv(path)`` opens it and two tables can be concatenated or compared.
    """

    def __init__(self, conditions: Conditions, rows: Mapping[tuple[str, str], Measurement]) -> None:
        """``rows`` maps (kind, the keys of its blocks joined) to a measurement."""
        self.conditions = conditions
        self._rows = dict(rows)

    @staticmethod
    def row_key(kind: str, blocks: Iterable[Block] = ()) -> tuple[str, str]:
        """The key of a row for a block, a network (its blocks in order) or the invocation (no blocks)."""
        return kind, _JOIN.join(block.key for block in blocks)

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
            (tuple(Block.parse_key(key) for key in keys.split(_JOIN)), row.latency_us)
            for (kind, keys), row in self._rows.items()
            if kind == NETWORK
        ]

    @cached_property
    def _invocation_us(self) -> float:
        row = self._rows.get((INVOCATION, ""))
        return row.latency_us if row is not None else 0.0

    def _raw_us(self, blocks: Iterable[Block]) -> float:
        total = self._invocation_us
        for block in blocks:
            row = self._rows.get((BLOCK, block.key))
            if row is None:
                raise UserError(
                    f"the table for {self.conditions.device} has no row for the block '{block.key}'; "
                    "measure it with fbnet-profile and a space that holds it"
                )
            total += max(row.latency_us - self._invocation_us, 0.0)
        return total

    @cached_property
    def _calibration(self) -> list[tuple[float, float]]:
        """(uncalibrated prediction, measured) in us for each whole network whose blocks are all in the table."""
        known = self.blocks()
        return [
            (self._raw_us(blocks), measured)
            for blocks, measured in self.networks()
            if all(block.key in known for block in blocks)
        ]

    @cached_property
    def scale(self) -> float:
        """The factor that corrects the sum of blocks, fitted on the table's whole networks."""
        return _fit_scale(self._calibration)

    @property
    def fixed_us(self) -> float:
        """What every network pays for an invocation, calibrated."""
        return self.scale * self._invocation_us

    def block_us(self, block: Block) -> float:
        """What a block adds to a network, in us, calibrated.

        Raises:
            UserError: the table has no row for it.
        """
        return self.scale * (self._raw_us([block]) - self._invocation_us)

    def total(self, architecture: Architecture) -> float:
        """The predicted latency of a network in us.

        Raises:
            UserError: the table lacks one of its blocks.
        """
        return self.scale * self._raw_us(architecture.blocks)

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
                f"--threads {conditions.threads} -o {path}"
            )

    def error(self) -> PredictionError | None:
        """The error on the table's whole networks, leaving each out of the fit; None with fewer than three."""
        pairs = self._calibration
        if len(pairs) < 3:
            return None
        predicted = np.array([_fit_scale(pairs[:i] + pairs[i + 1 :]) * pair[0] for i, pair in enumerate(pairs)])
        measured = np.array([pair[1] for pair in pairs])
        return prediction_error(predicted, measured)

    def merged(self, other: "LatencyTable") -> "LatencyTable":
        """This table with the rows of another under the same conditions; the other's rows win.

        Raises:
            UserError: the conditions differ.
        """
        field = self.conditions.differs_from(other.conditions)
        if field is not None:
            mine, theirs = getattr(self.conditions, field), getattr(other.conditions, field)
            raise UserError(f"cannot mix two tables: {field} is {mine} in one and {theirs} in the other")
        return LatencyTable(other.conditions, {**self._rows, **other.rows})

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
        records = [{**shared, "kind": kind, "blocks": keys, **asdict(row)} for (kind, keys), row in self._rows.items()]
        with write_whole(path) as partial:
            pd.DataFrame(records).to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")

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
        absent = [name for name in expected if name not in frame.columns]
        if absent:
            raise UserError(f"{path} is not a latency table: column {absent[0]!r} is missing")
        if frame.empty:
            raise UserError(f"{path} has no rows; measure a table with fbnet-profile")
        conditions: Conditions | None = None
        rows: dict[tuple[str, str], Measurement] = {}
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
            except (ValueError, UserError) as error:
                raise UserError(f"{path}, line {line}: {error}") from error
        assert conditions is not None
        return cls(conditions, rows)


def prediction_error(predicted: Sequence[float] | Any, measured: Sequence[float] | Any) -> PredictionError:
    """Mean relative error, the shares within 5 and 10 %, and Spearman's rank correlation."""
    predicted, measured = np.asarray(predicted), np.asarray(measured)
    relative = np.abs(predicted / measured - 1)
    return PredictionError(
        networks=len(measured),
        mean=float(relative.mean()),
        within_5_percent=float((relative <= 0.05).mean()),
        within_10_percent=float((relative <= 0.10).mean()),
        spearman=float(pd.Series(predicted).rank().corr(pd.Series(measured).rank())),
    )


def _fit_scale(pairs: Sequence[tuple[float, float]]) -> float:
    """The factor a that minimises the squared relative error of a * prediction."""
    if not pairs:
        return 1.0
    ratios = np.array([predicted / measured for predicted, measured in pairs])
    return float(ratios.sum() / (ratios**2).sum())


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
    row = Measurement(**_typed(Measurement, record))
    for name in _names(Measurement):
        value = getattr(row, name)
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
    if kind not in (INVOCATION, BLOCK, NETWORK):
        raise ValueError(f"kind {kind!r} is not one of {INVOCATION}, {BLOCK}, {NETWORK}")
    if kind != INVOCATION:
        for key in keys.split(_JOIN):
            Block.parse_key(key)
