"""What a file is told to be opened by, what it gives, and what it says of itself for apps."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import fbnet_mobile as fm
from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.base import format_of, read_metadata
from fbnet_mobile.formats.metadata import ModelMetadata
from fbnet_mobile.formats.tflite.standard import STANDARD


def said(path: Path) -> ModelMetadata:
    found = ModelMetadata.from_strings(read_metadata(path))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("client", "suffix", "takes"),
    [
        ("mediapipe", "tflite", "uint8"),
        ("ml-kit", "tflite", "uint8"),
        ("tflm", "tflite", "float32"),
        ("openvino", "onnx", "float32"),
        ("mnn", "tflite", "float32"),
        ("ort-web", "onnx", "float32"),
    ],
)
def test_a_client_picks_the_options(client: str, suffix: str, takes: str, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / f"m.{suffix}"
    fm.export(checkpoint=checkpoint, output=path, client=client)
    assert (said(path).input, said(path).scores) == (takes, "probabilities")


@pytest.mark.parametrize(
    ("client", "suffix", "more", "message"),
    [
        ("mediapipe", "onnx", {}, "MediaPipe's ImageClassifier does not open files with format onnx; give tflite"),
        ("mediapipe", "tflite", {"input": "float32"}, "input float32: it normalises all channels by the same numbers"),
        ("ml-kit", "tflite", {"scores": "logits"}, "scores logits: it shows what the file gives"),
        (
            "tflm",
            "tflite",
            {"precision": "fp16"},
            "precision fp16: it computes with no 16-bit weights",
        ),
        ("mnn", "tflite", {"precision": "fp16"}, "precision fp16: it fails on it; .* give fp32, or leave out --for"),
        ("tflm", "tflite", {"input": "uint8"}, "input uint8: it casts no pixels to floats; give float32"),
        ("ort-web", "mlpackage", {}, "onnxruntime-web does not open files with format coreml; give onnx"),
    ],
)
def test_what_a_client_does_not_open_is_refused_with_the_reason(
    client: str, suffix: str, more: dict[str, Any], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        fm.export(checkpoint=checkpoint, output=tmp_path / f"m.{suffix}", client=client, **more)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["m.tflite fp32", "m.tflite int8", "m.onnx fp16", "m.onnx int8"])
def test_probabilities_are_the_softmax_of_the_logits(name: str, checkpoint: Path, tmp_path: Path) -> None:
    file, precision = name.split()
    logits, path = tmp_path / f"logits-{file}", tmp_path / file
    common: dict[str, Any] = {"checkpoint": checkpoint, "precision": precision, "data": "digits", "images": 20}
    fm.export(output=logits, scores="logits", **common)
    result = fm.export(output=path, **common)
    assert (said(logits).scores, said(path).scores) == ("logits", "probabilities")
    images = np.random.default_rng(0).standard_normal((20, 3, 16, 16), np.float32)
    expected = format_of(logits).load(logits)(images)
    powers = np.exp(expected - expected.max(1, keepdims=True))
    actual = format_of(path).load(path)(images)
    assert np.abs(actual - powers / powers.sum(1, keepdims=True)).max() < (2e-3 if precision == "fp16" else 1e-5)
    assert result.file.agreement == 1 or precision == "int8"


def test_the_label_file_and_the_standard_metadata_of_tflite(checkpoint: Path, tmp_path: Path) -> None:
    words: dict[str, Any] = {"author": "Ann", "license": "MIT", "description": "Digits.", "model_version": "2"}
    path, again = tmp_path / "m.tflite", tmp_path / "again.tflite"
    for output in (path, again):
        fm.export(checkpoint=checkpoint, output=output, score_threshold=0.25, **words)
    content = path.read_bytes()
    assert content == again.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode().split("\n") == [*"0123456789", ""]
    start = content.index(b"M001")  # the standard metadata's identifier, in their own buffer
    assert STANDARD.encode() in content
    for text in (*words.values(), "labels.txt", "1.0.0"):
        assert text.encode() in content[start:]
    assert np.float32(0.25).tobytes() in content[start:]
    found = said(path)
    assert (found.author, found.license, found.description, found.version) == ("Ann", "MIT", "Digits.", "2")
    assert found.score_threshold == 0.25


def test_the_usual_fields_of_onnx(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    fm.export(checkpoint=checkpoint, output=path, input="uint8", author="Ann", license="MIT", description="Digits.")
    model = onnx.load(path)
    strings = {entry.key: entry.value for entry in model.metadata_props}
    assert model.doc_string == "Digits."
    assert {name: strings[name] for name in ("model_author", "model_license", "task", "imgsz")} == {
        "model_author": "Ann",
        "model_license": "MIT",
        "task": "classify",
        "imgsz": "[16, 16]",
    }
    assert strings["names"] == str({number: str(number) for number in range(10)})
    assert (strings["Image.BitmapPixelFormat"], strings["Image.NominalPixelRange"]) == ("Rgb8", "NominalRange_0_255")
    assert "names" not in read_metadata(path)
