"""Where the time of a file goes, by OpenVINO's own profiler."""

import importlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fbnet_mobile.formats.base import existing, unreadable
from fbnet_mobile.formats.packages import needs, quiet


def operation_times_us(path: Path, threads: int, warmup: int, runs: int) -> Mapping[str, float]:
    """See :attr:`fbnet_mobile.formats.base.Runtime.operation_times_us`.

    It keeps the names of an ONNX file's operations, and gives a TFLite file's names of its own.
    """
    with needs("openvino", "fbnet-mobile[openvino]"), quiet():
        loader = importlib.import_module("fbnet_mobile.formats.openvino.loader")
    existing(path)
    try:
        with quiet():
            request = loader.request(str(path), threads, {"PERF_COUNT": True})
    except Exception as error:  # RuntimeError, whatever it is that was wrong
        raise unreadable(path, "OpenVINO", error) from error
    times: dict[str, list[float]] = defaultdict(list)
    for number in range(warmup + runs):
        request.infer()
        if number >= warmup:
            for operation in request.get_profiling_info():
                times[operation.node_name].append(operation.real_time.total_seconds() * 1e6)
    return {name: float(np.median(found)) for name, found in times.items()}
