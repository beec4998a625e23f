"""Running models on a device, one sample for each, whatever happens to the device meanwhile.

A job is a program on the device that times a batch of models: the runner, by the device's Python, or Google's
``benchmark_model`` where there is none. A model that brings the program down costs that model's sample and no other.
"""

import hashlib
import json
import math
import re
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from fbnet_mobile.devices import Device, DeviceFullError, DeviceLostError, ProgramError
from fbnet_mobile.devices.system import shell_sleep
from fbnet_mobile.errors import JobError, UserError

Sample = dict[str, Any]
"""What the runner says of one model in one round (see ``runtimes/runner.py``); with ``error`` if the model failed.

``hot_c`` is the temperature of a device that was still above its limit when the batch began.
"""

INSTALL = {
    "litert": "python3 -m pip install ai-edge-litert",
    "onnxruntime": "python3 -m pip install onnxruntime",
    "coreml": "python3 -m pip install coremltools",
}
"""What installs each runtime that the runner can time."""

_STATISTICS = ("runs", "load_us", "min_us", "p10_us", "median_us", "p90_us", "mean_us")
_LOSSES = 3
"""After how many losses of the device at one and the same model that model is to blame."""
_FAILURES = 5
"""After how many models in a row that bring down the runner or the device something else must be wrong."""
_CODES = {124: "took too long", 132: "illegal instruction", 134: "aborted", 137: "killed (out of memory?)",
          139: "segmentation fault", 142: "took too long"}  # fmt: skip


@dataclass(frozen=True)
class MeasuringPlan:
    """How long to measure.

    Attributes:
        min_rounds: rounds that are always made.
        max_rounds: rounds after which it ends whatever the spread.
        repeatability: it ends when half of the blocks, and half of the whole networks, differ by at most this share
            between even and odd rounds.
        budget_s: no new round is begun that would not end within this time.
        warmup_ms: how long a model runs before it is timed, in each round.
        min_ms: how long a model is timed at least, in each round.
        seed: of the order of models in each round.
    """

    min_rounds: int = 4
    max_rounds: int = 6
    repeatability: float = 0.01
    budget_s: float | None = None
    warmup_ms: float = 1.0
    min_ms: float = 5.0
    seed: int = 0


def run_models(
    device: Device, runtime: str, threads: int, models: Sequence[Path], plan: MeasuringPlan
) -> Iterator[tuple[int, Sample]]:
    """Time each model once on the device: (number of the model, its sample), exactly one for each, in order.

    A sample with ``error`` says that this model cannot be measured. A device that is lost is waited for, and the batch
    goes on at the model that was interrupted.

    Raises:
        JobError: the device or the runtime failed, and stays so.
    """
    batch, full = device.settings.batch or len(models), False
    done = losses = failures = 0
    while done < len(models):
        part = models[done : done + batch]
        begun = done
        error: str | None = None
        try:
            if full:
                device.clean()
            marks = _cooled(device)
            for sample in _samples(device, runtime, threads, part, plan):
                yield done, {**sample, **marks}
                done, losses, failures = done + 1, 0, 0
        except DeviceFullError as problem:
            if len(part) == 1:
                raise
            batch, full = len(part) // 2, True
            if done > begun:
                raise JobError(f"{problem}; run the same command again to continue") from problem
        except DeviceLostError as problem:
            losses += 1
            if losses == _LOSSES:
                error = f"the device was lost {losses} times while measuring it: {problem}"
            _reconnect(device, problem)
        except ProgramError as problem:
            error = _CODES.get(problem.code, str(problem))
        if error is not None:
            yield done, {"error": error}
            done, losses, failures = done + 1, 0, failures + 1
            if failures == _FAILURES:
                raise JobError(
                    f"{runtime} on {device.name} failed on {failures} models in a row, the last with: {error}; see "
                    f"fbnet-profile --check-device {shlex.quote(device.name)}"
                )


