"""Where the time of an ONNX file goes, by ONNX Runtime's own profiler."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fbnet_mobile.formats.base import loading
from fbnet_mobile.formats.packages import needs


def operation_times_us(path: Path, threads: int, warmup: int, runs: int) -> Mapping[str, float]:
    """See :attr:`fbnet_mobile.formats.base.Runtime.operation_times_us`.

    An operation that was fused into another has no time of its own; a change of layout between operations has one, by
    a name that no operation of the file begins with.
    """
    with needs("onnxruntime", "fbnet-mobile[onnx]"):
        import onnxruntime as ort
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        with loading(path, "ONNX Runtime"):
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        draw = np.random.default_rng(0)
        given = {}
        for item in session.get_inputs():
            shape = [size if isinstance(size, int) else 1 for size in item.shape]  # a batch may be open
            given[item.name] = (
                draw.integers(0, 256, shape, np.uint8)
                if item.type == "tensor(uint8)"
                else draw.standard_normal(shape, np.float32)
            )
        for _ in range(warmup + runs):
            session.run(None, given)
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            times[event["name"].removesuffix("_kernel_time")].append(event["dur"])
    return {
        # One name may stand for several operations of an inference.
        name: float(np.median(np.reshape(found, (warmup + runs, -1)).sum(axis=1)[warmup:]))
        for name, found in times.items()
    }
