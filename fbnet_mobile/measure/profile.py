"""From a search space to a latency table: build a model file for each candidate block, measure them, keep the table."""

import dataclasses
import datetime
import random
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fbnet_mobile.arch import Block
from fbnet_mobile.devices import Device
from fbnet_mobile.devices.base import UNKNOWN
from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.formats.base import format_of_runtime
from fbnet_mobile.latency.estimate import demand, estimate
from fbnet_mobile.latency.table import (
    BLOCK,
    INVOCATION,
    MEASURED,
    NETWORK,
    NOT_CONDITIONS,
    ROUND,
    Conditions,
    LatencyTable,
    Measurement,
)
from fbnet_mobile.measure.artifacts import build, digest
from fbnet_mobile.measure.jobs import MeasuringPlan, runtime_version
from fbnet_mobile.measure.rounds import Measured, RowKey, measure, summary
from fbnet_mobile.space import SearchSpace

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, of how many)."""

NETWORKS = 40
"""Whole networks to calibrate with, unless told otherwise."""
NETWORK_REPEATS = 10
"""How often a whole network is measured in each round: it is long, so few runs of it fit in one turn."""
_REFERENCE_EVERY = 50
_TRIAL = 128
"""Blocks from whose cost follows how many more there is time for."""
_REFERENCE: RowKey = ("reference", "")


def profile(
    space: SearchSpace,
    space_name: str,
    device: Device,
    runtime: str,
    out: Path,
    *,
    threads: int = 1,
    precision: str = "fp32",
    statistic: str = "min",
    networks: int = NETWORKS,
    plan: MeasuringPlan | None = None,
    progress: Progress = lambda *_: None,
) -> LatencyTable:
    """Measure every candidate block of a space that the table at ``out`` does not have yet, and write the table.

    With a plan whose budget is too small for that, those blocks are measured that say most about the others, which are
    estimated; a later call measures them. Model files and results so far are kept beside ``out`` in a folder
    ``NAME.work`` until the table is written; an interrupted run continues from them.

    Args:
        space: whose candidates are measured.
        space_name: how to name it in ``load_space``, which the table records.
        device: where.
        runtime: by what.
        out: the table to write, or to complete.
        threads: for the runtime.
        precision: of the blocks: "fp32", "fp16" or "int8".
        statistic: which statistic is the latency of a row: min, median or mean.
        networks: how many whole networks, drawn from the space, are measured with the blocks to calibrate their sum.
        plan: how long to measure; its budget is for building the files too.
        progress: told of each step.

    Raises:
        UserError: there is a table at ``out`` for other conditions, or the precision needs a package.
        JobError: the device failed, and what was measured is kept; or some blocks cannot be run, which the written
            table then lacks.
    """
    plan = plan or MeasuringPlan()
    conditions = Conditions(
        device=device.name,
        cpu=device.facts().cpu,
        runtime=runtime,
        runtime_version=runtime_version(device, runtime),
        threads=threads,
        precision=precision,
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
    if existing is not None:
        wanted = {key: blocks for key, blocks in wanted.items() if not _has(existing, key)}
        if not wanted:
            return existing

    work = out.with_name(out.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    job = _Job(device, conditions, space, wanted, plan, work, progress)
    others = [key for key in wanted if key[0] != BLOCK]
    blocks = chosen = [key for key in wanted if key[0] == BLOCK]
    if plan.budget_s is not None and len(blocks) > _TRIAL:
        ordered = _most_informative([wanted[key][0] for key in blocks])
        blocks = [LatencyTable.row_key(BLOCK, [block]) for block in ordered]
        chosen = blocks[: job.affordable(blocks, others)]
    job.build([*others, *chosen])
    found = job.measure([*others, *chosen], dataclasses.replace(plan, budget_s=job.left_s()))

    rows = found.rows(statistic)
    rows.pop(_REFERENCE, None)
    rows |= _round_rows(found, device, statistic)
    table = LatencyTable(conditions, rows)
    if existing is not None:
        table = existing.merged(table)
    table = _completed(table, [wanted[key][0] for key in blocks if key not in found.failed])
    table = LatencyTable(table.conditions, {key: table.rows[key] for key in sorted(table.rows, key=_order)})
    table.save(out)
    shutil.rmtree(work)
    if found.failed:
        (kind, keys), error = next(iter(found.failed.items()))
        raise JobError(
            f"{out} is written but lacks {len(found.failed)} of {len(wanted)} models that {runtime} on {device.name} "
            f"could not run, first the {kind} '{keys[:200]}': {error}"
        )
    return table


class _Job:
    """The building and measuring of one call, which share a folder, a journal and a budget."""

    def __init__(
        self,
        device: Device,
        conditions: Conditions,
        space: SearchSpace,
        wanted: Mapping[RowKey, Sequence[Block]],
        plan: MeasuringPlan,
        work: Path,
        progress: Progress,
    ) -> None:
        self.started = time.monotonic()
        self.device, self.conditions, self.plan, self.work, self.progress = device, conditions, plan, work, progress
        self.journal = work / f"journal-{digest(repr((*_values(conditions), plan.seed)))}.jsonl"
        candidates = space.candidates()
        reference = sorted(candidates, key=lambda block: block.macs)[len(candidates) // 2]
        self.wanted = {_REFERENCE: (reference,), **wanted}
        self.files: dict[RowKey, Path] = {}

    def left_s(self) -> float | None:
        """What is left of the budget."""
        return None if self.plan.budget_s is None else self.plan.budget_s - (time.monotonic() - self.started)

    def build(self, keys: Sequence[RowKey]) -> None:
        """Write the files of these rows, and of the reference block."""
        absent = {key: self.wanted[key] for key in (_REFERENCE, *keys) if key not in self.files}
        done = len(self.files)
        total = done + len(absent)

        def on_files(count: int) -> None:
            nonlocal done
            done += count
            self.progress("building model files", done, total)

        format = format_of_runtime(self.conditions.runtime).name  # noqa: A001
        self.files |= build(absent, self.work / "models", format, self.conditions.precision, on_files)

    def measure(self, keys: Sequence[RowKey], plan: MeasuringPlan) -> Measured:
        """Measure these rows, and the reference block among them."""
        repeats = {key: NETWORK_REPEATS for key in keys if key[0] == NETWORK}
        repeats[_REFERENCE] = max(len(keys) // _REFERENCE_EVERY, 4)
        conditions = self.conditions
        return measure(
            self.device,
            conditions.runtime,
            conditions.threads,
            {key: self.files[key] for key in (*keys, _REFERENCE)},
            conditions.statistic,
            plan,
            self.journal,
            lambda done, total: self.progress("measuring", done, total),
            repeats,
        )

    def affordable(self, blocks: Sequence[RowKey], others: Sequence[RowKey]) -> int:
        """How many of the blocks there is time for, by what the first of them take to build and to measure once."""
        trial = list(blocks[:_TRIAL])
        once = dataclasses.replace(self.plan, min_rounds=1, max_rounds=1)
        self.build(others)
        build_s = _seconds(lambda: self.build(trial)) / len(trial)
        others_s = _seconds(lambda: self.measure(others, once))
        measure_s = _seconds(lambda: self.measure(trial, once)) / len(trial)
        left_s = self.left_s()
        assert left_s is not None
        left_s -= (self.plan.min_rounds - 1) * others_s
        return max(int(left_s / (build_s + self.plan.min_rounds * measure_s)), len(trial))


def _seconds(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def _values(conditions: Conditions) -> list[object]:
    return [value for name, value in vars(conditions).items() if name not in NOT_CONDITIONS]


def _has(table: LatencyTable, key: RowKey) -> bool:
    return key in table.rows and table.rows[key].source == MEASURED


def _order(key: RowKey) -> tuple[int, str]:
    return (INVOCATION, BLOCK, NETWORK, ROUND).index(key[0]), key[1]


def _wanted(space: SearchSpace, networks: int, seed: int) -> dict[RowKey, tuple[Block, ...]]:
    """The chain of blocks to measure for each row of the table; none for the invocation."""
    chains: list[tuple[str, tuple[Block, ...]]] = [(INVOCATION, ())]
    chains += [(BLOCK, (block,)) for block in space.candidates()]
    rng = random.Random(seed)
    chains += [(NETWORK, space.architecture(space.draw(rng)).blocks) for _ in range(networks)]
    return {LatencyTable.row_key(kind, blocks): blocks for kind, blocks in chains}


def _most_informative(blocks: Sequence[Block]) -> list[Block]:
    """The blocks in an order whose beginning says most of the rest.

    In turn from each group of blocks that differ in nothing but their sizes: the first two are those that ask for
    least and for most, so that the others lie between them, and the rest follow in a random order.
    """
    groups: dict[tuple[object, ...], list[Block]] = defaultdict(list)
    for block in blocks:
        groups[tuple(sorted(demand(block), key=str))].append(block)
    rng = random.Random(0)
    queues = []
    for group in groups.values():
        group.sort(key=lambda block: block.macs)
        ends, middle = [*group[:1], *group[1:][-1:]], group[1:-1]
        rng.shuffle(middle)
        # Spread over the whole: a group of many blocks gets as many more of the places.
        queues += [(0.0, block) for block in ends]
        queues += [((number + 1) / len(middle), block) for number, block in enumerate(middle)]
    return [block for _, block in sorted(queues, key=lambda entry: entry[0])]


def _completed(table: LatencyTable, blocks: Sequence[Block]) -> LatencyTable:
    """The table with estimates of those blocks that were not measured."""
    absent = table.missing(blocks)
    if not absent:
        return table
    measured = {Block.parse_key(key): row.latency_us for key, row in table.blocks().items() if row.source == MEASURED}
    latencies_us, error = estimate(measured, absent)
    estimated = {
        LatencyTable.row_key(BLOCK, [block]): Measurement.estimated(latency_us, error)
        for block, latency_us in zip(absent, latencies_us, strict=True)
    }
    return LatencyTable(table.conditions, {**table.rows, **estimated})


def _round_rows(found: Measured, device: Device, statistic: str) -> dict[RowKey, Measurement]:
    """For each round what the device said of itself, with the reference block's measurements in it."""
    rows = {}
    cores = device.facts().cores
    for number, samples in sorted(found.samples[_REFERENCE].items()):
        turns = found.states[number]
        row = summary({number: samples}, statistic)
        least = sorted(sample["min_us"] for sample in samples)
        drift = least[(len(least) - 1) * 9 // 10] / least[0] - 1
        text = {"round": number, "drift": round(drift, 4), "cores": cores, **_state(turns)}
        words = " ".join(f"{name}={value}" for name, value in text.items())
        rows[ROUND, words] = dataclasses.replace(row, uncertainty=drift)
    return rows


def _state(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The worst of what the device said before and after each turn of a round."""
    states = [turn[when] for turn in turns for when in ("before", "after")]

    def values(name: str) -> list[Any]:
        return sorted({state[name] for state in states if state[name] is not None})

    steal_s = [turn["after"]["steal_s"] - turn["before"]["steal_s"] for turn in turns if values("steal_s")]
    elapsed_s = sum(turn["elapsed_s"] for turn in turns)
    return {
        "load_1m": max(values("load_1m"), default=UNKNOWN),
        "governor": "+".join(values("governor")) or UNKNOWN,
        "least_mhz": min(values("frequency_mhz"), default=UNKNOWN),
        "most_mhz": max(values("frequency_mhz"), default=UNKNOWN),
        "temperature_c": max(values("temperature_c"), default=UNKNOWN),
        "steal_percent": round(100 * sum(steal_s) / elapsed_s, 2) if steal_s else UNKNOWN,
        "affinity": "+".join(values("affinity")) or UNKNOWN,
    }
