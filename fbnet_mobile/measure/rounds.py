"""Measuring many model files on a device so that a noisy machine does not decide the result.

All models are measured once, in a random order, then all again in another order, and so on: a slow minute of the
machine then hits every model alike instead of some. Rounds go on until the statistic in use repeats itself. Each sample
is appended to a journal as it arrives, so that an interrupted run continues where it was.

**Sessions.** What one call of a command measures is one session. A machine may be another one the next day: as much as
2.9 times as fast. So a reference model is measured all along, in every session first of all, and its latency in a
session says how fast the machine was then. A session whose reference differs by more than ``SAME_SPEED`` from that of
the session that measured most (or from the reference's row in a table that is completed) has its samples scaled by the
ratio, and this is said. To refuse would throw away what was measured, and to mix as it is would give a table that is
wrong by the ratio; scaled rows are right as far as the machine became faster in everything alike. The few rows are
scaled to the many. Below that difference nothing is scaled: within a session, too, the reference moves by some per
cent.
"""

import random
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fbnet_mobile.devices import Device, DeviceLostError
from fbnet_mobile.devices.base import DeviceState
from fbnet_mobile.errors import JobError
from fbnet_mobile.latency.table import NETWORK, SAME_SPEED, Measurement
from fbnet_mobile.measure.jobs import Failure, run_models, runtime_version
from fbnet_mobile.measure.plan import MeasuringPlan
from fbnet_mobile.measure.samples import (
    NO_STATE,
    Journal,
    RoundLine,
    RoundState,
    Sample,
    SampleLine,
    Session,
    is_finite,
    session_name,
)

Rounds = dict[int, list[Sample]]
"""A model's samples by round."""


@dataclass(frozen=True)
class Model:
    """A model file that takes part in the rounds.

    Attributes:
        name: in the journal; the same only for the same file.
        path: the file.
        kind: whole networks (``NETWORK``) are judged apart from the rest.
        repeats: how often it is measured in each round.
    """

    name: str
    path: Path
    kind: str = ""
    repeats: int = 1


@dataclass
class Measured:
    """What the rounds found.

    Attributes:
        models: by name.
        lines: samples of these models.
        reference: name of the reference model, if there is one.
        reference_us: its latency in the table that is completed.
        failed: why models could not be run, by name.
        states: what the device said of itself, by session and round.
    """

    models: Mapping[str, Model]
    statistic: str
    lines: list[SampleLine] = field(default_factory=list)
    reference: str | None = None
    reference_us: float | None = None
    failed: dict[str, str] = field(default_factory=dict)
    states: dict[tuple[str, int], list[RoundState]] = field(default_factory=lambda: defaultdict(list))

    def references(self) -> dict[str, float]:
        """Latency of the reference model in each session, in us."""
        found: dict[str, list[Sample]] = defaultdict(list)
        for line in self.lines:
            if line.model == self.reference:
                found[line.session].append(line.sample)
        return {session: statistic_of(samples, self.statistic) for session, samples in found.items()}

    def speeds(self) -> dict[str, float]:
        """For each session how long the reference takes in it, over how long it takes at the speed of the rows."""
        references = self.references()
        if not references:
            return {}
        base_us = self.reference_us
        if base_us is None:
            counts = Counter(line.session for line in self.lines if line.session in references)
            base_us = references[counts.most_common(1)[0][0]]
        return {session: latency_us / base_us for session, latency_us in references.items()}

    def samples(self) -> dict[str, Rounds]:
        """Samples of each model that did not fail by round, at one speed of the machine as far as that is known."""
        found: dict[str, Rounds] = {name: {} for name in self.models}
        speeds = self.speeds()
        for line in self.lines:
            if line.model not in self.failed:
                speed = speeds.get(line.session, 1.0)
                factor = 1.0 if abs(speed - 1) <= SAME_SPEED else 1 / speed
                found[line.model].setdefault(line.round, []).append(line.sample.scaled(factor))
        return found

    def rows(self) -> dict[str, Measurement]:
        """The measurement of each model that was run."""
        sessions: dict[str, set[str]] = defaultdict(set)
        for line in self.lines:
            sessions[line.model].add(line.session)
        return {
            name: summary(rounds, self.statistic, "+".join(sorted(sessions[name])))
            for name, rounds in self.samples().items()
            if rounds
        }


def new_session(device: Device, runtime: str, threads: int, plan: MeasuringPlan) -> Session:
    """A session that begins now, as the device describes itself.

    Raises:
        JobError: the device cannot be reached, or does not have the runtime.
    """
    return Session(
        begun=session_name(),
        device=device.name,
        cpu=device.facts().cpu,
        runtime=runtime,
        runtime_version=runtime_version(device, runtime),
        threads=threads,
        warmup_ms=plan.warmup_ms,
        min_ms=plan.min_ms,
    )


