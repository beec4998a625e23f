"""What runs left in their folders, gathered for a page: whatever is there, and nothing that is not."""

import contextlib
import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fbnet_mobile.arch import Architecture
from fbnet_mobile.documents import parse_yaml, validated
from fbnet_mobile.errors import FbnetError, UserError, shown
from fbnet_mobile.space import SearchSpace, load_space

if TYPE_CHECKING:
    from fbnet_mobile.latency.table import LatencyTable

_DEPTH = 4
_BYTES = 64 * 2**20
_PICTURES = {"mistakes.png": "the worst mistakes"}
_PICTURE_BYTES = 400_000


class _Read(BaseModel):
    """What a page needs of a file; whatever else is in it is of no matter."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class _Limit(_Read):
    name: str
    limit: Annotated[float, Field(gt=0)]
    value: float


class _Result(_Read):
    constraints: list[_Limit]
    space: str
    assignment: dict[str, bool | int | float | str]


class _Class(_Read):
    name: str
    images: int
    precision: float
    recall: float
    f1: float


class _Mistake(_Read):
    image: str
    true: str
    predicted: str
    probability: float


class _Evaluation(_Read):
    images: int
    accuracy: float
    classes: list[_Class]
    confusion: list[list[Annotated[int, Field(ge=0)]]]
    mistakes: list[_Mistake] = []

    @model_validator(mode="after")
    def _square(self) -> Self:
        classes = len(self.classes)
        if len(self.confusion) != classes or any(len(row) != classes for row in self.confusion):
            raise ValueError("the confusion matrix has not a row and a column for each class")
        return self


class _Times(_Read):
    latency_us: Annotated[float, Field(gt=0)]


class _BlockTime(_Read):
    block: str
    measured_us: Annotated[float, Field(ge=0)]


class _Model(_Read):
    model: str
    precision: str | None = None
    runtime: str
    runtime_version: str
    size_bytes: int
    latency: _Times | None = None
    predicted_us: float | None = None
    accuracy: float | None = None
    images: int | None = None
    blocks: list[_BlockTime] = []
    between_us: Annotated[float, Field(ge=0)] | None = None


class _Facts(_Read):
    cpu: str


class _Benchmark(_Read):
    device: str
    facts: _Facts
    models: list[_Model]


class _File(_Read):
    path: str
    format: str
    precision: str
    relative_difference: float | None = None
    accuracy: float | None = None
    size: int


class _Export(_Read):
    file: _File
    command: str = ""


Rows = Mapping[str, Sequence[float]]
"""Columns of numbers by name; not a number where a row has none."""


@dataclass(frozen=True)
class Search:
    """A finished search.

    Attributes:
        folder: of the run.
        result: of ``result.json``.
        log: of ``log.csv``.
        probabilities: of ``probabilities.csv``; empty for a strategy that has none.
        architecture: the network that was found.
        space: that was searched, with the network's classes and resolutions; None if it is not there any more.
    """

    folder: Path
    result: Mapping[str, Any]
    log: Rows
    probabilities: Rows
    architecture: Architecture
    space: SearchSpace | None


@dataclass(frozen=True)
class Training:
    """A training.

    Attributes:
        folder: of the run.
        log: an epoch a row.
        evaluation: of ``evaluation.json``, with the confusion matrix; None without it.
        pictures: PNG files by what they show.
    """

    folder: Path
    log: Rows
    evaluation: Mapping[str, Any] | None
    pictures: Mapping[str, bytes]


@dataclass
class Found:
    """All that was found.

    Attributes:
        searches: in the order of their folders.
        trainings: likewise.
        tables: latency tables by their paths.
        benchmarks: contents of the JSON files that fbnet-benchmark wrote, by their paths.
        exports: likewise of what fbnet-export keeps beside its files.
        commands: the text of each file of options, by its path.
        left_out: what could not be read, and why.
    """

    searches: list[Search] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)
    tables: "dict[Path, LatencyTable]" = field(default_factory=dict)
    benchmarks: dict[Path, Mapping[str, Any]] = field(default_factory=dict)
    exports: dict[Path, Mapping[str, Any]] = field(default_factory=dict)
    commands: dict[Path, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.searches or self.trainings or self.tables or self.benchmarks or self.exports)


def collect(paths: Sequence[Path]) -> Found:
    """Gather what runs left: the folders of runs, folders of such folders, tables, results.

    A file that is read but is none of these is left out, with the reason. The tables that searches were made with are
    gathered too, if they are still where they were.

    Raises:
        UserError: a path does not exist, or there is nothing to report on.
    """
    found = Found()
    for path in paths:
        try:
            files = [path] if path.is_file() else sorted(_files(path, _DEPTH)) if path.is_dir() else []
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {shown(path)}: {error}; give folders of runs") from error
        if not files:
            what = "is empty" if path.is_dir() else "does not exist"
            raise UserError(f"{shown(path)} {what}; give folders of runs, latency tables or results of fbnet-benchmark")
        for file in files:
            try:
                _take(file, found)
            except (FbnetError, OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
                found.left_out.append(f"{file}: {(str(error).splitlines() or [type(error).__name__])[0]}")
    for path in _tables_of(found):
        try:
            _take(path, found)
        except (FbnetError, OSError, ValueError):  # moved since
            continue
    if found.empty:
        raise UserError(
            f"nothing to report on in {', '.join(map(shown, paths))}; give what fbnet-search or fbnet-train wrote"
        )
    return found


def _files(folder: Path, depth: int) -> Iterator[Path]:
    for item in folder.iterdir():
        if item.name.startswith("."):
            continue
        if item.is_dir() and depth and item.suffix != ".mlpackage":
            yield from _files(item, depth - 1)
        elif item.is_file():
            yield item


def _take(path: Path, found: Found) -> None:
    if path.stat().st_size > _BYTES:
        return
    if path.name == "args.yaml" or path.name.endswith(".args.yaml"):
        found.commands.setdefault(path, path.read_text(encoding="utf-8"))
    elif path.name == "result.json":
        found.searches.append(_search(path))
    elif path.name in ("log.csv", "results.csv"):
        log = read_rows(path)
        if "train_loss" in log:
            found.trainings.append(_training(path.parent, log))
    elif path.suffix == ".csv" and path not in found.tables and _first_line(path).startswith("schema_version,"):
        from fbnet_mobile.latency.table import LatencyTable

        found.tables[path] = LatencyTable.load(path)
    elif path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        kind = content.get("kind") if isinstance(content, dict) else None
        if kind == "fbnet-mobile benchmark":
            found.benchmarks.setdefault(path, validated(_Benchmark, content, path.name).model_dump())
        elif kind == "fbnet-mobile export":
            found.exports.setdefault(path, validated(_Export, content, path.name).model_dump())


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline(200)


def read_rows(path: Path) -> Rows:
    """The numbers of a CSV file by column."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [_number(row[name]) for row in rows] for name in (rows[0] if rows else ())}


