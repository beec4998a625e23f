"""Running models on a device, one outcome for each, whatever happens to the device meanwhile.

A job is a program on the device that times a batch of models: the runner, by the device's Python, or Google's
``benchmark_model`` where there is none. A model that brings the program down costs that model's sample and no other.
"""

import hashlib
import json
import shlex
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fbnet_mobile.devices import Device, DeviceFullError, DeviceLostError, ProgramError
from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.formats.base import get_runtime
from fbnet_mobile.measure import benchmark_model
from fbnet_mobile.measure.plan import MeasuringPlan
from fbnet_mobile.measure.samples import Sample

_LOSSES = 3
"""After how many losses of the device at one and the same model that model is to blame."""
_FAILURES = 5
"""After how many models in a row that bring down the runner or the device something else must be wrong."""
_CODES = {124: "took too long", 132: "illegal instruction", 134: "aborted", 137: "killed (out of memory?)",
          139: "segmentation fault", 142: "took too long"}  # fmt: skip
_ENDLESS = 1 << 20
"""Characters of output without a result after which there will be none."""
_SHOWN = 200
"""Characters of what a device says that are shown."""


@dataclass(frozen=True)
class Failure:
    """Why a model cannot be measured, in one line."""

    reason: str


Outcome = Sample | Failure


class _Version(BaseModel):
    """The runner's first message."""

    model_config = ConfigDict(strict=True)

    runtime_version: Annotated[str, Field(pattern=r"^[ -~]{1,100}$")]


class _Result(BaseModel):
    """The runner's message on one model, as far as every one has it."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: Annotated[int, Field(ge=0)]
    error: str | None = None


def run_models(
    device: Device, runtime: str, threads: int, models: Sequence[Path], plan: MeasuringPlan
) -> Generator[tuple[int, Outcome], None, None]:
    """Time each model once on the device: (number of the model, its outcome), exactly one for each, in order.

    A device that is lost is waited for, and the batch goes on at the model that was interrupted.

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
            hot_c = _cooled(device)
            with closing(_outcomes(device, runtime, threads, part, plan)) as outcomes:
                for outcome in outcomes:
                    if isinstance(outcome, Sample) and hot_c is not None:
                        yield done, outcome.model_copy(update={"hot_c": hot_c})
                    else:
                        yield done, outcome
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
            yield done, Failure(error)
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
        with closing(_runner_lines(device, runtime, 1, [], MeasuringPlan())) as lines:
            for line in _bounded(device, lines):
                if message := _read(_Version, line):
                    return message.runtime_version
    except ProgramError as error:
        raise _missing(device, runtime, error) from error
    raise JobError(f"{device.name} did not say which version of {runtime} it has")


def _outcomes(
    device: Device, runtime: str, threads: int, models: Sequence[Path], plan: MeasuringPlan
) -> Generator[Outcome, None, None]:
    """The outcomes of one job in order; fewer than models only if it raises."""
    if _binary(device, runtime):
        yield from _binary_outcomes(device, threads, models, plan)
        return
    done, started = 0, False
    try:
        with closing(_runner_lines(device, runtime, threads, models, plan)) as lines:
            for line in _bounded(device, lines):
                started = started or _read(_Version, line) is not None
                message = _read(_Result, line)
                if message is None or not done <= message.model < len(models):
                    continue
                for _ in range(message.model - done):
                    yield _garbled(device)
                yield _outcome(message) or _garbled(device)
                done = message.model + 1
    except ProgramError as error:
        if not started:
            raise _missing(device, runtime, error) from error
        if done < len(models):  # behind the last model nothing is lost
            raise
    for _ in range(len(models) - done):
        yield _garbled(device)


def _runner_lines(
    device: Device, runtime: str, threads: int, models: Sequence[Path], plan: MeasuringPlan
) -> Generator[str, None, None]:
    """Put the runner, its job file and the models on the device and run the job."""
    settings = device.settings
    loader = get_runtime(runtime).loader
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
        "loader": device.push([loader])[0] if loader is not None else "",
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


def _binary_outcomes(device: Device, threads: int, models: Sequence[Path], plan: MeasuringPlan) -> Iterator[Outcome]:
    """By one shell script on the device that starts benchmark_model for each model."""
    path = _binary(device, "litert")
    assert path is not None
    binary, *remote = device.push([path, *models])
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "job.sh"
        script.write_text(benchmark_model.script(binary, remote, threads, plan, device.settings))
        said: list[str] = []
        done = 0
        with closing(_closable(device.run(["sh", *device.push([script])]))) as lines:
            for line in _bounded(device, lines):
                said.append(line)
                match = benchmark_model.ENDED.fullmatch(line)
                if match is None or done == len(models):
                    continue
                if code := int(match[1]):
                    last = next((text for text in reversed(said[:-1]) if text.strip()), "it said nothing")
                    reason = f"benchmark_model ended with code {code}: {last.strip()[:_SHOWN]}"
                    yield Failure(_CODES.get(code, reason))
                else:
                    yield benchmark_model.parse_output(said) or _garbled(device)
                said, done = [], done + 1
        for _ in range(len(models) - done):
            yield _garbled(device)


def _closable(lines: Iterator[str]) -> Generator[str, None, None]:
    """A generator of them: only one that is left early is sure to end the program behind it at once."""
    yield from lines


def _bounded(device: Device, lines: Iterable[str]) -> Iterator[str]:
    """The lines of a program's output.

    Raises:
        ProgramError: it goes on and on without a result.
    """
    idle = 0
    for line in lines:
        result = benchmark_model.ENDED.fullmatch(line) or _read(_Result, line)
        idle = 0 if result else idle + len(line) + 1
        if idle > _ENDLESS:
            raise ProgramError(f"what {device.name} says of it does not end ({_ENDLESS} characters)", 1)
        yield line


_Message = TypeVar("_Message", bound=BaseModel)


def _read(kind: type[_Message], line: str) -> _Message | None:
    """A message of the runner in a line of output; None for what is none, as a runtime prints by itself."""
    if not line.startswith("{"):
        return None
    try:
        return kind.model_validate_json(line)
    except ValidationError:
        return None


def _outcome(message: _Result) -> Outcome | None:
    """What a message says of its model; None if not every statistic is a number that can be."""
    if message.error is not None:
        return Failure(_one_line(message.error))
    numbers: dict[str, Any] = dict(message.model_extra or {})
    try:
        return Sample.model_validate({name: value for name, value in numbers.items() if name in Sample.model_fields})
    except ValidationError:
        return None


def _one_line(text: str) -> str:
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 3] + "..."


def _garbled(device: Device) -> Failure:
    return Failure(f"what {device.name} said of it could not be read")


def _missing(device: Device, runtime: str, error: ProgramError) -> JobError:
    if "ModuleNotFoundError" in str(error) or "ImportError" in str(error):
        return JobError(f"{error}; install {runtime} there: {get_runtime(runtime).install}")
    return JobError(f"{error}; see fbnet-profile --check-device {shlex.quote(device.name)}")


def _cooled(device: Device) -> float | None:
    """Wait until the device is cool enough to measure; the temperature of one that stays hot."""
    limit_c = device.settings.cool_below_c
    if limit_c is None:
        return None
    end = time.monotonic() + device.settings.cool_at_most_s
    while (temperature_c := device.state().temperature_c) is not None and temperature_c > limit_c:
        left_s = end - time.monotonic()
        if left_s <= 0:
            return temperature_c
        time.sleep(min(1.0, left_s))
    return None


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
