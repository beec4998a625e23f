"""Where the time of a file goes, by OpenVINO's own profiler."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fbnet_mobile.formats.base import loading
from fbnet_mobile.formats.openvino import loader


def operation_times_us(path: Path, threads: int, warmup: int, runs: int) -> Mapping[str, float]:
    """See :attr:`fbnet_mobile.formats.base.Runtime.operation_times_us`.

    It keeps the names of an ONNX file's operations, and gives a TFLite file's names of its own.
    """
    with loading(path, "OpenVINO"):
        request = loader.request(str(path), threads, {"PERF_COUNT": True})
    times: dict[str, list[float]] = defaultdict(list)
    for number in range(warmup + runs):
        request.infer()
        if number >= warmup:
            for operation in request.get_profiling_info():
                times[operation.node_name].append(operation.real_time.total_seconds() * 1e6)
    return {name: float(np.median(found)) for name, found in times.items()}
