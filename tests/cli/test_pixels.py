"""A file that takes pixels, from the checkpoint to its accuracy."""

from pathlib import Path
from typing import Any

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

    results: list[dict[str, Any]] = [{"model": str(path)}, {"model": str(checkpoint)}]
    benchmark._accuracy(results, "digits", None, 0, 100, 1)
    file_accuracy, own = (result["accuracy"] for result in results)
    assert file_accuracy == pytest.approx(own, abs=0.05 if "int8" in name else 0)
