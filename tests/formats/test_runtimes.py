import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.formats.base import all_runtimes, format_of, get_format, get_runtime, write
from fbnet_mobile.formats.coreml import run as coreml
from fbnet_mobile.graph.trace import trace

from .each import TOGETHER, each

WAYS = [each(entry.name, name) for entry in all_runtimes().values() for name in entry.formats]
"""Every runtime with each format that it runs."""


@pytest.mark.parametrize(("name", "file_format"), WAYS)
def test_a_runtime_knows_itself_and_checks_its_inputs(name: str, file_format: str, tmp_path: Path) -> None:
    entry = get_format(file_format).run_by(name)
    assert entry.runtime.name == name
    assert entry.runtime.version()[0].isdigit()
    torch.manual_seed(0)
    layer = nn.Linear(2, 3)
    path = tmp_path / f"m{entry.suffix}"
    write(trace(nn.Sequential(nn.Flatten(), layer), (1, 2, 1, 1)), path, file_format)

    assert format_of(path).run_by(name) == entry
    session = entry.load(path, threads=2)
    images = np.array([[1, 2], [3, 4], [5, 6]], np.float32).reshape(3, 2, 1, 1)
    expected = images[:, :, 0, 0] @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()

    assert session.input_shape == (1, 2, 1, 1)
    np.testing.assert_allclose(session(images), expected, rtol=1e-5)
    with pytest.raises(UserError, match=r"takes images of shape \(1, 2, 1, 1\), not \(3, 1, 2, 1\)"):
        session(images.reshape(3, 1, 2, 1))


@pytest.mark.parametrize(("name", "file_format"), WAYS)
def test_a_missing_or_damaged_file(name: str, file_format: str, tmp_path: Path) -> None:
    runtime = get_runtime(name)
    path = tmp_path / f"m{get_format(file_format).suffix}"
    with pytest.raises(UserError, match="there is no model at"):
        runtime.load(path)
    path.write_bytes(b"no model at all, but bytes enough for a header")
    with pytest.raises(UserError, match=r"cannot load .*; export the model again") as error:
        runtime.load(path)
    assert "\n" not in str(error.value)


def test_the_layout_of_another_tools_file_is_told_by_its_shape(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    write(trace(nn.Conv2d(7, 2, 1), (1, 7, 3, 5)), path, "tflite")
    assert format_of(path).load(path).input_shape == (1, 7, 3, 5)
    # litert-torch keeps PyTorch's axes, and writes the names of modules, ours among them, into its files.
    path.write_bytes(path.read_bytes().replace(b"input", b"args0"))
    assert format_of(path).load(path).input_shape == (1, 3, 5, 7)


def test_unknown_names_list_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="litert, onnxruntime, coreml, executorch, openvino"):
        get_runtime("tvm")
    with pytest.raises(UserError, match="openvino runs no files of the format coreml; it runs onnx, tflite"):
        get_format("coreml").run_by("openvino")
    with pytest.raises(UserError, match=r"\.tflite \(tflite\), \.onnx \(onnx\), \.mlpackage"):
        format_of(tmp_path / "m.pt")


def test_running_a_model_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    graph = trace(nn.Conv2d(2, 3, 1), (1, 2, 4, 4))
    for entry in TOGETHER:
        write(graph, tmp_path / f"m{entry.suffix}", entry.name)
        path = tmp_path / f"m{entry.suffix}"
        for runtime in all_runtimes().values():
            if entry.name in runtime.formats:
                assert runtime.load(path)(np.ones((1, 2, 4, 4), np.float32)).shape == (1, 3, 4, 4)
    assert capfd.readouterr() == ("", "")


SIGNALLED = """
import os, signal, sys
from pathlib import Path
from fbnet_mobile.formats.base import get_runtime

path = Path(sys.argv[2])
for _ in range(3):
    first, second = (get_runtime(sys.argv[1]).load(path) for _ in range(2))
    del first, second
signal.signal(signal.SIGINT, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize(("name", "file_format"), WAYS)
def test_a_signal_is_heard_after_models_were_given_up(name: str, file_format: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{get_format(file_format).suffix}"
    write(trace(nn.Conv2d(2, 3, 1), (1, 2, 4, 4)), path, file_format)
    done = subprocess.run([sys.executable, "-c", SIGNALLED, name, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML itself runs there")
def test_a_package_is_read_from_its_files_and_unknown_operations_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.mlpackage"
    torch.manual_seed(0)
    write(trace(nn.Conv2d(3, 8, 5, bias=False), (1, 3, 8, 8)), path, "coreml")
    images = np.ones((1, 3, 8, 8), np.float32)
    before = coreml.load(path)(images)

    weights = path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    content = bytearray(weights.read_bytes())
    content[-4 * 100 :] = np.zeros(100, np.float32).tobytes()
    weights.write_bytes(content)
    assert np.abs(coreml.load(path)(images) - before).max() > 1e-3

    monkeypatch.delitem(coreml._WITHOUT_INFERENCE, "conv")
    with pytest.raises(JobError, match="the operation conv on this system"):
        coreml.load(path)(images)


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML itself runs there")
def test_numbers_that_are_none_are_computed_with_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "m.mlpackage"
    layer = nn.Linear(64, 32)
    write(trace(layer, (1, 64)), path, "coreml")
    weights = path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    content = weights.read_bytes()
    start = content.index(layer.weight.detach().numpy().tobytes())
    infinite = np.tile(np.float32([np.inf, -np.inf]), 32).tobytes()
    weights.write_bytes(content[:start] + infinite + content[start + len(infinite) :])
    with warnings.catch_warnings():  # numpy's word on it would stand among a command's own
        warnings.simplefilter("error")
        assert np.isnan(coreml.load(path)(np.ones((1, 64), np.float32))).any()
