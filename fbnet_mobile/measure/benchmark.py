"""How long finished model files take on a device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fbnet_mobile.devices import Device
from fbnet_mobile.errors import JobError
from fbnet_mobile.latency.table import Measurement
from fbnet_mobile.measure.plan import MeasuringPlan
from fbnet_mobile.measure.rounds import Model, measure, new_session
from fbnet_mobile.measure.samples import Journal


@dataclass(frozen=True)
class Benchmarked:
    """How long model files take on a device, under the conditions that a latency table has too.

    Attributes:
        device: as the user named it.
        cpu: its processor.
        runtime: what ran the models.
        runtime_version: with the compute unit or the delegate, where there is a choice.
        threads: of the runtime.
        statistic: which statistic is ``latency_us`` of a measurement.
        models: the files.
        measurements: of each, in the same order.
    """

    device: str
    cpu: str
    runtime: str
    runtime_version: str
    threads: int
    statistic: str
    models: tuple[Path, ...]
    measurements: tuple[Measurement, ...]


def benchmark(
    models: Sequence[Path],
    device: Device,
    runtime: str,
    *,
    threads: int = 1,
    statistic: str = "min",
    plan: MeasuringPlan | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Benchmarked:
    """Measure whole models of one runtime, in interleaved rounds as the blocks of a table are measured.

    Args:
        models: files of the runtime's format.
        device: where.
        runtime: name of a runtime that the device has.
        threads: for the runtime.
        statistic: which statistic is the latency.
        plan: how long.
        progress: called with (results so far, results expected over all rounds).

    Raises:
        JobError: the device failed, or cannot run a model.
    """
    plan = plan or MeasuringPlan(min_rounds=8, max_rounds=40, repeatability=0.01, warmup_ms=20, min_ms=100)
    session = new_session(device, runtime, threads, plan)
    named = {str(path): Model(str(path), path) for path in models}
    with Journal(None, session) as journal:
        found = measure(device, runtime, threads, named.values(), statistic, plan, journal, progress)
    for name, reason in found.failed.items():
        raise JobError(f"{runtime} on {device.name} cannot run {name}: {reason}")
    rows = found.rows()
    return Benchmarked(
        device=device.name,
        cpu=session.cpu,
        runtime=runtime,
        runtime_version=session.runtime_version,
        threads=threads,
        statistic=statistic,
        models=tuple(models),
        measurements=tuple(rows[str(path)] for path in models),
    )
