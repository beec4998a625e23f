"""Measuring many model files on a device so that a noisy machine does not decide the result.

All models are measured once, in a random order, then all again in another order, and so on: a slow minute of the
machine then hits every model alike instead of some. Rounds go on until the statistic in use repeats itself. Each result
is appended to a journal as it arrives, so that an interrupted run continues where it was.
"""

import json
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from fbnet_mobile.devices import Device
from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.latency.jobs import MeasuringPlan, Sample, read_message, run_models
from fbnet_mobile.latency.table import Measurement

RUNTIMES = ("litert", "onnxruntime")
"""What the runner can time."""

RowKey = tuple[str, str]


def measure(
    device: Device,
    runtime: str,
    threads: int,
    models: Mapping[RowKey, Path],
    statistic: str,
    plan: MeasuringPlan,
    journal: Path,
    progress: Callable[[int, int, int], None] = lambda *_: None,
) -> dict[RowKey, Measurement]:
    """Measure models in interleaved rounds.

    Args:
        device: where.
        runtime: name of a runtime that the runner knows.
        threads: for the runtime.
        models: a file for each row of the table to be.
        statistic: which of a measurement's statistics is its latency.
        plan: how long.
        journal: a file of results so far; continued if it is there.
        progress: called with (round, models done in it, models) after each model.

    Raises:
        JobError: the device failed, or a model could not be run; the journal keeps what was measured.
    """
    started = time.monotonic()
    samples: dict[RowKey, dict[int, Sample]] = {key: {} for key in models}
    for round_number, key, sample in _read_journal(journal):
        if key in samples:
            samples[key][round_number] = sample
    round_s = 0.0
    with journal.open("a", encoding="utf-8") as log:
        for round_number in range(plan.max_rounds):
            todo = [key for key in models if round_number not in samples[key]]
            if todo:
                elapsed = time.monotonic() - started
                enough = round_number >= plan.min_rounds
                if enough and plan.budget_s is not None and elapsed + round_s > plan.budget_s:
                    break
                random.Random(f"{plan.seed}-{round_number}").shuffle(todo)
                begun = time.monotonic()
                done = len(models) - len(todo)
                for number, sample in run_models(device, runtime, threads, [models[key] for key in todo], plan):
                    if "error" in sample:
                        raise JobError(f"{runtime} on {device.name} cannot run {todo[number][1]!r}: {sample['error']}")
                    samples[todo[number]][round_number] = sample
                    log.write(json.dumps({"round": round_number, "key": todo[number], "sample": sample}) + "\n")
                    log.flush()
                    done += 1
                    progress(round_number, done, len(models))
                round_s = time.monotonic() - begun
            if round_number + 1 >= plan.min_rounds and repeatability(samples, statistic) <= plan.repeatability:
                break
    return {key: _summary(list(rounds.values()), statistic) for key, rounds in samples.items()}


def repeatability(samples: Mapping[RowKey, Mapping[int, Sample]], statistic: str) -> float:
    """The median over all models of the spread between even and odd rounds."""
    spreads = [_spread([rounds[number] for number in sorted(rounds)], statistic) for rounds in samples.values()]
    return statistics.median(spreads)


def _statistic(rounds: Sequence[Sample], statistic: str) -> float:
    """Over several rounds: the minimum of minima, the median of medians, the mean of all runs."""
    if statistic == "min":
        return float(min(sample["min_us"] for sample in rounds))
    if statistic == "median":
        return float(statistics.median(sample["median_us"] for sample in rounds))
    return float(
        sum(sample["mean_us"] * sample["runs"] for sample in rounds) / sum(sample["runs"] for sample in rounds)
    )


def _spread(rounds: Sequence[Sample], statistic: str) -> float:
    if len(rounds) < 2:
        return 1.0
    halves = [_statistic(rounds[start::2], statistic) for start in (0, 1)]
    return abs(halves[0] - halves[1]) / min(halves)


def _summary(rounds: Sequence[Sample], statistic: str) -> Measurement:
    return Measurement(
        latency_us=_statistic(rounds, statistic),
        min_us=_statistic(rounds, "min"),
        p10_us=statistics.median(sample["p10_us"] for sample in rounds),
        median_us=_statistic(rounds, "median"),
        p90_us=statistics.median(sample["p90_us"] for sample in rounds),
        mean_us=_statistic(rounds, "mean"),
        runs=sum(sample["runs"] for sample in rounds),
        rounds=len(rounds),
        spread=_spread(rounds, statistic),
    )


def _read_journal(journal: Path) -> Iterator[tuple[int, RowKey, Sample]]:
    """Results of an interrupted run; a line cut short by the interruption is passed over."""
    if not journal.exists():
        return
    text = journal.read_text(encoding="utf-8", errors="replace")
    if text and not text.endswith("\n"):
        whole = text[: text.rfind("\n") + 1]
        try:
            journal.write_text(whole, encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {journal}: {error.strerror}") from error
        text = whole
    for line in text.splitlines():
        record = read_message(line)
        if record:
            yield record["round"], (record["key"][0], record["key"][1]), record["sample"]