def _number(text: str | None) -> float:
    return float(text) if text else math.nan


def _search(path: Path) -> Search:
    folder = path.parent
    result = validated(_Result, json.loads(path.read_text(encoding="utf-8")), path.name).model_dump()
    architecture = Architecture.load(folder / "architecture.yaml")
    log, probabilities = folder / "log.csv", folder / "probabilities.csv"
    return Search(
        folder,
        result,
        read_rows(log) if log.is_file() else {},
        read_rows(probabilities) if probabilities.is_file() else {},
        architecture,
        _space(folder, result, architecture),
    )


def _space(folder: Path, result: Mapping[str, Any], architecture: Architecture) -> SearchSpace | None:
    """The space of a search, if it still holds what the search found."""
    named = [result["space"]]
    with contextlib.suppress(FbnetError, OSError):
        named.insert(0, _options(folder / "args.yaml").get("space"))
    for name in named:
        try:
            space = load_space(str(name)).with_classes(architecture.classes)
            if architecture.resolution not in space.resolution:
                space = space.with_resolution(str(architecture.resolution))
            if space.architecture(result["assignment"]).blocks == architecture.blocks:
                return space
        except (FbnetError, LookupError, ValueError):
            continue
    return None


def _options(path: Path) -> Mapping[str, Any]:
    content = parse_yaml(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else None
    return content if isinstance(content, dict) else {}


def _tables_of(found: Found) -> Iterator[Path]:
    """Tables that the searches were made with, and that are not among what was given."""
    known = {path.resolve() for path in found.tables}
    for search in found.searches:
        try:
            named = _options(search.folder / "args.yaml").get("latency_table") or []
            paths = [Path(str(name)) for name in named] if isinstance(named, list) else []
            yield from (path for path in paths if path.is_file() and path.resolve() not in known)
        except (FbnetError, OSError, ValueError):
            continue


def _training(folder: Path, log: Rows) -> Training:
    path, evaluation = folder / "evaluation.json", None
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        evaluation = validated(_Evaluation, content, path.name).model_dump()
    pictures = {
        title: (folder / name).read_bytes()
        for name, title in _PICTURES.items()
        if (folder / name).is_file() and (folder / name).stat().st_size <= _PICTURE_BYTES
    }
    return Training(folder, log, evaluation, pictures)
