"""Running the runner on a device: the job it is given, and what it says of each model."""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from fbnet_mobile.devices import Device
from fbnet_mobile.errors import JobError

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
                message = read_message(line)
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
            if "runtime_version" in (message := read_message(line)):
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


def read_message(line: str) -> dict[str, Any]:
    """The runner's message in a line of output; empty for what a runtime prints by itself."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}
