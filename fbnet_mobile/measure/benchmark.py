"""How long finished model files take on a device."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from fbnet_mobile.devices import Device
from fbnet_mobile.errors import JobError
from fbnet_mobile.latency.table import Measurement
from fbnet_mobile.measure.jobs import MeasuringPlan
from fbnet_mobile.measure.rounds import measure


def benchmark(
    models: Sequence[Path],
    device: Device,
    runtime: str,
    *,
    threads: int = 1,
    statistic: str = "min",
    plan: MeasuringPlan | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[Measurement]:
    """Measure whole models of one runtime, in interleaved rounds as the blocks of a table are measured.

    Args:
        models: files of the runtime's format.
        device: where.
        runtime: "litert" or "onnxruntime".
        threads: for the runtime.
        statistic: which statistic is the latency.
        plan: how long.
        progress: called with (results so far, results expected over all rounds).

    Raises:
        JobError: the device failed, or cannot run a model.
    """
    plan = plan or MeasuringPlan(min_rounds=8, max_rounds=40, repeatability=0.01, warmup_ms=20, min_ms=100)
    keys = {("model", str(path)): path for path in models}
    with tempfile.TemporaryDirectory() as folder:
        found = measure(device, runtime, threads, keys, statistic, plan, Path(folder) / "journal.jsonl", progress)
    for (_, path), error in found.failed.items():
        raise JobError(f"{runtime} on {device.name} cannot run {path}: {error}")
    rows = found.rows(statistic)
    return [rows["model", str(path)] for path in models]
