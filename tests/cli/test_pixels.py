"""A file that takes pixels, from the checkpoint to its accuracy."""

import re
from pathlib import Path

import pytest

from fbnet_mobile.cli import benchmark, export
from fbnet_mobile.formats.base import read_metadata


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

    monkeypatch.setattr(
        "sys.argv", ["fbnet-benchmark", str(path), str(checkpoint), "--data", "digits", "--images", "100"]
    )
    monkeypatch.setattr("fbnet_mobile.api.benchmark._measured", lambda models, device: list(models))  # not timed
    with pytest.raises(SystemExit) as ended:
        benchmark.main()
    assert not ended.value.code
    file_accuracy, own = (float(text) / 100 for text in re.findall(r"accuracy (\S+)%", capsys.readouterr().out))
    assert file_accuracy == pytest.approx(own, abs=0.05 if "int8" in name else 0)
