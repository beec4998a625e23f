"""Measuring many model files on a device so that a noisy machine does not decide the result.

All models are measured once, in a random order, then all again in another order, and so on: a slow minute of the
machine then hits every model alike instead of some. Rounds go on until the statistic in use repeats itself. Each result
is appended to a journal as it arrives, so that an interrupted run continues where it was.
"""

import contextlib
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from fbnet_mobile.devices import Device
from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.latency.table import Measurement

RUNTIMES = ("litert", "onnxruntime")
"""What the runner can time."""

RowKey = tuple[str, str]
Sample = dict[str, Any]
"""What the runner says of one model in one round (see ``runtimes/runner.py``)."""


@dataclass(frozen=True)
class MeasuringPlan:
    """How long to measure.

    Attributes:
        min_rounds: rounds that are always made.
        max_rounds: rounds after which it ends whatever the spread.
        repeatability: it ends when half of the models differ by at most this share between even and odd rounds.
        budget_s: no new round is begun that would not end within this time.
        warmup_ms: how long a model runs before it is timed, in each round.
        min_ms: how long a model is timed at least, in each round.
        seed: of the order of models in each round.
    """

    min_rounds: int = 4
    max_rounds: int = 10
    repeatability: float = 0.01
    budget_s: float | None = None
    warmup_ms: float = 1.0
    min_ms: float = 5.0
    seed: int = 0


def run_models(
    device: Device, runtime: str, threads: int, models: Sequence[Path], plan: MeasuringPlan
) -> Iterator[tuple[int, Sample]]:
    """Time each model once on the device: (number of the model, its sample) as they come.

    Raises:
        JobError: the device or the runtime failed; the message names the model it was busy with.
    """
    with runner_job(device, runtime, threads, models, plan) as argv:
        done, ended = 0, False
        try:
            for line in device.run(argv):
                message = _message(line)
                if "model" in message:
                    done = message["model"] + 1
                    yield message["model"], message
                ended = ended or message.get("end") == len(models)
        except JobError as error:
            busy = f" while measuring {models[done].name}" if done < len(models) else ""
            raise JobError(f"{error}{busy}; run the same command again to continue") from error
        if not ended:
            raise JobError(
                f"{device.name} stopped answering after {done} of {len(models)} models; run again to continue"
            )


def runtime_version(device: Device, runtime: str) -> str:
    """The version of a runtime on a device.

    Raises:
        JobError: the device does not have the runtime.
    """
    with runner_job(device, runtime, 1, [], MeasuringPlan()) as argv:
        for line in device.run(argv):
            if "runtime_version" in (message := _message(line)):
                return str(message["runtime_version"])
    raise JobError(f"{device.name} did not say which version of {runtime} it has")


@contextlib.contextmanager
def runner_job(
    device: Device, runtime: str, threads: int, models: Sequence[Path], plan: MeasuringPlan
) -> Iterator[list[str]]:
    """Put the runner, its job file and the models on the device; the command that runs the job."""
    job = {
        "runtime": runtime,
        "threads": threads,
        "warmup_ms": plan.warmup_ms,
        "min_ms": plan.min_ms,
        "min_runs": 5,
        "max_runs": 2000,
        "models": device.push(models),
    }
    runner = resources.files("fbnet_mobile.runtimes") / "runner.py"
    with resources.as_file(runner) as script, tempfile.TemporaryDirectory() as folder:
        job_file = Path(folder) / "job.json"
        job_file.write_text(json.dumps(job))
        pushed_script, pushed_job = device.push([script, job_file])
        yield [device.python, pushed_script, pushed_job]


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


def _message(line: str) -> dict[str, Any]:
    """The runner's message in a line of output; empty for what a runtime prints by itself."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


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
        record = _message(line)
        if record:
            yield record["round"], (record["key"][0], record["key"][1]), record["sample"]
