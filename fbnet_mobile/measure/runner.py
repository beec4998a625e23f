"""Times model files where they will run. Self-contained: it is copied to devices and run by their own Python.

    python runner.py JOB.json

The job: {"runtime": "litert" | "onnxruntime" | "coreml", "threads": 1, "warmup_ms": 2, "min_ms": 8, "min_runs": 5,
"max_runs": 2000, "pause_s": 0, "model_limit_s": 120, "models": [path, ...]}, and for Core ML "compute_units",
"attached" (the name of a device attached to this Mac, or "") and "signing" (by which coremltools' app runs on it);
for a runtime that this file does not know, "loader": the path of a Python file with version() -> str and load(path,
threads), which returns the function to be timed.
Each line of the output is one JSON object: first {"runtime_version": ...};
for each model in order {"model": number, "runs": n, "load_us": ..., "min_us": ..., "p10_us": ..., "median_us": ...,
"p90_us": ..., "mean_us": ...} or {"model": number, "error": text}; at the very end {"end": number of models}, by which
a caller knows that nothing was lost. Only the inference call is timed; the input is filled once, with random numbers.
A model that takes longer than its limit ends the whole program by SIGALRM, from which even one that hangs in native
code cannot hide.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import Any


def percentile(ordered: list[int], share: float) -> float:
    """Linear interpolation between the two nearest ranks, as numpy does."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def litert(job: dict[str, Any]) -> Any:
    """The runtime's version, and a function from a model file to (nanoseconds of loading, of each run)."""
    import numpy as np

    try:
        import ai_edge_litert as package
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tflite_runtime as package
        from tflite_runtime.interpreter import Interpreter

    def load(path: str) -> Any:
        interpreter = Interpreter(model_path=path, num_threads=job["threads"])
        interpreter.allocate_tensors()
        rng = np.random.RandomState(0)
        for item in interpreter.get_input_details():
            interpreter.set_tensor(item["index"], random_input(rng, item["shape"], item["dtype"]))
        return interpreter.invoke

    return package.__version__, lambda path: timed(load, path, job)


def onnxruntime(job: dict[str, Any]) -> Any:
    """The runtime's version, and a function from a model file to (nanoseconds of loading, of each run)."""
    import numpy as np
    import onnxruntime as package

    types = {
        "tensor(float)": np.float32,
        "tensor(float16)": np.float16,
        "tensor(uint8)": np.uint8,
        "tensor(int8)": np.int8,
    }

    def load(path: str) -> Any:
        options = package.SessionOptions()
        options.intra_op_num_threads = job["threads"]
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

    return package.__version__, lambda path: timed(load, path, job)


def random_input(rng: Any, shape: Any, dtype: Any) -> Any:
    """Standard normal numbers, or bytes for an integer input."""
    import numpy as np

    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        return rng.randint(limits.min, limits.max + 1, size=shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def timed(load: Any, path: str, job: dict[str, Any]) -> Any:
    """Load, warm up and time one model: (nanoseconds of loading, of each run)."""
    clock = time.perf_counter_ns
    start = clock()
    run = load(path)
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
    return loaded - start, samples


def coreml(job: dict[str, Any]) -> Any:
    """As the others, by coremltools' MLModelBenchmarker, on this Mac or a device attached to it."""
    import asyncio

    import coremltools
    from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker

    units = coremltools.ComputeUnit[job["compute_units"]]
    device = attached_device(job["attached"], job["signing"]) if job["attached"] else None

    def time_runs(path: str) -> Any:
        model = coremltools.models.MLModel(path, compute_units=units, skip_model_load=device is not None)
        benchmarker = MLModelBenchmarker(model, device)

        async def measure() -> Any:
            loading = await benchmarker.benchmark_load(iterations=1)
            first = await benchmarker.benchmark_predict(iterations=job["min_runs"], warmup=True)
            wanted = int(job["min_ms"] / max(min(first.samples), 1e-3)) + 1
            runs = min(max(wanted, job["min_runs"]), job["max_runs"])
            return loading, await benchmarker.benchmark_predict(iterations=runs, warmup=True)

        loading, runs = asyncio.run(measure())
        return loading.samples[0] * 1e6, [sample * 1e6 for sample in runs.samples]

    return "coremltools %s %s" % (coremltools.__version__, job["compute_units"]), time_runs


def attached_device(name: str, signing: dict[str, str]) -> Any:
    """The attached iPhone or iPad of that name, with coremltools' app on it; the error lists those that are there."""
    import asyncio

    from coremltools.models.ml_program.experimental.remote_device import AppSigningCredentials, Device, DeviceType

    devices = [device for kind in (DeviceType.IPHONE, DeviceType.IPAD) for device in Device.get_connected_devices(kind)]
    for device in devices:
        if device.name == name:
            return asyncio.run(device.prepare_for_model_debugging(AppSigningCredentials(**signing)))
    sys.exit("no device %r is attached; attached: %s" % (name, ", ".join(device.name for device in devices) or "none"))


def loaded(job: dict[str, Any]) -> Any:
    """As the others, by a format's own loader: a Python file with version() and load(path, threads)."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("loader", job["loader"])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def load(path: str) -> Any:
        return module.load(path, job["threads"])

    return module.version(), lambda path: timed(load, path, job)


RUNTIMES = {"litert": litert, "onnxruntime": onnxruntime, "coreml": coreml}


def summary(load_ns: float, samples: list[Any]) -> dict[str, Any]:
    """Statistics of one model's runs."""
    ordered = sorted(samples)
    return {
        "runs": len(ordered),
        "load_us": load_ns / 1e3,
        "min_us": ordered[0] / 1e3,
        "p10_us": percentile(ordered, 0.1) / 1e3,
        "median_us": percentile(ordered, 0.5) / 1e3,
        "p90_us": percentile(ordered, 0.9) / 1e3,
        "mean_us": sum(ordered) / len(ordered) / 1e3,
    }


def main(path: str) -> None:
    """Run a job file."""
    with open(path) as file:
        job = json.load(file)
    version, time_runs = loaded(job) if job.get("loader") else RUNTIMES[job["runtime"]](job)
    print(json.dumps({"runtime_version": version}), flush=True)
    for number, model in enumerate(job["models"]):
        if number:
            time.sleep(job["pause_s"])
        signal.setitimer(signal.ITIMER_REAL, job["model_limit_s"])
        try:
            result = summary(*time_runs(model))
        except Exception as error:
            result = {"error": "%s: %s" % (type(error).__name__, " ".join(str(error).split()))}
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(dict(result, model=number)), flush=True)
    print(json.dumps({"end": len(job["models"])}), flush=True)


if __name__ == "__main__":
    del sys.path[0]  # the folder of this file, whose neighbours may be called what the runtimes are called
    main(sys.argv[1])
