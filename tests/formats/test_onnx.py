import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.base import format_of, write
from fbnet_mobile.formats.verify import export
from fbnet_mobile.graph.trace import trace

from .networks import EveryOperation, EveryOtherOperation, calibrated, mobile_network


def head() -> nn.Module:
    """A mean without the axes it was over, which opsets state in two ways."""

    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 8, 3), Mean(), nn.Linear(8, 4))


@pytest.mark.parametrize(("opset", "ir"), [(None, 8), (14, 7), (17, 8), (18, 8), (21, 10)])
def test_an_opset_gives_the_same_results_in_a_file_that_its_time_reads(
    opset: int | None, ir: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    options = {} if opset is None else {"opset": opset}
    path = tmp_path / "m.onnx"
    for network in (calibrated(EveryOperation(), 8, 12), EveryOtherOperation(), head()):
        export(network, path, format="onnx", input_shape=(1, 8, 12, 12), options=options, tolerance=1e-4)
        model = onnx.load(path)
        assert ([entry.version for entry in model.opset_import], model.ir_version) == ([opset or 17], ir)


@pytest.mark.parametrize("opset", [17, 18])
def test_a_dynamic_batch_takes_any_number_of_images_at_a_time(opset: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    networks = [(mobile_network(), (1, 3, 33, 33)), (calibrated(EveryOperation(), 8, 12), (1, 8, 12, 12))]
    path, options = tmp_path / "m.onnx", {"opset": opset, "dynamic_batch": True}
    for network, shape in networks:
        export(network, path, format="onnx", input_shape=shape, options=options, tolerance=1e-4)
        session = format_of(path).load(path)
        assert session.input_shape == (0, *shape[1:])
        images = np.random.default_rng(1).standard_normal((5, *shape[1:]), np.float32)
        with torch.no_grad():
            expected = network(torch.from_numpy(images)).numpy()
        together, alone = session(images), np.concatenate([session(image[None]) for image in images])
        np.testing.assert_allclose(together, expected, atol=1e-4 * np.abs(expected).max())
        np.testing.assert_allclose(alone, expected, atol=1e-4 * np.abs(expected).max())


def test_what_cannot_be_is_one_line(tmp_path: Path) -> None:
    network, shape = calibrated(EveryOperation(), 8, 12), (1, 8, 12, 12)
    for options, message in (
        ({"opset": 13}, "cannot write opset 13; choose one from 14 to "),
        ({"opset": 1000}, "cannot write opset 1000; choose one from 14 to "),
    ):
        with pytest.raises(UserError, match=message):
            export(network, tmp_path / "m.onnx", format="onnx", input_shape=shape, options=options)
    options = {"dynamic_batch": True}
    for name, suffix in (("tflite", "tflite"), ("coreml", "mlpackage")):
        with pytest.raises(UserError, match=f"{name} has no dynamic batch; only onnx has it"):
            export(network, tmp_path / f"m.{suffix}", format=name, input_shape=shape, options=options)
    assert not list(tmp_path.iterdir())


def test_onnx_runtime_knows_the_gelu(tmp_path: Path) -> None:
    path, optimised = tmp_path / "m.onnx", tmp_path / "optimised.onnx"
    write(trace(nn.GELU(), (1, 8, 4, 4)), path, "onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 4, str(optimised)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    assert [node.op_type for node in onnx.load(optimised).graph.node] == ["Gelu"]


EMULATED = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
results = [session.run(None, {"input": image[None]})[0] for image in numpy.load(sys.argv[2])]
numpy.save(sys.argv[3], numpy.concatenate(results))
"""


@pytest.mark.skipif(
    shutil.which("qemu-x86_64") is None or platform.machine() != "x86_64", reason="no QEMU of this machine's kind"
)
def test_int8_does_not_saturate_on_a_processor_without_vnni(tmp_path: Path) -> None:
    """Whose sums of two products in 16 bits bright images and weights of one sign are too much for."""
    layers = [
        nn.Conv2d(3, 8, 3, 2),
        nn.Conv2d(8, 16, 1),
        nn.Conv2d(16, 16, 3, groups=16),
        nn.Conv2d(16, 32, 2, groups=2),
    ]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)).eval()
    generator = torch.Generator().manual_seed(0)
    for weights in network.parameters():
        weights.data.uniform_(0.9, 1.0, generator=generator).mul_(1 / weights[0].numel() if weights.ndim > 1 else 0)
    images = 1 - 0.2 * torch.rand(8, 3, 12, 12, generator=generator)
    path = tmp_path / "m.onnx"
    write(trace(network, (1, 3, 12, 12)), path, "onnx", precision="int8", calibration=images.numpy())
    np.save(tmp_path / "images.npy", images.numpy())
    processor = ["qemu-x86_64", "-cpu", "Haswell"]
    files = [str(each) for each in (path, tmp_path / "images.npy", tmp_path / "results.npy")]
    subprocess.run([*processor, sys.executable, "-c", EMULATED, *files], check=True, stderr=subprocess.PIPE)
    with torch.no_grad():
        expected = network(images).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "results.npy"), expected, rtol=0.02)
