"""An aarch64 Debian under qemu-user, with the cores of a Raspberry Pi 4, reached by ssh and by adb.

What it computes is compared with this machine; what it takes says nothing of any real board.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fbnet_mobile.blocks.inverted_residual import InvertedResidual
from fbnet_mobile.devices import AdbDevice, DeviceSettings, SshDevice
from fbnet_mobile.devices.remote import RemoteDevice
from fbnet_mobile.formats.base import format_of_runtime, write
from fbnet_mobile.graph.trace import trace
from fbnet_mobile.measure.jobs import run_models, runtime_version
from fbnet_mobile.measure.plan import MeasuringPlan
from tests.devices import lab
from tests.devices.lab import Sshd

pytestmark = pytest.mark.devices

ENVIRONMENT = {"PYTHONPATH": "/opt/site", "QEMU_CPU": "cortex-a72", "OMP_NUM_THREADS": "1"}
LIMITS = {"model_limit_s": 300, "folder": "/data/local/tmp"}

INFER = """
import sys
import numpy as np
model, images, results = sys.argv[1:]
x = np.load(images)
if model.endswith(".onnx"):
    import onnxruntime
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    y = session.run(None, {session.get_inputs()[0].name: x})[0]
else:
    from ai_edge_litert.interpreter import Interpreter
    session = Interpreter(model_path=model)
    session.allocate_tensors()
    session.set_tensor(session.get_input_details()[0]["index"], x.transpose(0, 2, 3, 1))
    session.invoke()
    y = session.get_tensor(session.get_output_details()[0]["index"]).transpose(0, 3, 1, 2)
np.save(results, y)
"""


@pytest.fixture(scope="module", params=["ssh", "adb"])
def board(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteDevice]:
    root = lab.CACHE / "arm"
    device: RemoteDevice
    if request.param == "ssh":
        folder = root / "opt" / "ssh"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        # sshd sets the environment of what it runs; qemu itself needs to be told before that.
        os.environ["QEMU_CPU"] = ENVIRONMENT["QEMU_CPU"]
        daemon = Sshd(folder, root, " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items()))
        path = os.environ["PATH"]
        os.environ["PATH"] = f"{daemon.path}{os.pathsep}{path}"
        device = SshDevice(daemon.name)
        device.settings = DeviceSettings.model_validate(LIMITS)
        with device:
            yield device
        os.environ["PATH"] = path
        daemon.stop()
    else:
        with lab.adb_server(tmp_path_factory.mktemp("adb")):
            phone = lab.Adbd(5603, root, {"PATH": "/usr/bin:/bin", **ENVIRONMENT})
            device = AdbDevice(f"adb:{phone.serial}")
            device.settings = DeviceSettings.model_validate(LIMITS)
            with device:
                yield device
            phone.stop()


@pytest.mark.parametrize("runtime", ["litert", "onnxruntime"])
def test_an_arm_board_runs_and_measures_what_this_machine_does(
    board: RemoteDevice, runtime: str, tmp_path: Path
) -> None:
    assert board.facts().operating_system.endswith("aarch64")
    assert runtime_version(board, runtime) == format_of_runtime(runtime).runtime.version()

    torch.manual_seed(0)
    block = InvertedResidual(
        in_channels=8, resolution=14, out_channels=12, expanded_channels=24, se_channels=8, activation="hswish"
    )
    model = tmp_path / f"block{format_of_runtime(runtime).suffix}"
    write(trace(block.build().eval(), (1, 8, 14, 14)), model, format_of_runtime(runtime).name)
    images = np.random.default_rng(0).standard_normal((1, 8, 14, 14)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "infer.py").write_text(INFER)
    script, remote, remote_images = board.push([tmp_path / "infer.py", model, tmp_path / "images.npy"])
    list(board.run([board.python, script, remote, remote_images, f"{remote}.npy"]))
    board.pull(f"{remote}.npy", tmp_path / "results.npy")
    expected = format_of_runtime(runtime).load(model)(images)
    np.testing.assert_allclose(np.load(tmp_path / "results.npy"), expected, atol=1e-5 * np.abs(expected).max())

    ((_, sample),) = run_models(board, runtime, 1, [model], MeasuringPlan(warmup_ms=0, min_ms=0))
    assert sample.runs == 5
    assert 0 < sample.min_us <= sample.median_us
