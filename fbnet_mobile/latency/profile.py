"""From a search space to a latency table: build a model file for each candidate block, measure them, keep the table."""

import datetime
import hashlib
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from fbnet_mobile.arch import Block
from fbnet_mobile.devices import Device
from fbnet_mobile.errors import UserError
from fbnet_mobile.export.formats import get_format, write
from fbnet_mobile.export.trace import trace
from fbnet_mobile.latency.jobs import MeasuringPlan, runtime_version
from fbnet_mobile.latency.measure import RowKey, measure
from fbnet_mobile.latency.table import BLOCK, INVOCATION, NETWORK, NOT_CONDITIONS, Conditions, LatencyTable
from fbnet_mobile.nn import build_block
from fbnet_mobile.runtimes import get_runtime
from fbnet_mobile.space import SearchSpace

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, of how many)."""


def profile(
    space: SearchSpace,
    space_name: str,
    device: Device,
    runtime: str,
    out: Path,
    *,
    threads: int = 1,
    statistic: str = "min",
    networks: int = 12,
    plan: MeasuringPlan | None = None,
    progress: Progress = lambda *_: None,
) -> LatencyTable:
    """Measure every candidate block of a space that the table at ``out`` does not have yet, and write the table.

    Model files and results so far are kept beside ``out`` in a folder ``NAME.work`` until the table is written; an
    interrupted run continues from them.

    Args:
        space: whose candidates are measured.
        space_name: how to name it in ``load_space``, which the table records.
        device: where.
        runtime: by what.
        out: the table to write, or to complete.
        threads: for the runtime.
        statistic: which statistic is the latency of a row: min, median or mean.
        networks: how many whole networks, drawn from the space, are measured with the blocks to calibrate their sum.
        plan: how long to measure.
        progress: told of each step.

    Raises:
        UserError: there is a table at ``out`` for other conditions.
        JobError: the device failed; what was measured is kept.
    """
    plan = plan or MeasuringPlan()
    conditions = Conditions(
        device=device.name,
        cpu=device.facts().cpu,
        runtime=runtime,
        runtime_version=runtime_version(device, runtime),
        threads=threads,
        precision="fp32",
        statistic=statistic,
        space=space_name,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )
    existing = LatencyTable.load(out) if out.exists() else None
    if existing is not None and (field := existing.conditions.differs_from(conditions)):
        raise UserError(
            f"{out} was measured with {field} {getattr(existing.conditions, field)}, not "
            f"{getattr(conditions, field)}; choose another output path or remove it"
        )
    wanted = _wanted(space, networks, plan.seed)
    todo = {key: layers for key, layers in wanted.items() if existing is None or key not in existing.rows}
    if existing is not None and not todo:
        return existing

    work = out.with_name(out.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    files = _build(todo, work / "models", get_runtime(runtime).format, progress)

    def on_model(round_number: int, done: int, models: int) -> None:
        progress(f"measuring, round {round_number + 1}", done, models)

    journal = work / f"journal-{_digest(repr((*_values(conditions), plan.seed)))}.jsonl"
    rows = measure(device, runtime, threads, files, statistic, plan, journal, on_model)
    table = LatencyTable(conditions, rows)
    if existing is not None:
        table = existing.merged(table)
    table = LatencyTable(table.conditions, {key: table.rows[key] for key in sorted(table.rows, key=_order)})
    table.save(out)
    shutil.rmtree(work)
    return table


def _values(conditions: Conditions) -> list[object]:
    return [value for name, value in vars(conditions).items() if name not in NOT_CONDITIONS]


def _order(key: RowKey) -> tuple[int, str]:
    return (INVOCATION, BLOCK, NETWORK).index(key[0]), key[1]


def _wanted(space: SearchSpace, networks: int, seed: int) -> dict[RowKey, tuple[Block, ...]]:
    """The chain of blocks to measure for each row of the table; none for the invocation."""
    chains: list[tuple[str, tuple[Block, ...]]] = [(INVOCATION, ())]
    chains += [(BLOCK, (block,)) for block in space.candidates()]
    rng = random.Random(seed)
    chains += [(NETWORK, space.architecture(space.draw(rng)).blocks) for _ in range(networks)]
    return {LatencyTable.row_key(kind, blocks): blocks for kind, blocks in chains}


def _build(
    wanted: Mapping[RowKey, tuple[Block, ...]], folder: Path, file_format: str, progress: Progress
) -> dict[RowKey, Path]:
    folder.mkdir(exist_ok=True)
    suffix = get_format(file_format).suffix
    files = {}
    for number, (key, blocks) in enumerate(wanted.items(), start=1):
        files[key] = folder / f"{_digest(' '.join(key))}{suffix}"
        if not files[key].exists():
            module: nn.Module = nn.ReLU()  # for the invocation: as little as a runtime can be asked to do
            shape = (1, 8, 1, 1)
            if blocks:
                module = nn.Sequential(*(build_block(block) for block in blocks))
                shape = (1, blocks[0].in_channels, blocks[0].resolution, blocks[0].resolution)
            write(trace(module, shape), files[key], file_format)
        progress("building model files", number, len(wanted))
    return files


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
