"""The runner as a program of its own, and Core ML's part of it against a benchmarker that is not Apple's."""

import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from fbnet_mobile.measure import runner

JOB = {
    "threads": 1,
    "warmup_ms": 0,
    "min_ms": 10,
    "min_runs": 5,
    "max_runs": 50,
    "pause_s": 0,
    "model_limit_s": 60,
    "compute_units": "CPU_AND_NE",
    "attached": "",
    "signing": {},
}


def run(folder: Path, job: dict[str, object], **environment: str) -> "subprocess.CompletedProcess[str]":
    (folder / "job.json").write_text(json.dumps({**JOB, **job}))
    with resources.as_file(resources.files("fbnet_mobile.measure") / "runner.py") as script:
        command = [sys.executable, str(script), str(folder / "job.json")]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_percentiles_are_numpy_s() -> None:
    ordered = sorted(np.random.default_rng(0).integers(0, 1000, 37).tolist())
    for share in (0, 0.1, 0.5, 0.9, 1):
        assert runner.percentile(ordered, share) == pytest.approx(np.percentile(ordered, 100 * share))


COREMLTOOLS = {
    "__init__.py": """
import enum
from coremltools import models
__version__ = "9.0"
ComputeUnit = enum.Enum("ComputeUnit", "ALL CPU_ONLY CPU_AND_GPU CPU_AND_NE")
""",
    "models/__init__.py": """
from types import SimpleNamespace
def MLModel(path, compute_units, skip_model_load):
    return SimpleNamespace(path=path, units=compute_units, skipped=skip_model_load)
""",
    "models/ml_program/experimental/perf_utils.py": """
from types import SimpleNamespace
class MLModelBenchmarker:
    def __init__(self, model, device=None):
        assert model.units.name == "CPU_AND_NE"
        assert model.skipped == (device is not None)
        self.model, self.device = model, device
    async def benchmark_load(self, iterations=1):
        return SimpleNamespace(samples=[30.0] * iterations)
    async def benchmark_predict(self, inputs=None, iterations=1, warmup=False):
        assert warmup
        if "bad" in self.model.path: raise RuntimeError("cannot compile\\nthe model")
        step = 1.0 if self.device is None else 2.0
        return SimpleNamespace(samples=[step + number for number in range(iterations)])
""",
    "models/ml_program/experimental/remote_device.py": """
import enum
DeviceType = enum.Enum("DeviceType", "IPHONE IPAD")
class AppSigningCredentials:
    def __init__(self, development_team="", provisioning_profile_uuid=None, bundle_identifier=None):
        assert development_team == "TEAM"
class Device:
    def __init__(self, name): self.name = name
    @staticmethod
    def get_connected_devices(kind): return [Device("Ada's iPhone")] if kind is DeviceType.IPHONE else []
    async def prepare_for_model_debugging(self, credentials): return self
""",
}


def test_core_ml_is_timed_by_coremltools_benchmarker(tmp_path: Path) -> None:
    """A stand-in of the same signatures: what is tested is what we ask of it, and what we make of its answers."""
    for name, text in COREMLTOOLS.items():
        path = tmp_path / "coremltools" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    job: dict[str, object] = {"runtime": "coreml", "models": ["good.mlpackage", "bad.mlpackage"]}
    lines = [json.loads(line) for line in run(tmp_path, job, PYTHONPATH=str(tmp_path)).stdout.splitlines()]
    assert lines[0] == {"runtime_version": "coremltools 9.0 CPU_AND_NE"}
    assert (lines[1]["runs"], lines[1]["load_us"], lines[1]["min_us"]) == (11, 30e3, 1e3)
    assert lines[1]["median_us"] == 6e3
    assert lines[2] == {"error": "RuntimeError: cannot compile the model", "model": 1}

    signing = {"development_team": "TEAM", "provisioning_profile_uuid": "P", "bundle_identifier": "B"}
    job = {**job, "attached": "Ada's iPhone", "signing": signing}
    lines = [json.loads(line) for line in run(tmp_path, job, PYTHONPATH=str(tmp_path)).stdout.splitlines()]
    assert lines[1]["min_us"] == 2e3
    ended = run(tmp_path, {**job, "attached": "Bob's"}, PYTHONPATH=str(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr.strip() == "no device \"Bob's\" is attached; attached: Ada's iPhone"


def test_a_model_that_hangs_ends_the_runner_by_a_signal(tmp_path: Path) -> None:
    for name, text in COREMLTOOLS.items():
        path = tmp_path / "coremltools" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("step = 1.0", "import time; time.sleep(100); step = 1.0"))
    job: dict[str, object] = {"runtime": "coreml", "models": ["good.mlpackage"], "model_limit_s": 0.2}
    assert run(tmp_path, job, PYTHONPATH=str(tmp_path)).returncode == -14