def runtime_version(device: Device, runtime: str) -> str:
    """The version of a runtime on a device, with the compute unit or delegate where there is a choice of them.

    Raises:
        JobError: the device does not have the runtime.
    """
    if binary := _binary(device, runtime):
        digest = hashlib.sha256(binary.read_bytes()).hexdigest()[:8]
        return f"benchmark_model-{digest} {device.settings.delegate}"
    try:
        for line in _runner_lines(device, runtime, 1, [], MeasuringPlan()):
            if "runtime_version" in (message := read_message(line)):
                return str(message["runtime_version"])
    except ProgramError as error:
        raise _missing(device, runtime, error) from error
    raise JobError(f"{device.name} did not say which version of {runtime} it has")


def _samples(
    device: Device, runtime: str, threads: int, models: Sequence[Path], plan: MeasuringPlan
) -> Iterator[Sample]:
    """The samples of one job in order; fewer than models only if it raises."""
    if _binary(device, runtime):
        yield from _binary_samples(device, threads, models, plan)
        return
    done, started = 0, False
    try:
        for line in _runner_lines(device, runtime, threads, models, plan):
            message = read_message(line)
            started = started or "runtime_version" in message
            number = message.pop("model", None)
            if type(number) is int and done <= number < len(models):
                for _ in range(number - done):
                    yield _garbled(device)
                yield message if _whole(message) else _garbled(device)
                done = number + 1
    except ProgramError as error:
        if not started:
            raise _missing(device, runtime, error) from error
        if done < len(models):  # behind the last model nothing is lost
            raise
    for _ in range(len(models) - done):
        yield _garbled(device)


def _runner_lines(
    device: Device, runtime: str, threads: int, models: Sequence[Path], plan: MeasuringPlan
) -> Iterator[str]:
    """Put the runner, its job file and the models on the device and run the job."""
    settings = device.settings
    job = {
        "runtime": runtime,
        "threads": threads,
        "warmup_ms": plan.warmup_ms,
        "min_ms": plan.min_ms,
        "min_runs": 5,
        "max_runs": 2000,
        "pause_s": settings.pause_s,
        "model_limit_s": settings.model_limit_s,
        "compute_units": settings.compute_units,
        "attached": getattr(device, "attached", ""),
        "signing": settings.signing.model_dump() if settings.signing else {},
        "models": device.push(models),
    }
    runner = resources.files("fbnet_mobile.measure") / "runner.py"
    with resources.as_file(runner) as script, tempfile.TemporaryDirectory() as folder:
        job_file = Path(folder) / "job.json"
        job_file.write_text(json.dumps(job))
        yield from device.run([device.python, *device.push([script, job_file])])


def _binary(device: Device, runtime: str) -> Path | None:
    """The benchmark_model that is to measure, if the settings name one."""
    path = device.settings.benchmark_binary
    if path is None or runtime != "litert":
        return None
    if not path.expanduser().is_file():
        raise UserError(f"there is no benchmark_model at {path}; docs/devices.md says where to get it")
    return path.expanduser()


def _binary_samples(device: Device, threads: int, models: Sequence[Path], plan: MeasuringPlan) -> Iterator[Sample]:
    """By one shell script on the device that starts benchmark_model for each model."""
    settings = device.settings
    path = _binary(device, "litert")
    assert path is not None
    binary, *remote = device.push([path, *models])
    flags = [
        f"--num_threads={threads}",
        "--warmup_runs=1",
        f"--warmup_min_secs={plan.warmup_ms / 1e3}",
        "--num_runs=5",
        f"--min_secs={plan.min_ms / 1e3}",
        f"--max_secs={settings.model_limit_s}",
        *({"gpu": ["--use_gpu=true"], "nnapi": ["--use_nnapi=true"]}.get(settings.delegate, [])),
    ]
    command = shlex.join([binary, *flags])
    lines = [
        f"[ -x {shlex.quote(binary)} ] || chmod 700 {shlex.quote(binary)}",
        "measure() {",
        f'timeout {math.ceil(settings.model_limit_s)} {command} --graph="$1" 2>&1 </dev/null',
        f'code=$?; echo; echo "__FBNET_MODEL=$code"; {shell_sleep(settings.pause_s)}',
        "}",
        *(f"measure {shlex.quote(model)}" for model in remote),
    ]
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "job.sh"
        script.write_text("\n".join(lines) + "\n")
        said: list[str] = []
        done = 0
        for line in device.run(["sh", *device.push([script])]):
            said.append(line)
            if match := re.fullmatch(r"__FBNET_MODEL=(\d+)", line):
                if code := int(match[1]):
                    last = next((text for text in reversed(said[:-1]) if text.strip()), "it said nothing")
                    yield {"error": _CODES.get(code, f"benchmark_model ended with code {code}: {last.strip()}")}
                else:
                    yield parse_benchmark_model(said) or _garbled(device)
                said, done = [], done + 1
        for _ in range(len(models) - done):
            yield _garbled(device)


