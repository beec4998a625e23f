"""Times model files where they will run. Self-contained: it is copied to devices and run by their own Python.

    python runner.py JOB.json

The job: {"runtime": "litert" | "onnxruntime", "threads": 1, "warmup_ms": 2, "min_ms": 8, "min_runs": 5,
"max_runs": 2000, "models": [path, ...]}. Each line of the output is one JSON object: first {"runtime_version": ...};
for each model in order {"model": number, "runs": n, "load_us": ..., "min_us": ..., "p10_us": ..., "median_us": ...,
"p90_us": ..., "mean_us": ...} or {"model": number, "error": text}; at the very end {"end": number of models}, by which
a caller knows that nothing was lost. Only the inference call is timed; the input is filled once, with random numbers.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def percentile(ordered: list[int], share: float) -> float:
    """Linear interpolation between the two nearest ranks, as numpy does."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def litert() -> Any:
    """The runtime's version, and a function from a model file to a function that runs it once."""
    import numpy as np

    try:
        import ai_edge_litert as package
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tflite_runtime as package
        from tflite_runtime.interpreter import Interpreter

    def load(path: str, threads: int) -> Any:
        interpreter = Interpreter(model_path=path, num_threads=threads)
        interpreter.allocate_tensors()
        rng = np.random.RandomState(0)
        for item in interpreter.get_input_details():
            interpreter.set_tensor(item["index"], random_input(rng, item["shape"], item["dtype"]))
        return interpreter.invoke

    return package.__version__, load


def onnxruntime() -> Any:
    """The runtime's version, and a function from a model file to a function that runs it once."""
    import numpy as np
    import onnxruntime as package

    types = {
        "tensor(float)": np.float32,
        "tensor(float16)": np.float16,
        "tensor(uint8)": np.uint8,
        "tensor(int8)": np.int8,
    }

    def load(path: str, threads: int) -> Any:
        options = package.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = package.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        rng = np.random.RandomState(0)
        binding = session.io_binding()
        for item in session.get_inputs():
            shape = [size if isinstance(size, int) else 1 for size in item.shape]
            binding.bind_cpu_input(item.name, random_input(rng, shape, types[item.type]))
        for item in session.get_outputs():
            binding.bind_output(item.name)
        return lambda: session.run_with_iobinding(binding)

    return package.__version__, load


def random_input(rng: Any, shape: Any, dtype: Any) -> Any:
    """Standard normal numbers, or bytes for an integer input."""
    import numpy as np

    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        return rng.randint(limits.min, limits.max + 1, size=shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


RUNTIMES = {"litert": litert, "onnxruntime": onnxruntime}


def time_model(load: Any, path: str, job: dict[str, Any]) -> dict[str, Any]:
    """Load, warm up and time one model; the result as a dictionary."""
    clock = time.perf_counter_ns
    start = clock()
    run = load(path, job["threads"])
    loaded = clock()
    end = loaded + job["warmup_ms"] * 1e6
    while True:
        run()
        if clock() >= end:
            break
    samples: list[int] = []
    end = clock() + job["min_ms"] * 1e6
    while len(samples) < job["max_runs"]:
        before = clock()
        run()
        after = clock()
        samples.append(after - before)
        if after >= end and len(samples) >= job["min_runs"]:
            break
    samples.sort()
    return {
        "runs": len(samples),
        "load_us": (loaded - start) / 1e3,
        "min_us": samples[0] / 1e3,
        "p10_us": percentile(samples, 0.1) / 1e3,
        "median_us": percentile(samples, 0.5) / 1e3,
        "p90_us": percentile(samples, 0.9) / 1e3,
        "mean_us": sum(samples) / len(samples) / 1e3,
    }


def main(path: str) -> None:
    """Run a job file."""
    with open(path) as file:
        job = json.load(file)
    version, load = RUNTIMES[job["runtime"]]()
    print(json.dumps({"runtime_version": version}), flush=True)
    for number, model in enumerate(job["models"]):
        try:
            result = time_model(load, model, job)
        except Exception as error:
            result = {"error": "%s: %s" % (type(error).__name__, " ".join(str(error).split()))}
        print(json.dumps(dict(result, model=number)), flush=True)
    print(json.dumps({"end": len(job["models"])}), flush=True)


if __name__ == "__main__":
    del sys.path[0]  # the folder of this file, whose neighbours may be called what the runtimes are called
    main(sys.argv[1])
