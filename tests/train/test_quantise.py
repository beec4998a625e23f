"""Quantisation-aware training, from a checkpoint to a file."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fbnet_mobile as fm
from fbnet_mobile.arch import Architecture
from fbnet_mobile.blocks.network import build
from fbnet_mobile.data.data import load_data
from fbnet_mobile.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fbnet_mobile.errors import UserError
from fbnet_mobile.graph.rounded import Rounded
from fbnet_mobile.train.evaluate import evaluate
from fbnet_mobile.train.quantise import begin

NETWORK = """
name: tiny
resolution: 16
blocks:
  - {kind: conv, out_channels: 8, kernel_size: 3, stride: 2, activation: relu}
  - {kind: head, out_channels: 10, conv_channels: 32}
"""
DATA = {"data": "digits", "limit": 700}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("float") / "tiny.yaml"
    path.write_text(NETWORK)
    return fm.train(architecture=str(path), output=path.parent / "run", epochs=4, batch_size=16, **DATA).checkpoint


def test_training_with_rounding_learns_ranges_that_the_file_has(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = fm.train(checkpoint=checkpoint, quantize="int8", output=tmp_path / "run", epochs=2, batch_size=16, **DATA)
    assert "in int8 without training" in capsys.readouterr().err
    made, before = load_checkpoint(result.checkpoint), load_checkpoint(checkpoint)
    assert (made.quantized, made.mean, made.architecture) == ("int8", before.mean, before.architecture)
    assert (made.recipe["teacher"], made.recipe["loss"]) == (str(checkpoint), "distillation")
    network = made.module("it")
    assert isinstance(network, Rounded)
    assert result.test_accuracy > before.test_accuracy - 0.1  # type: ignore[operator]
    file = fm.export(checkpoint=result.checkpoint, data="digits", output=tmp_path / "m.tflite").file
    assert file.quantised is not None
    assert file.quantised.ranges == "learned"
    assert file.agreement is not None
    assert file.agreement > 0.97
    whole = {"checkpoint": checkpoint, "data": "digits", "output_type": "int8", "output": tmp_path / "integers.tflite"}
    assert fm.export(**whole).file.precision == "int8"
    with pytest.raises(UserError, match="is quantised already"):
        fm.train(checkpoint=result.checkpoint, quantize="int8", output=tmp_path / "again", **DATA)


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a layer that loses all by rounding: one channel, the least important, is huge, and tells
    nothing."""
    folder = tmp_path_factory.mktemp("fragile")
    text = NETWORK.replace("relu", "hswish")
    (folder / "tiny.yaml").write_text(text)
    run = fm.train(architecture=str(folder / "tiny.yaml"), output=folder / "run", epochs=20, batch_size=16, **DATA)
    trained = load_checkpoint(run.checkpoint)
    state = dict(trained.state_dict)
    norm, reader = "0.1", next(name for name in state if name.startswith("1.") and state[name].shape[1:2] == (8,))
    least = int(state[reader].abs().sum((0, 2, 3)).argmin())
    state[f"{norm}.weight"][least], state[f"{norm}.bias"][least] = 3000.0, 3000.0
    state[reader][:, least] = 0
    save_checkpoint(folder / "fragile.pt", replace(trained, state_dict=state))
    return folder / "fragile.pt"


def test_what_must_stay_in_float32_is_trained_so_and_stays_so_in_files(fragile: Path, tmp_path: Path) -> None:
    data = load_data("digits", resolution=16, limit=700)
    said: list[str] = []
    before = load_checkpoint(fragile).network("it")
    rounded, _ = begin(fragile, data, said.append)
    assert f"{len(rounded.kept)} of 7 operations are trained in float32" in said[0], said
    right = evaluate(before, data.val, data)
    assert evaluate(rounded, data.val, data) > right - 0.05
    whole, _ = begin(fragile, data, said.append, {"keep": ()})
    assert whole.kept == ()
    assert evaluate(whole, data.val, data) < right - 0.1
    # Hardly at all, as the huge channel would soon tell something.
    how = {"output": tmp_path / "run", "epochs": 1, "learning_rate": 1e-9, **DATA}
    run = fm.train(checkpoint=fragile, quantize="int8", **how)
    assert load_checkpoint(run.checkpoint).kept == rounded.kept
    for name in ("m.tflite", "m.onnx"):
        file = fm.export(checkpoint=run.checkpoint, data="digits", output=tmp_path / name).file
        assert file.quantised is not None
        assert (file.quantised.ranges, bool(file.quantised.kept)) == ("learned", True)
        assert file.agreement is not None
        assert file.agreement > 0.98
    for more in ({"int8_keep": "none"}, {"output_type": "int8"}):
        with pytest.raises(UserError, match=r"was trained with layers in float32 \(.*train it with .*--int8-keep none"):
            fm.export(checkpoint=run.checkpoint, data="digits", output=tmp_path / "no.tflite", **more)
    assert not (tmp_path / "no.tflite").exists()
    damaged = tmp_path / "damaged.pt"
    save_checkpoint(damaged, replace(load_checkpoint(run.checkpoint), kept=("nothing",)))
    with pytest.raises(UserError, match="do not fit its architecture"):
        fm.export(checkpoint=damaged, data="digits", output=tmp_path / "no.tflite")


def test_what_cannot_be_trained_with_rounding(checkpoint: Path, tmp_path: Path) -> None:
    for given, message in (
        ({"quantize": "int8", "architecture": "fbnetv2-f1"}, "--quantize trains what is trained already; give its"),
        (
            {"checkpoint": checkpoint, "quantize": "int8", "architecture": "fbnetv2-f1"},
            "--checkpoint and --architecture to train; give one",
        ),
        ({}, "no network to train; give one of --checkpoint"),
        ({"checkpoint": checkpoint, "int8_keep": "none"}, "--int8-keep is for training with rounding; add --quantize"),
        ({"checkpoint": checkpoint, "quantize": "int8", "int8_keep": "7"}, "unknown layer '7'"),
    ):
        with pytest.raises(UserError, match=message):
            fm.train(output=tmp_path / "run", **DATA, **given)
    assert not list(tmp_path.iterdir())
    other = tmp_path / "other.pt"
    network = Architecture.from_yaml(NETWORK)
    names = tuple(f"class {number}" for number in range(10))
    torch.manual_seed(0)
    save_checkpoint(
        other, Checkpoint(network.to_yaml(), build(network).state_dict(), names, (0.5,) * 3, (0.5,) * 3, 16, 0.1)
    )
    with pytest.raises(UserError, match="for other classes than the data have"):
        fm.train(checkpoint=other, quantize="int8", output=tmp_path / "run", **DATA)
    assert load_data("digits", resolution=16, limit=80).classes != names
