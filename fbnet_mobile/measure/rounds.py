"""Measuring many model files on a device so that a noisy machine does not decide the result.

All models are measured once, in a random order, then all again in another order, and so on: a slow minute of the
machine then hits every model alike instead of some. Rounds go on until the statistic in use repeats itself. Each result
is appended to a journal as it arrives, so that an interrupted run continues where it was.
"""

import json
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fbnet_mobile.devices import Device
from fbnet_mobile.errors import UserError
from fbnet_mobile.latency.table import NETWORK, Measurement
from fbnet_mobile.measure.jobs import MeasuringPlan, Sample, read_message, run_models

RowKey = tuple[str, str]
Rounds = dict[int, list[Sample]]
"""A model's samples by round."""

_STATE: RowKey = ("state", "")
"""The journal's key for what the device says of itself before and after each turn of measuring."""


@dataclass
class Measured:
    """What the rounds found.

    Attributes:
        samples: by row and round.
        failed: what was said of each model that could not be run.
        states: what the device said of itself during each round, as :class:`DeviceState` has it, with ``elapsed_s``.
    """

    samples: dict[RowKey, Rounds]
    failed: dict[RowKey, str] = field(default_factory=dict)
    states: dict[int, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))

    def rows(self, statistic: str) -> dict[RowKey, Measurement]:
        """The measurement of each model that was run, ``statistic`` being its latency."""
        return {key: summary(rounds, statistic) for key, rounds in self.samples.items() if rounds}

    def add(self, round_number: int, key: RowKey, sample: Sample) -> None:
        """Keep one result; a model that failed once has no samples from then on."""
        if key == _STATE:
            self.states[round_number].append(sample)
        elif key in self.samples:
            if "error" in sample:
                self.failed[key] = str(sample["error"])
                self.samples[key] = {}
            elif key not in self.failed:
                self.samples[key].setdefault(round_number, []).append(sample)


def measure(
    device: Device,
    runtime: str,
    threads: int,
    models: Mapping[RowKey, Path],
    statistic: str,
    plan: MeasuringPlan,
    journal: Path,
    progress: Callable[[int, int], None] = lambda *_: None,
    repeats: Mapping[RowKey, int] | None = None,
) -> Measured:
    """Measure models in interleaved rounds.

    Args:
        device: where.
        runtime: name of a runtime that the runner knows.
        threads: for the runtime.
        models: a file for each row of the table to be.
        statistic: which of a measurement's statistics is its latency.
        plan: how long.
        journal: a file of results so far; continued if it is there.
        progress: called after each result with (results so far, results expected over all rounds).
        repeats: how often a model is measured in each round, where that is not once.

    Raises:
        JobError: the device stays unreachable; the journal keeps what was measured.
    """
    started = time.monotonic()
    repeats = repeats or {}
    found = Measured({key: {} for key in models})
    for record in _read_journal(journal):
        found.add(*record)
    round_s = 0.0
    with journal.open("a", encoding="utf-8") as log:

        def keep(round_number: int, key: RowKey, sample: Sample) -> None:
            found.add(round_number, key, sample)
            log.write(json.dumps({"round": round_number, "key": key, "sample": sample}) + "\n")
            log.flush()

        for round_number in range(plan.max_rounds):
            todo = [
                key
                for key, rounds in found.samples.items()
                if key not in found.failed
                for _ in range(repeats.get(key, 1) - len(rounds.get(round_number, [])))
            ]
            if todo:
                elapsed = time.monotonic() - started
                if round_number >= plan.min_rounds and plan.budget_s is not None and elapsed + round_s > plan.budget_s:
                    break
                random.Random(f"{plan.seed}-{round_number}").shuffle(todo)
                begun, before = time.monotonic(), asdict(device.state())
                whole = sum(repeats.get(key, 1) for key in models)
                expected = whole * max(plan.min_rounds, round_number + 1)
                done = whole * (round_number + 1) - len(todo)
                for number, sample in run_models(device, runtime, threads, [models[key] for key in todo], plan):
                    keep(round_number, todo[number], sample)
                    done += 1
                    progress(done, expected)
                round_s = time.monotonic() - begun
                after = asdict(device.state())
                keep(round_number, _STATE, {"before": before, "after": after, "elapsed_s": round_s})
            if round_number + 1 >= plan.min_rounds and repeatability(found, statistic) <= plan.repeatability:
                break
    return found


def repeatability(found: Measured, statistic: str) -> float:
    """The median difference of models between even and odd rounds: of whole networks or of the rest, the larger one.

    Apart, as networks are outnumbered by blocks but moved more by whatever else uses the machine's memory.
    """
    differences: dict[bool, list[float]] = defaultdict(list)
    for (kind, _), rounds in found.samples.items():
        if rounds:
            differences[kind == NETWORK].append(_difference(rounds, statistic))
    return max(map(statistics.median, differences.values()), default=0.0)


def summary(rounds: Rounds, statistic: str) -> Measurement:
    """All samples of a model as one measurement."""
    samples = [sample for number in sorted(rounds) for sample in rounds[number]]
    return Measurement(
        latency_us=_statistic(samples, statistic),
        min_us=float(min(sample["min_us"] for sample in samples)),
        p10_us=statistics.median(sample["p10_us"] for sample in samples),
        median_us=_statistic(samples, "median"),
        p90_us=statistics.median(sample["p90_us"] for sample in samples),
        mean_us=_statistic(samples, "mean"),
        runs=sum(sample["runs"] for sample in samples),
        rounds=len(rounds),
        uncertainty=_difference(rounds, statistic),
    )


def _statistic(samples: Sequence[Sample], statistic: str) -> float:
    """Over several samples: the 10th percentile of minima, the median of medians, the mean of all runs.

    Not the least of the minima: a network may once find the shared cache and the memory to itself, for a moment that
    does not come for another one.
    """
    if statistic == "min":
        return float(np.percentile([sample["min_us"] for sample in samples], 10))
    if statistic == "median":
        return float(statistics.median(sample["median_us"] for sample in samples))
    runs = sum(sample["runs"] for sample in samples)
    return float(sum(sample["mean_us"] * sample["runs"] for sample in samples) / runs)


def _difference(rounds: Rounds, statistic: str) -> float:
    """How far a model's statistic differs between its even and its odd rounds; 1 with fewer than two rounds."""
    numbers = sorted(rounds)
    if len(numbers) < 2:
        return 1.0
    halves = ([sample for number in numbers[start::2] for sample in rounds[number]] for start in (0, 1))
    first, second = (_statistic(half, statistic) for half in halves)
    return abs(first - second) / min(first, second)


def _read_journal(journal: Path) -> Iterable[tuple[int, RowKey, Sample]]:
    """Results of an interrupted run; a line cut short by the interruption is passed over."""
    if not journal.exists():
        return []
    text = journal.read_text(encoding="utf-8", errors="replace")
    if text and not text.endswith("\n"):
        whole = text[: text.rfind("\n") + 1]
        try:
            journal.write_text(whole, encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {journal}: {error.strerror}") from error
        text = whole
    records = [read_message(line) for line in text.splitlines()]
    return [(record["round"], (record["key"][0], record["key"][1]), record["sample"]) for record in records if record]
