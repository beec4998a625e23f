import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.formats.base import FORMATS, format_of, read_metadata
from fbnet_mobile.formats.tflite import write as tflite
from fbnet_mobile.formats.verify import export

from .each import EACH
from .networks import EveryOperation, EveryOtherOperation, calibrated, mobile_network

SUFFIXES = {entry.name: entry.suffix for entry in FORMATS.values()}


@pytest.mark.parametrize("name", EACH)
def test_a_mobile_network_gives_what_pytorch_gives_and_keeps_its_metadata(name: str, tmp_path: Path) -> None:
    network, path = mobile_network(), tmp_path / f"m{SUFFIXES[name]}"
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    metadata = {"classes": json.dumps(["Äpfel", "梨", *"abcdefgh"]), "input": "a\nb"}

    report = export(network, path, format=name, input_shape=(1, 3, 33, 33), metadata=metadata)

    assert report.relative_difference < 1e-4
    assert report.inputs == 4
    assert report.size > 4 * 5000
    assert read_metadata(path) == metadata
    assert network.training
    assert network[4].layers[1].training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())

    images = np.random.default_rng(7).standard_normal((3, 3, 33, 33), np.float32)
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(images)).numpy()
    actual = format_of(path).load(path)(images)
    assert np.abs(expected - expected[0]).max() > 0.1, "the test would prove nothing"
    np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", EACH)
def test_every_operation_gives_what_pytorch_gives(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tolerance = 5e-4 if name == "executorch" else 1e-4  # XNNPACK approximates exponents
    for network in (calibrated(EveryOperation(), 8, 12), EveryOtherOperation()):
        path = tmp_path / f"m{SUFFIXES[name]}"
        assert export(network, path, format=name, input_shape=(1, 8, 12, 12), tolerance=tolerance).size > 0


@pytest.mark.parametrize("name", EACH)
def test_a_feature_map_comes_back_channels_first(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    report = export(nn.Conv2d(3, 5, (3, 1)), tmp_path / f"m{SUFFIXES[name]}", format=name, input_shape=(1, 3, 6, 7))
    assert format_of(report.path).load(report.path)(np.ones((2, 3, 6, 7), np.float32)).shape == (
        2,
        5,
        4,
        7,
    )


def test_right_answers_are_counted(tmp_path: Path) -> None:
    network, images = mobile_network(), np.random.default_rng(7).standard_normal((10, 3, 33, 33), np.float32)
    with torch.no_grad():
        labels = network(torch.from_numpy(images)).argmax(1).numpy()
    labels[:3] = (labels[:3] + 1) % 10
    path, shape = tmp_path / "m.tflite", (1, 3, 33, 33)
    report = export(network, path, format="tflite", input_shape=shape, inputs=images, labels=labels)
    assert (report.agreement, report.accuracy, report.pytorch_accuracy) == (1, 0.7, 0.7)


@pytest.mark.parametrize("name", ["tflite", "onnx"])
def test_torchvision_mobilenet_v3_small(name: str, tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    network = calibrated(models.mobilenet_v3_small(weights=None), 3, 64)
    path = tmp_path / f"m{SUFFIXES[name]}"
    assert export(network, path, format=name, input_shape=(1, 3, 64, 64), tolerance=1e-4).size > 8e6


@pytest.mark.parametrize("name", ["mobilenetv3_large_100", "efficientnet_b0", "tf_efficientnet_b0"])
def test_timm_networks(name: str, tmp_path: Path) -> None:
    network = pytest.importorskip("timm").create_model(name, pretrained=False)
    calibrated(network, 3, 63)
    export(network, tmp_path / "m.tflite", format="tflite", input_shape=(1, 3, 63, 63), tolerance=1e-4)


def test_a_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.tflite"
    export(nn.Conv2d(3, 4, 1), path, format="tflite", input_shape=(1, 3, 2, 2))
    before = path.read_bytes()
    monkeypatch.setitem(tflite._RULES, "hard_swish", tflite._RULES["silu"])
    with pytest.raises(JobError, match=r"differ from PyTorch's by \S+ of the largest"):
        export(mobile_network(), path, format="tflite", input_shape=(1, 3, 33, 33))
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.tflite"]
    assert path.read_bytes() == before


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(JobError, match=r"^cannot write \S+/m\.tflite: no space left on device; free some space"):
        export(nn.Conv2d(3, 4, 1), tmp_path / "m.tflite", format="tflite", input_shape=(1, 3, 2, 2))
    assert not list(tmp_path.iterdir())


def test_a_network_without_finite_results_is_not_exported(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 2))
    network[2].bias.data[0] = float("nan")
    with pytest.raises(UserError, match="cannot export '2': its bias holds numbers that are not finite"):
        export(network, tmp_path / "m.onnx", format="onnx", input_shape=(1, 3, 2, 2))
    network[2].bias.data[0] = 1
    inputs = np.full((1, 3, 2, 2), np.inf, np.float32)
    with pytest.raises(JobError, match="gives numbers that are not finite"):
        export(network, tmp_path / "m.onnx", format="onnx", input_shape=(1, 3, 2, 2), inputs=inputs)
    assert not list(tmp_path.iterdir())


def test_wrong_requests(tmp_path: Path) -> None:
    network = nn.Conv2d(3, 4, 1)
    with pytest.raises(UserError, match="tflite, onnx, coreml"):
        export(network, tmp_path / "m.tflite", format="tf", input_shape=(1, 3, 2, 2))
    with pytest.raises(UserError, match=r"does not end in \.mlpackage"):
        export(network, tmp_path / "m.tflite", format="coreml", input_shape=(1, 3, 2, 2))
    images = np.zeros((2, 3, 4, 4), np.float32)
    with pytest.raises(UserError, match="inputs to compare on"):
        export(network, tmp_path / "m.tflite", format="tflite", input_shape=(1, 3, 2, 2), inputs=images)
    assert not list(tmp_path.iterdir())
