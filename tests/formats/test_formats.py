import subprocess
import sys
from pathlib import Path

import pytest

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.base import FORMATS, get_format, read_metadata
from fbnet_mobile.graph.operations import Graph


def test_an_unknown_format_or_suffix_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tflite, onnx, coreml"):
        get_format("caffe")
    with pytest.raises(UserError, match=r"\.tflite \(tflite\), \.onnx \(onnx\), \.mlpackage \(coreml\)"):
        read_metadata(tmp_path / "m.pt")


@pytest.mark.parametrize("suffix", [entry.suffix for entry in FORMATS.values()])
def test_metadata_of_a_missing_or_damaged_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{suffix}"
    with pytest.raises(UserError, match="there is no model at"):
        read_metadata(path)
    path.write_bytes(b"\x00\x01 this is no model")
    with pytest.raises(UserError, match="is no "):
        read_metadata(path)


def test_a_missing_package_is_named_with_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "fbnet_mobile.formats.onnx.write", raising=False)
    with pytest.raises(UserError, match=r"pip install 'fbnet-mobile\[onnx\]'"):
        get_format("onnx").write(Graph({"input": (1, 1, 1, 1)}, (), {"output": "input"}), Path("m.onnx"), {})


def output_of(code: str) -> tuple[str, str]:
    """What a Python program prints that uses this tree."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return result.stdout, result.stderr


def test_importing_is_cheap_and_silent() -> None:
    code = (
        "import sys, fbnet_mobile.formats.base\n"
        "heavy = {'numpy', 'torch', 'coremltools', 'onnx', 'ai_edge_litert', 'litert_converter'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    assert output_of(code) == ("", "")


def test_the_emitters_libraries_are_kept_silent() -> None:
    parts = [
        f"fbnet_mobile.formats.{name}.{part}"
        for name in ("tflite", "onnx", "coreml")
        for part in ("write", "precision")
    ]
    parts.append("fbnet_mobile.formats.executorch.write")
    code = "\n".join(f"import {part}" for part in parts)
    assert output_of(code) == ("", "")
