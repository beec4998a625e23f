"""Google's ``benchmark_model``, which times models where there is no Python: its job as a shell script, its output."""

import math
import re
import shlex
from collections.abc import Sequence

from pydantic import ValidationError

from fbnet_mobile.devices.settings import DeviceSettings
from fbnet_mobile.devices.system import shell_sleep
from fbnet_mobile.measure.plan import MeasuringPlan
from fbnet_mobile.measure.samples import Sample

ENDED = re.compile(r"__FBNET_MODEL=(\d{1,3})")
"""The line behind the output on one model, with the exit code."""

_NUMBER = r"-?\d+(?:\.\d*)?(?:e[+-]?\d+)?"
_AGREE = 0.01


def script(binary: str, models: Sequence[str], threads: int, plan: MeasuringPlan, settings: DeviceSettings) -> str:
    """A shell script for the device that times each model; paths are those on the device."""
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
        *(f"measure {shlex.quote(model)}" for model in models),
    ]
    return "\n".join(lines) + "\n"


def parse_output(lines: Sequence[str]) -> Sample | None:
    """The sample in the output of either generation; None if it is not there whole, or no possible one.

    It prints statistics of the warm-up and then of the runs, as ``count=15 first=49060 curr=33682 min=32825 max=49060
    avg=34825.1 std=3930``, newer ones with percentiles behind; ``count=1 curr=49060`` if all are equal. The last line
    has the average of the runs once more, by which statistics that were cut are told from whole ones.
    """
    found: dict[str, float] = {}
    load_us = average_us = None
    for line in lines:
        if match := re.search(r"\bcount=\d.*", line):
            found = {name: float(value) for name, value in re.findall(rf"(\w+)=({_NUMBER})(?!\S)", match[0])}
        if match := re.search(r"inference timings in us: .*", line, re.IGNORECASE):
            timings = {
                name.strip().lower(): float(value)
                for name, value in re.findall(rf"([a-z][a-z ()]*): ({_NUMBER})(?=,|\s|$)", match[0], re.IGNORECASE)
            }
            load_us = timings.get("init")
            average_us = timings.get("inference (avg)", timings.get("inference"))
    if not ({"count", "min", "avg"} <= found.keys() or found.keys() == {"count", "curr"}):
        return None
    equal = found.get("curr") if "min" not in found else None
    mean_us = found.get("avg", equal)
    if average_us is not None and mean_us is not None and abs(mean_us - average_us) > _AGREE * average_us:
        return None
    try:
        return Sample.model_validate(
            {
                "runs": int(found["count"]),
                "load_us": load_us,
                "min_us": found.get("min", equal),
                "p10_us": equal,
                "median_us": found.get("median", equal),
                "p90_us": equal,
                "mean_us": mean_us,
            }
        )
    except (ValidationError, OverflowError, ValueError):
        return None