def measure(
    device: Device,
    runtime: str,
    threads: int,
    models: Iterable[Model],
    statistic: str,
    plan: MeasuringPlan,
    journal: Journal,
    progress: Callable[[int, int], None] = lambda *_: None,
    reference: str | None = None,
    reference_us: float | None = None,
) -> Measured:
    """Measure models in interleaved rounds.

    A model that cannot be run is not tried again in this session, and has no samples even if it had some before. A
    later session tries it again, as what was missing may be there then.

    Args:
        device: where.
        runtime: name of a runtime that the runner knows.
        threads: for the runtime.
        models: what to measure.
        statistic: which of a measurement's statistics is its latency.
        plan: how long.
        journal: of samples so far, which is continued.
        progress: called after each result with (results so far, results expected over all rounds).
        reference: name of the model that says how fast the machine is in this session.
        reference_us: its latency in a table that is completed.

    Raises:
        JobError: the device stays unreachable, or does not print the statistic; the journal keeps what was measured.
    """
    started_s = journal.elapsed_s()
    found = Measured({model.name: model for model in models}, statistic, [], reference, reference_us)
    found.lines += (line for line in journal.samples if line.model in found.models)
    for ended in journal.rounds:
        found.states[ended.session, ended.round].append(ended.state)
    whole = sum(model.repeats for model in found.models.values())
    round_s = 0.0
    for round_number in range(plan.max_rounds):
        todo = _todo(found, round_number)
        if todo:
            elapsed_s = journal.elapsed_s() - started_s
            if round_number >= plan.min_rounds and plan.budget_s is not None and elapsed_s + round_s > plan.budget_s:
                break
            random.Random(f"{plan.seed}-{round_number}").shuffle(todo)
            done = whole * (round_number + 1) - len(todo)
            if (
                reference is not None
                and reference not in found.failed
                and not any(line.session == journal.session.begun and line.model == reference for line in found.lines)
            ):
                if reference in todo:
                    todo.remove(reference)
                todo.insert(0, reference)
            expected = whole * max(plan.min_rounds, round_number + 1)
            begun_s = last_s = journal.elapsed_s()
            before = _state(device)
            paths = [found.models[name].path for name in todo]
            with closing(run_models(device, runtime, threads, paths, plan)) as outcomes:
                for number, outcome in outcomes:
                    name, now_s = todo[number], journal.elapsed_s()
                    if isinstance(outcome, Failure):
                        found.failed[name] = outcome.reason
                    elif outcome.value(statistic) is None:
                        raise JobError(
                            f"what measures on {device.name} does not print the {statistic}; choose another statistic, "
                            "or a newer benchmark_model"
                        )
                    else:
                        line = SampleLine(
                            session=journal.session.begun,
                            round=round_number,
                            model=name,
                            sample=outcome,
                            at_s=now_s,
                            took_s=now_s - last_s,
                        )
                        journal.add(line)
                        found.lines.append(line)
                    last_s = now_s
                    done += 1
                    progress(min(done, expected), expected)
            now_s = journal.elapsed_s()
            round_s = now_s - begun_s
            state = RoundState(before=before, after=_state(device), elapsed_s=round_s)
            found.states[journal.session.begun, round_number].append(state)
            journal.add(RoundLine(session=journal.session.begun, round=round_number, state=state, at_s=now_s))
        if round_number + 1 >= plan.min_rounds and repeatability(found) <= plan.repeatability:
            break
    return found


def _todo(found: Measured, round_number: int) -> list[str]:
    """Names of the models that are to be measured in a round yet, as often as they are."""
    done = Counter(line.model for line in found.lines if line.round == round_number)
    return [
        name
        for name, model in found.models.items()
        if name not in found.failed
        for _ in range(model.repeats - done[name])
    ]


def _state(device: Device) -> DeviceState:
    """What the device says of itself; nothing if it is lost, which the next job deals with."""
    try:
        state = device.state()
    except DeviceLostError:
        return NO_STATE
    return state if is_finite(state) else NO_STATE


def repeatability(found: Measured) -> float:
    """The median difference of models between even and odd rounds: of whole networks or of the rest, the larger one.

    Apart, as networks are outnumbered by blocks but moved more by whatever else uses the machine's memory.
    """
    differences: dict[bool, list[float]] = defaultdict(list)
    for name, rounds in found.samples().items():
        if rounds:
            differences[found.models[name].kind == NETWORK].append(_difference(rounds, found.statistic))
    return max(map(statistics.median, differences.values()), default=0.0)


def summary(rounds: Rounds, statistic: str, session: str = "") -> Measurement:
    """All samples of a model as one measurement."""
    samples = [sample for number in sorted(rounds) for sample in rounds[number]]

    def median(name: str) -> float:
        values = [value for sample in samples if (value := getattr(sample, name)) is not None]
        return float(statistics.median(values)) if values else float("nan")

    return Measurement(
        latency_us=statistic_of(samples, statistic),
        min_us=min(sample.min_us for sample in samples),
        p10_us=median("p10_us"),
        median_us=median("median_us"),
        p90_us=median("p90_us"),
        mean_us=statistic_of(samples, "mean"),
        runs=sum(sample.runs for sample in samples),
        rounds=len(rounds),
        uncertainty=_difference(rounds, statistic),
        session=session,
    )


def statistic_of(samples: Sequence[Sample], statistic: str) -> float:
    """Over several samples: the 10th percentile of minima, the median of medians, the mean of all runs.

    Not the least of the minima: a network may once find the shared cache and the memory to itself, for a moment that
    does not come for another one.
    """
    if statistic == "min":
        return float(np.percentile([sample.min_us for sample in samples], 10))
    if statistic == "median":
        return float(statistics.median(sample.median_us for sample in samples if sample.median_us is not None))
    return sum(sample.mean_us * sample.runs for sample in samples) / sum(sample.runs for sample in samples)


def _difference(rounds: Rounds, statistic: str) -> float:
    """How far a model's statistic differs between its even and its odd rounds; 1 with fewer than two rounds."""
    numbers = sorted(rounds)
    if len(numbers) < 2:
        return 1.0
    halves = ([sample for number in numbers[start::2] for sample in rounds[number]] for start in (0, 1))
    first, second = (statistic_of(half, statistic) for half in halves)
    return abs(first - second) / min(first, second)
