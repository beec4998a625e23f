"""What an export refuses, keeps and says where a network, a path or a file is not what one expects."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.formats.base import get_format, read_metadata, write
from fbnet_mobile.formats.metadata import ModelMetadata
from fbnet_mobile.formats.tflite import write as tflite
from fbnet_mobile.formats.verify import export
from fbnet_mobile.graph.trace import trace

from .each import EACH
from .networks import calibrated, mobile_network

SHAPE = (1, 3, 33, 33)


def images(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *shape), np.float32)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_what_a_conversion_costs_hides_no_wrong_operation(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tflite._RULES, "hard_swish", tflite._RULES["silu"])
    pictures = images(8, 3, 33, 33)
    with pytest.raises(JobError, match=r"^the tflite file in fp32 gives results that differ from PyTorch's by"):
        export(
            mobile_network(),
            tmp_path / "m.tflite",
            format="tflite",
            input_shape=SHAPE,
            precision=precision,
            calibration=pictures,
            tolerance=10,
        )
    assert not list(tmp_path.iterdir())


def regression() -> nn.Module:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1, bias=False)]
    return nn.Sequential(*parts).eval()


def test_one_logit_is_judged_by_its_error(tmp_path: Path) -> None:
    pictures = images(16, 3, 8, 8)
    request: dict[str, Any] = {"format": "tflite", "input_shape": (1, 3, 8, 8), "inputs": pictures}
    labels = np.zeros(16, np.int64)
    for precision in ("fp32", "int8"):
        report = export(
            regression(),
            tmp_path / "m.tflite",
            precision=precision,
            calibration=pictures,
            labels=labels,
            min_agreement=1,
            **request,
        )
        assert (report.agreement, report.accuracy, report.pytorch_accuracy) == (None, None, None)
    # Ranges of images that are a tenth as large cut off most of what is compared.
    with pytest.raises(JobError, match=r"differ from PyTorch's by \S+ of the largest, more than the tolerance 0\.1;"):
        export(regression(), tmp_path / "n.tflite", precision="int8", calibration=pictures / 10, **request)


@pytest.mark.parametrize("name", EACH)
def test_a_network_that_changes_its_input_leaves_the_callers_array_alone(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.Hardswish(inplace=True)).eval()
    pictures = images(3, 3, 8, 8)
    before = pictures.copy()
    path = tmp_path / f"m{get_format(name).suffix}"
    report = export(network, path, format=name, input_shape=(1, 3, 8, 8), inputs=pictures)
    assert report.relative_difference < 1e-5
    np.testing.assert_array_equal(pictures, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_network_of_other_floats_is_compared_as_files_compute_it(dtype: torch.dtype, tmp_path: Path) -> None:
    network = mobile_network().to(dtype)
    report = export(network, tmp_path / "m.onnx", format="onnx", input_shape=SHAPE)
    assert report.relative_difference < 1e-5
    assert next(network.parameters()).dtype == dtype


def test_core_ml_has_the_numbers_of_a_batch_norm_that_no_convolution_absorbs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(*(part for _ in range(5) for part in (nn.BatchNorm2d(8), nn.ReLU())))
    calibrated(network, 8, 6)
    report = export(network, tmp_path / "m.mlpackage", format="coreml", input_shape=(1, 8, 6, 6))
    assert report.relative_difference < 1e-6


@pytest.mark.parametrize("opset", [17, 18, 21])
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_a_resize_of_a_dynamic_batch_in_int8(opset: int, mode: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Upsample(scale_factor=2, mode=mode), nn.Conv2d(8, 4, 1)]
    network, path, pictures = nn.Sequential(*parts).eval(), tmp_path / "m.onnx", images(16, 3, 8, 8)
    options = {"opset": opset, "dynamic_batch": True}
    request: dict[str, Any] = {"format": "onnx", "options": options, "precision": "int8"}
    report = export(network, path, input_shape=(1, 3, 8, 8), inputs=pictures, calibration=pictures, **request)
    assert report.relative_difference < 0.05
    network[2] = nn.Upsample(size=(7, 9), mode=mode)
    message = "needs opset 18" if opset < 18 else r"cannot run int8 the resize 2.resize with a dynamic batch; ask for"
    with pytest.raises(UserError, match=message):
        export(network, path, input_shape=(1, 3, 8, 8), inputs=pictures, calibration=pictures, **request)
    newest = onnx.defs.onnx_opset_version()
    if newest > 27:
        options = {"opset": newest}
        with pytest.raises(UserError, match=rf"cannot run int8 in opset {newest}; ask for an older one, such as 21"):
            export(network, path, input_shape=(1, 3, 8, 8), calibration=pictures, **{**request, "options": options})


@pytest.mark.parametrize("name", EACH)
def test_only_a_file_of_the_format_is_replaced(name: str, tmp_path: Path) -> None:
    suffix, graph = get_format(name).suffix, trace(nn.Conv2d(3, 4, 1), (1, 3, 2, 2))
    folder, text, again = tmp_path / f"folder{suffix}", tmp_path / f"text{suffix}", tmp_path / f"again{suffix}"
    (folder / "Data").mkdir(parents=True)
    (folder / "Manifest.json").write_text("{}")
    text.write_text("what somebody wrote")
    for path in (folder, text):
        with pytest.raises(UserError, match="stands there that is no earlier result; choose another"):
            write(graph, path, name)
        with pytest.raises(UserError, match="stands there that is no earlier result; choose another"):
            export(nn.Conv2d(3, 4, 1), path, format=name, input_shape=(1, 3, 2, 2))
    assert text.read_text() == "what somebody wrote"
    assert sorted(path.name for path in folder.iterdir()) == ["Data", "Manifest.json"]
    for number in ("1", "2"):
        write(graph, again, name, {"number": number})
        assert read_metadata(again) == {"number": number}
    if again.is_dir():
        (again / "notes.txt").write_text("mine")
        with pytest.raises(UserError, match="a folder stands there that is no earlier result"):
            write(graph, again, name)
        assert (again / "notes.txt").read_text() == "mine"


def test_a_message_names_the_path_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def garbage(graph: object, path: Path, metadata: Mapping[str, str]) -> None:
        path.write_bytes(b"no model at all, but bytes enough for a header")

    monkeypatch.setattr(tflite, "write", garbage)
    path = tmp_path / "m.tflite"
    with pytest.raises(UserError, match="LiteRT cannot load") as error:
        export(nn.Conv2d(3, 4, 1), path, format="tflite", input_shape=(1, 3, 2, 2))
    assert f"cannot load {path}: " in str(error.value)
    assert f".{path.name}" not in str(error.value)


def test_class_names_are_as_many_as_logits(tmp_path: Path) -> None:
    request: dict[str, Any] = {"format": "onnx", "input_shape": (1, 3, 2, 2)}
    for classes, message in (
        ('["a", "b", "c"]', "the metadata name 3 classes and the network gives 4 logits"),
        ("[a", "the classes in the metadata are no JSON"),
    ):
        with pytest.raises(UserError, match=message):
            export(nn.Conv2d(3, 4, 1), tmp_path / "m.onnx", metadata={"classes": classes}, **request)
    for classes in ("[]", '["a", "b", "c", "d"]'):
        export(nn.Conv2d(3, 4, 1), tmp_path / "m.onnx", metadata={"classes": classes}, **request)


GOOD = ModelMetadata("", ("a", "b"), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "uint8", "int8")


def test_metadata_are_checked_where_they_are_read() -> None:
    strings = GOOD.to_strings()
    assert ModelMetadata.from_strings(strings) == GOOD
    assert ModelMetadata.from_strings({"classes": "[]"}) is None
    for change, message in (
        ({"classes": "no JSON"}, "m.onnx: classes: Invalid JSON"),
        ({"classes": "3"}, "m.onnx: classes: Input should be a valid"),
        ({"mean": "[NaN]"}, "m.onnx: mean.0: Input should be a finite number"),
        ({"std": "[0.2, 0, 0.4]"}, "m.onnx: cannot normalise pixels by .* std above 0"),
        ({"input": "float16"}, "m.onnx: input: Input should be 'float32', 'uint8' or 'int8'"),
    ):
        with pytest.raises(UserError, match=message) as error:
            ModelMetadata.from_strings({**strings, **change}, "m.onnx")
        assert "\n" not in str(error.value)
    for std in ((0.0,), (float("nan"),), (-1.0,)):
        with pytest.raises(UserError, match="std above 0"):
            ModelMetadata("", (), (0.5,), std)


def test_a_damaged_tflite_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    write(trace(nn.Conv2d(3, 4, 1), (1, 3, 2, 2)), path, "tflite", {"a": "b"})
    good = path.read_bytes()
    at = good.index(json.dumps({"a": "b"}).encode())
    for damaged in (good[:8], good[: len(good) // 2], good[:at] + b"\xff" + good[at + 1 :], good[:4] + bytes(60)):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"is (damaged|no TFLite file).*; export it again$"):
            read_metadata(path)


def test_a_tflite_file_that_would_take_all_memory_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    write(trace(nn.Conv2d(3, 4, 1), (1, 3, 2, 77)), path, "tflite")
    path.write_bytes(path.read_bytes().replace((77).to_bytes(4, "little"), (2**27).to_bytes(4, "little")))
    with pytest.raises(
        UserError, match=r"is damaged: a tensor in it would have 1,073,741,824 values; export it again$"
    ):
        read_metadata(path)


def test_a_package_whose_weights_are_gone_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.mlpackage"
    write(trace(calibrated(mobile_network(), 3, 33), SHAPE), path, "coreml")
    (weights,) = path.rglob("weight.bin")
    weights.write_bytes(b"")
    with pytest.raises(
        UserError, match=r"^coremltools cannot load [^\n]*m\.mlpackage: [^\n]*; export the model again$"
    ):
        get_format("coreml").load(path)


def test_a_model_that_fails_while_it_runs_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(trace(calibrated(mobile_network(), 3, 33), SHAPE), tmp_path / "m.onnx", "onnx")
    session = get_format("onnx").load(tmp_path / "m.onnx")

    def fail(inputs: object) -> None:
        raise RuntimeError("node 7 is odd\nand so on")

    monkeypatch.setattr(session, "compute", fail)
    with pytest.raises(JobError, match=r"^the model could not be run \(node 7 is odd\); export it again$"):
        session(images(1, 3, 33, 33))