def parse_benchmark_model(lines: Sequence[str]) -> Sample | None:
    """The sample in the output of benchmark_model, of either generation; None if it is not there.

    It prints statistics of the warm-up and then of the runs, as ``count=15 first=49060 curr=33682 min=32825 max=49060
    avg=34825.1 std=3930``, newer ones with percentiles behind; ``count=1 curr=49060`` if all are equal. What it does
    not say, the 10th and 90th percentile above all, is NaN.
    """
    found: dict[str, float] = {}
    load_us = None
    for line in lines:
        if match := re.search(r"\bcount=\d.*", line):
            found = {name: float(value) for name, value in re.findall(r"(\w+)=(-?[\d.]+(?:e[+-]?\d+)?)", match[0])}
        if match := re.search(r"inference timings in us: .*?Init: ([\d.e+]+)", line, re.IGNORECASE):
            load_us = float(match[1])
    if load_us is None or "curr" not in found:
        return None
    same = found["curr"]  # all there is if all are equal
    equal = "min" not in found
    return {
        "runs": int(found["count"]),
        "load_us": load_us,
        "min_us": found.get("min", same),
        "p10_us": same if equal else math.nan,
        "median_us": same if equal else found.get("median", math.nan),
        "p90_us": same if equal else math.nan,
        "mean_us": found.get("avg", same),
    }


def _whole(message: Sample) -> bool:
    """Whether a message says an error, or every statistic as a number that can be."""
    if isinstance(message.get("error"), str):
        return True
    values = [message.get(name) for name in _STATISTICS]
    return all(isinstance(value, int | float) and 0 <= value < math.inf for value in values) and message["runs"] > 0


def _garbled(device: Device) -> Sample:
    return {"error": f"what {device.name} said of it could not be read"}


def _missing(device: Device, runtime: str, error: ProgramError) -> JobError:
    if "ModuleNotFoundError" in str(error) or "ImportError" in str(error):
        return JobError(f"{error}; install {runtime} there: {INSTALL[runtime]}")
    return JobError(f"{error}; see fbnet-profile --check-device {shlex.quote(device.name)}")


def _cooled(device: Device) -> Sample:
    """Wait until the device is cool enough to measure; the mark for samples of one that stays hot."""
    limit_c = device.settings.cool_below_c
    if limit_c is None:
        return {}
    end = time.monotonic() + device.settings.cool_at_most_s
    while (temperature_c := device.state().temperature_c) is not None and temperature_c > limit_c:
        left_s = end - time.monotonic()
        if left_s <= 0:
            return {"hot_c": temperature_c}
        time.sleep(min(1.0, left_s))
    return {}


def _reconnect(device: Device, error: DeviceLostError) -> None:
    end = time.monotonic() + device.settings.reconnect_s
    pause_s = 0.5
    while True:
        time.sleep(pause_s)
        try:
            device.reconnect()
            return
        except JobError as again:
            pause_s = min(2 * pause_s, 15.0)
            if time.monotonic() + pause_s > end:
                raise JobError(
                    f"{device.name} was lost ({error}) and does not come back: {again}; when it is there, run the "
                    "same command again to continue"
                ) from error


def read_message(line: str) -> dict[str, Any]:
    """The runner's message in a line of output; empty for what a runtime prints by itself."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}
