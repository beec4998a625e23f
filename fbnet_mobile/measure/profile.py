"""From a search space to a latency table: build a model file for each candidate block, measure them, keep the table."""

import contextlib
import dataclasses
import datetime
import hashlib
import itertools
import math
import random
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fbnet_mobile.arch import Block
from fbnet_mobile.cost.bounds import cheapest
from fbnet_mobile.devices import Device
from fbnet_mobile.devices.base import UNKNOWN
from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.files import locked
from fbnet_mobile.latency.calibration import elements_between
from fbnet_mobile.latency.estimate import demand, estimate
from fbnet_mobile.latency.table import (
    BLOCK,
    ESTIMATED,
    INVOCATION,
    MEASURED,
    NETWORK,
    ROUND,
    Conditions,
    LatencyTable,
    Measurement,
    RowKey,
)
from fbnet_mobile.measure.artifacts import Artifact, artifacts
from fbnet_mobile.measure.plan import MeasuringPlan
from fbnet_mobile.measure.recipe import ProfileRecipe
from fbnet_mobile.measure.rounds import Measured, Model, measure, new_session, summary
from fbnet_mobile.measure.samples import BuiltLine, ChosenLine, Journal, RoundState
from fbnet_mobile.space import SearchSpace

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, of how many)."""

NETWORK_REPEATS = 10
"""How often a whole network is measured in each round: it is long, so few runs of it fit in one sample."""
_REFERENCE_EVERY = 50
_TRIAL = 128
"""Blocks from whose cost follows how many more there is time for."""
_DEEPER = 1.5
"""Times the most weights of the space, or elements between blocks, that networks with a repeated block have."""
_MOST_REPEATS = 60


@dataclass(frozen=True)
class FailedModel:
    """A model of the table that could not be run: kind and blocks of its row, and why, in one line."""

    kind: str
    blocks: str
    reason: str


@dataclass(frozen=True)
class Profiled:
    """What a profile found.

    Attributes:
        path: of the table.
        table: as it reads back.
        measured: candidate blocks of the space that the table has measured.
        estimated: those that it has estimated from the others, as there was no time for them.
        failed: models that could not be run, which the table lacks.
        warnings: what makes the numbers less certain than they look, a line for each.
    """

    path: Path
    table: LatencyTable
    measured: int
    estimated: int
    failed: tuple[FailedModel, ...] = ()
    warnings: tuple[str, ...] = ()


def profile(
    space: SearchSpace,
    space_name: str,
    device: Device,
    runtime: str,
    out: Path,
    *,
    threads: int = 1,
    precision: str = ProfileRecipe.precision,
    format: str = "",  # noqa: A002
    statistic: str = ProfileRecipe.statistic,
    networks: int = ProfileRecipe.networks,
    plan: MeasuringPlan | None = None,
    progress: Progress = lambda *_: None,
) -> Profiled:
    """Measure every candidate block of a space that the table at ``out`` does not have yet, and write the table.

    With a plan whose budget is too small for that, those blocks are measured that say most about the others, which are
    estimated; a later call measures them. Model files and samples so far are kept beside ``out`` in a folder
    ``NAME.work`` until the table is written; an interrupted call continues from them, in the same budget.

    Rows that are added to a table in another session are brought to its speed, if the machine has another one now (see
    :mod:`fbnet_mobile.measure.rounds`): the reference block is one that the table has.

    Args:
        space: whose candidates are measured.
        space_name: how to name it in ``load_space``, which the table records.
        device: where.
        runtime: by what.
        out: the table to write, or to complete.
        threads: for the runtime.
        precision: of the blocks: "fp32", "fp16" or "int8".
        format: of the model files, one that the runtime runs; by default its first.
        statistic: which statistic is the latency of a row: min, median or mean.
        networks: how many whole networks, drawn from the space, are measured with the blocks to calibrate their sum.
        plan: how long to measure; its budget is for building the files too.
        progress: told of each step.

    Raises:
        UserError: there is a table at ``out`` for other conditions, or the precision needs a package.
        JobError: another profile writes the table; or the device failed, and what was measured is kept; or no block
            could be run, and nothing is written.
    """
    plan = plan or MeasuringPlan()
    session = new_session(device, runtime, threads, plan)
    conditions = Conditions(
        device=device.name,
        cpu=session.cpu,
        runtime=runtime,
        runtime_version=session.runtime_version,
        threads=threads,
        precision=precision,
        statistic=statistic,
        space=space_name,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        format=format,
    )
    work = out.with_name(out.name + ".work")
    with _alone(work, out):
        existing = LatencyTable.load(out) if out.exists() else None
        if existing is not None and (field := existing.conditions.differs_from(conditions)):
            raise UserError(
                f"{out} was measured with {field} {getattr(existing.conditions, field)}, not "
                f"{getattr(conditions, field)}; choose another output path or remove it"
            )
        every = _chains(space, networks, plan.seed)
        have = {key for key, row in existing.rows.items() if row.source == MEASURED} if existing is not None else set()
        wanted = [(kind, blocks) for kind, blocks in every if LatencyTable.row_key(kind, blocks) not in have]
        failed: list[FailedModel] = []
        warnings: list[str] = []
        table = existing
        if wanted:
            with Journal(work / "samples.jsonl", session) as journal:
                if journal.passed_over:
                    warnings.append(f"{journal.passed_over} damaged lines of {journal.path} were passed over")
                job = _Job(device, conditions, space, wanted, existing, plan, work, journal, progress)
                found = job.run()
            failed = [FailedModel(*job.rows[name], reason) for name, reason in found.failed.items() if name in job.rows]
            rows = {job.rows[name]: row for name, row in found.rows().items() if name in job.rows}
            if existing is None and not any(kind == BLOCK for kind, _ in rows):
                if not journal.samples:
                    shutil.rmtree(work)
                first = failed[0] if failed else FailedModel("model", "", "it was not measured")
                raise JobError(
                    f"{runtime} on {device.name} could run none of {len(failed)} models, first the {first.kind} "
                    f"'{first.blocks[:200]}': {first.reason}; nothing is written to {out}"
                )
            new = LatencyTable(conditions, rows | _round_rows(found, device))
            table = existing.merged(new) if existing is not None else new
            unplaced = {line.session for line in found.lines} - found.speeds().keys()
            warnings += (f"how fast the machine was in the session of {name} is not known" for name in sorted(unplaced))
            unable = {failure.blocks for failure in failed}
            blocks = [blocks[0] for kind, blocks in every if kind == BLOCK and blocks[0].key not in unable]
            table = _completed(table, blocks, warnings)
            table = LatencyTable(
                table.conditions, {key: table.rows[key] for key in sorted(table.rows, key=_order)}, table.extra
            )
            table.save(out)
            # From here on what the file says counts, and only then is what it was made of removed.
            table = LatencyTable.load(out)
        assert table is not None
        shutil.rmtree(work)
    sources = [table.rows[key].source for kind, blocks in every if kind == BLOCK
               if (key := LatencyTable.row_key(kind, blocks)) in table.rows]  # fmt: skip
    estimated = sources.count(ESTIMATED)
    return Profiled(
        path=out,
        table=table,
        measured=sources.count(MEASURED),
        estimated=estimated,
        failed=tuple(failed),
        warnings=(*warnings, *table.warnings()),
    )


class _Job:
    """The building and measuring of one call, which share a folder, a journal and a budget."""

    def __init__(
        self,
        device: Device,
        conditions: Conditions,
        space: SearchSpace,
        wanted: Sequence[tuple[str, tuple[Block, ...]]],
        existing: LatencyTable | None,
        plan: MeasuringPlan,
        work: Path,
        journal: Journal,
        progress: Progress,
    ) -> None:
        self.device, self.conditions, self.plan, self.journal, self.progress = (
            device,
            conditions,
            plan,
            journal,
            progress,
        )
        self.folder = work / "models"
        reference, self.reference_us = _reference(space, existing)
        self.reference, *self.wanted = artifacts(
            [(BLOCK, (reference,)), *wanted], conditions.format, conditions.precision
        )
        self.rows = {artifact.name: artifact.row for artifact in self.wanted}
        self.files: dict[Artifact, Path] = {}

    def run(self) -> Measured:
        """Measure everything, or as much as the budget allows."""
        others = [artifact for artifact in self.wanted if artifact.kind != BLOCK]
        blocks = [artifact for artifact in self.wanted if artifact.kind == BLOCK]
        if self.plan.budget_s is not None and len(blocks) > _TRIAL:
            by_block = {artifact.blocks[0]: artifact for artifact in blocks}
            blocks = [by_block[block] for block in _most_informative(list(by_block))]
            blocks = blocks[: self.affordable(blocks, others)]
        self.build([*others, *blocks])
        return self.measure([*others, *blocks], dataclasses.replace(self.plan, budget_s=self.left_s()))

    def left_s(self) -> float | None:
        """What is left of the budget, of which the sessions that are continued had their part."""
        return None if self.plan.budget_s is None else self.plan.budget_s - self.journal.spent_s()

    def build(self, wanted: Sequence[Artifact]) -> None:
        """Write the files of these, and of the reference block."""
        from fbnet_mobile.measure.build import build, file_of  # torch, for which a complete table need not wait

        absent = [artifact for artifact in dict.fromkeys((self.reference, *wanted)) if artifact not in self.files]
        missing = sum(not file_of(artifact, self.folder).exists() for artifact in absent)
        done = len(self.files)
        total = done + len(absent)

        def on_files(count: int) -> None:
            nonlocal done
            done += count
            self.progress("building model files", done, total)

        begun_s = self.journal.elapsed_s()
        self.files |= build(absent, self.folder, on_files)
        if missing:
            now_s = self.journal.elapsed_s()
            session = self.journal.session.begun
            self.journal.add(BuiltLine(session=session, files=missing, took_s=now_s - begun_s, at_s=now_s))

    def measure(self, wanted: Sequence[Artifact], plan: MeasuringPlan) -> Measured:
        """Measure these, and the reference block all along."""
        chosen = dict.fromkeys((self.reference, *wanted))
        often = max(len(wanted) // _REFERENCE_EVERY, 4)
        models = [
            Model(
                artifact.name,
                self.files[artifact],
                artifact.kind,
                often if artifact == self.reference else _repeats(artifact),
            )
            for artifact in chosen
        ]
        conditions = self.conditions
        return measure(
            self.device,
            conditions.runtime,
            conditions.threads,
            models,
            conditions.statistic,
            plan,
            self.journal,
            lambda done, total: self.progress("measuring", done, total),
            self.reference.name,
            self.reference_us,
        )

    def affordable(self, blocks: Sequence[Artifact], others: Sequence[Artifact]) -> int:
        """How many of the blocks there is time for, by what the first of them take to build and to measure once.

        It is decided once for a budget, and by what the journal says, so that a call that is interrupted and typed
        again measures the same blocks.
        """
        budget_s = self.plan.budget_s
        assert budget_s is not None
        of = hashlib.sha256("\n".join(artifact.name for artifact in blocks).encode()).hexdigest()[:16]
        for line in self.journal.chosen:
            if (line.budget_s, line.of) == (budget_s, of):
                return line.blocks
        trial = blocks[:_TRIAL]
        once = dataclasses.replace(self.plan, min_rounds=1, max_rounds=1, budget_s=None)
        self.build([*others, *trial])
        if not self.journal.built:  # it was killed before it could say how long that took
            for artifact in trial:
                self.files.pop(artifact).unlink()
            self.build(trial)
        self.measure(others, once)
        self.measure(trial, once)
        sample_s, all_s = self._seconds()
        built_s = sum(line.took_s for line in self.journal.built)
        build_s = built_s / sum(line.files for line in self.journal.built)
        block_s = build_s + self.plan.min_rounds * sum(sample_s[artifact] for artifact in trial) / len(trial)
        others_s = sum(build_s + self.plan.min_rounds * _repeats(artifact) * sample_s[artifact] for artifact in others)
        # Whatever else was done: waiting for the device, the reference block, files that are not asked for any more.
        besides_s = self.journal.spent_s() - built_s - all_s
        count = int(min((budget_s - besides_s - others_s) / max(block_s, 1e-6), len(blocks)))
        count = min(max(count, len(trial)), len(blocks))
        session, now_s = self.journal.session.begun, self.journal.elapsed_s()
        self.journal.add(ChosenLine(session=session, budget_s=budget_s, of=of, blocks=count, at_s=now_s))
        return count

    def _seconds(self) -> tuple[dict[Artifact, float], float]:
        """How long one sample of each took on average, 0 of one that has none; and all of them together."""
        took_s: dict[str, list[float]] = defaultdict(list)
        for line in self.journal.samples:
            took_s[line.model].append(line.took_s)
        own = {artifact: took_s[artifact.name] for artifact in self.wanted}
        mean_s = {artifact: sum(values) / len(values) if values else 0.0 for artifact, values in own.items()}
        return mean_s, sum(map(sum, own.values()))


def _repeats(artifact: Artifact) -> int:
    """How often it is measured in each round."""
    return NETWORK_REPEATS if artifact.kind == NETWORK else 1


@contextlib.contextmanager
def _alone(work: Path, out: Path) -> Iterator[None]:
    """Hold the work folder of a table, which is made, for this process alone.

    Raises:
        JobError: another process has it.
        UserError: it cannot be made.
    """
    with locked(work / "lock", str(out)):
        try:
            yield
        finally:
            if work.exists() and [item.name for item in work.iterdir()] == ["lock"]:
                shutil.rmtree(work)


def _reference(space: SearchSpace, existing: LatencyTable | None) -> tuple[Block, float | None]:
    """A block of middling size, one of the table's if there is one, and its latency there in us."""
    known = {}
    if existing is not None:
        known = {Block.parse_key(key): row for key, row in existing.blocks().items() if row.source == MEASURED}
    candidates = sorted(known or space.candidates(), key=lambda block: (block.macs, block.key))
    block = candidates[len(candidates) // 2]
    return block, known[block].latency_us if known else None


def _order(key: RowKey) -> tuple[int, str]:
    return (INVOCATION, BLOCK, NETWORK, ROUND).index(key[0]), key[1]


def _chains(space: SearchSpace, networks: int, seed: int) -> list[tuple[str, tuple[Block, ...]]]:
    """Kind and chain of blocks of each row of the table but the rounds'; none for the invocation."""
    chains: list[tuple[str, tuple[Block, ...]]] = [(INVOCATION, ())]
    chains += [(BLOCK, (block,)) for block in space.candidates()]
    rng = random.Random(seed)
    drawn = (space.architecture(space.draw(rng)).blocks for _ in range(networks))
    unusual = itertools.islice(unusual_networks(space), networks // 2)
    chains += [(NETWORK, blocks) for blocks in itertools.islice(itertools.chain(unusual, drawn), networks)]
    return list(dict.fromkeys(chains))


def unusual_networks(space: SearchSpace) -> Iterator[tuple[Block, ...]]:
    """Networks unlike those that are drawn at random, by which a table's correction is fitted too.

    The one of fewest and of most operations, weights and elements between blocks; of several, one that has as few or as
    many operations as goes with that least, so that a time for weights is told apart from a time for operations. Then
    the first two with a block repeated until there are far more weights, or elements, than in any network of the space:
    within it these hardly differ, and others that the table is asked about may have more.
    """
    sizes: tuple[Callable[[Block], float], ...] = (
        lambda block: block.macs,
        lambda block: block.params - 1e-6 * block.macs,
        lambda block: elements_between(block) - 1e-6 * block.macs,
    )
    ends = []
    for size in sizes:
        least = space.costs(size)
        most = {name: -array for name, array in least.items()}
        ends.append([space.architecture(cheapest(space, costs)).blocks for costs in (least, most)])
        yield from ends[-1]
    for network in ends[0]:
        for size, (_, largest) in zip(sizes[1:], ends[1:], strict=True):
            yield _deepened(network, space, size, _DEEPER * sum(map(size, largest)))


def _deepened(
    network: tuple[Block, ...], space: SearchSpace, size: Callable[[Block], float], least: float
) -> tuple[Block, ...]:
    """The network with the largest block that may follow one of its own repeated until it has at least a size."""
    gives = {(block.out_channels, block.out_resolution): number for number, block in enumerate(network[:-1])}
    fitting = [
        (size(block), block.key, block)
        for block in space.candidates()
        if (block.in_channels, block.resolution) in gives
        and (block.out_channels, block.out_resolution) == (block.in_channels, block.resolution)
        and not block.ends_network
    ]
    if not fitting:
        return network
    each, _, block = max(fitting)
    times = min(max(math.ceil((least - sum(map(size, network))) / max(each, 1.0)), 0), _MOST_REPEATS)
    after = gives[block.in_channels, block.resolution] + 1
    return (*network[:after], *[block] * times, *network[after:])


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


def _completed(table: LatencyTable, blocks: Sequence[Block], warnings: list[str]) -> LatencyTable:
    """The table with estimates of all blocks that were not measured, those that it had estimated before included.

    Whatever happens to the estimates, what was measured is kept, and ``warnings`` gets a line.
    """
    measured = {Block.parse_key(key): row.latency_us for key, row in table.blocks().items() if row.source == MEASURED}
    before = [Block.parse_key(key) for key, row in table.blocks().items() if row.source == ESTIMATED]
    absent = [block for block in dict.fromkeys((*before, *blocks)) if block not in measured]
    if not absent:
        return table
    try:
        latencies_us, error = estimate(measured, absent)
    except (UserError, ValueError, RuntimeError, ArithmeticError) as problem:  # LinAlgError is a ValueError
        warnings.append(f"blocks that there was no time for are not estimated: {problem}")
        return table
    estimated = {
        LatencyTable.row_key(BLOCK, [block]): Measurement.estimated(latency_us, error)
        for block, latency_us in zip(absent, latencies_us, strict=True)
    }
    return LatencyTable(table.conditions, {**table.rows, **estimated}, table.extra)


def _round_rows(found: Measured, device: Device) -> dict[RowKey, Measurement]:
    """For each round of each session what the device said of itself, with the reference block's measurements in it."""
    rows = {}
    cores = device.facts().cores
    speeds = found.speeds()
    samples = defaultdict(list)
    for line in found.lines:
        if line.model == found.reference:
            samples[line.session, line.round].append(line.sample)
    for (session, number), own in sorted(samples.items()):
        least = sorted(sample.min_us for sample in own)
        drift = least[(len(least) - 1) * 9 // 10] / least[0] - 1
        fields = {
            "round": number,
            "drift": round(drift, 4),
            "cores": cores,
            **_state(found.states.get((session, number), [])),
            "session": session,
            "speed": f"{speeds[session]:.4g}",
        }
        text = " ".join(f"{name}={'_'.join(str(value).split())}" for name, value in fields.items())
        rows[ROUND, text] = dataclasses.replace(summary({number: own}, found.statistic, session), uncertainty=drift)
    return rows


def _state(rounds: Sequence[RoundState]) -> dict[str, Any]:
    """The worst of what the device said before and after, by each session's part of a round."""
    states = [state for each in rounds for state in (each.before, each.after)]

    def values(name: str) -> list[Any]:
        return sorted({getattr(state, name) for state in states if getattr(state, name) is not None})

    steal_s = elapsed_s = 0.0
    for each in rounds:
        if each.before.steal_s is not None and each.after.steal_s is not None:  # it may be lost while it is asked
            steal_s += max(each.after.steal_s - each.before.steal_s, 0.0)
            elapsed_s += each.elapsed_s
    return {
        "load_1m": max(values("load_1m"), default=UNKNOWN),
        "governor": "+".join(values("governor")) or UNKNOWN,
        "least_mhz": min(values("frequency_mhz"), default=UNKNOWN),
        "most_mhz": max(values("frequency_mhz"), default=UNKNOWN),
        "temperature_c": max(values("temperature_c"), default=UNKNOWN),
        "steal_percent": round(100 * steal_s / elapsed_s, 2) if elapsed_s > 0 else UNKNOWN,
        "affinity": "+".join(values("affinity")) or UNKNOWN,
    }
