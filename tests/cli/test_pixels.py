"""A file that takes pixels, from the checkpoint to its accuracy."""

from pathlib import Path
from typing import Any

import pytest
import torch
from calibrated import calibrated

from fbnet_mobile.arch import Architecture
from fbnet_mobile.cli import benchmark, export
from fbnet_mobile.export.formats import read_metadata
from fbnet_mobile.nn import build
from fbnet_mobile.train.checkpoint import Checkpoint, save_checkpoint
from fbnet_mobile.train.data import load_data

NETWORK = """
name: tiny
resolution: 16
blocks:
  - {kind: conv, out_channels: 8, stride: 2}
  - {kind: head, out_channels: 10, conv_channels: 16}
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = load_data("digits", resolution=16)
    architecture = Architecture.from_yaml(NETWORK)
    torch.manual_seed(0)
    module = calibrated(build(architecture), 3, 16)
    path = tmp_path_factory.mktemp("run") / "best.pt"
    made = Checkpoint(
        architecture=architecture.to_yaml(),
        state_dict=module.state_dict(),
        classes=data.classes,
        mean=(0.3, 0.5, 0.7),  # not those of the images: the file's count
        std=(0.2, 0.3, 0.4),
        resolution=16,
        val_accuracy=0.0,
        test_accuracy=0.0,
        recipe={},
    )
    save_checkpoint(path, made)
    return path


@pytest.mark.parametrize(
    "name", ["m.tflite", "m.onnx", "m.onnx --dynamic-batch", "m.mlpackage", "m.tflite --precision int8"]
)
def test_its_accuracy_is_that_of_the_checkpoint(
    name: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, *more = name.split()
    path = tmp_path / file
    words = ["--checkpoint", str(checkpoint), "--input", "uint8", "--data", "digits", "-o", str(path), *more]
    monkeypatch.setattr("sys.argv", ["fbnet-export", *words])
    with pytest.raises(SystemExit) as ended:
        export.main()
    assert not ended.value.code
    assert "on 179 test images" in capsys.readouterr().out
    assert read_metadata(path)["input"] == "uint8"

    results: list[dict[str, Any]] = [{"model": str(path)}, {"model": str(checkpoint)}]
    benchmark._accuracy(results, "digits", None, 0, 100, 1)
    file_accuracy, own = (result["accuracy"] for result in results)
    assert file_accuracy == pytest.approx(own, abs=0.05 if "int8" in name else 0)
