"""A training that starts from trained weights: whose they are, what of them is used, and that the result is ours."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fbnet_mobile as fm
from fbnet_mobile.engine.checkpoint import load_checkpoint
from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.base import format_of, read_metadata
from fbnet_mobile.formats.metadata import ModelMetadata
from fbnet_mobile.zoo.importing import imported
from fbnet_mobile.zoo.peers import load_peer
from fbnet_mobile.zoo.start import from_checkpoint, from_model

NAME = "timm:mobilenetv3_small_050"


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """A network of somebody's own training, for seven classes."""
    torch.manual_seed(0)
    return load_peer(NAME, classes=7).module


def test_files_of_weights_of_every_sort_give_the_same(theirs: nn.Module, tmp_path: Path) -> None:
    state = theirs.state_dict()
    zeros = {key: torch.zeros_like(value) for key, value in state.items()}
    options = argparse.Namespace(model="mobilenetv3_small_050", lr=0.1)
    torch.save(state, tmp_path / "plain.pth")
    torch.save({"epoch": 3, "state_dict": zeros, "state_dict_ema": state, "args": options}, tmp_path / "timm.pth.tar")
    torch.save(
        {"model": {f"module.{key}": value for key, value in state.items()}, "args": options}, tmp_path / "tv.pth"
    )
    save_file(state, tmp_path / "hub.safetensors")
    for name in ("plain.pth", "timm.pth.tar", "tv.pth", "hub.safetensors"):
        architecture, found, metadata = imported(NAME, weights=tmp_path / name)
        assert metadata is not None
        assert (architecture.classes, len(metadata.classes), metadata.mean[0]) == (7, 7, 0.485)
        assert torch.equal(found["0.0.weight"], state["conv_stem.weight"]), name
        assert torch.equal(found[f"{len(architecture.blocks) - 1}.classifier.bias"], state["classifier.bias"])


def test_weights_of_another_network_are_refused_with_the_first_that_does_not_fit(
    theirs: nn.Module, tmp_path: Path
) -> None:
    state, path = theirs.state_dict(), tmp_path / "it.pth"
    cases: list[tuple[Any, str]] = [
        ({**state, "more": torch.ones(1)}, "more has no place there"),
        ({key: value for key, value in state.items() if key != "bn1.bias"}, r"bn1\.bias is missing"),
        ({**state, "bn1.bias": torch.ones(3)}, r"bn1\.bias has another shape"),
        ({"state_dict": {"a": 1}}, "does not hold the weights of one network"),
        ({"format": "fbnet-mobile checkpoint 1", "state_dict": state}, "give it without --model"),
        ({"state_dict": state, "model": Path("x")}, "could run code, which are never loaded"),
    ]
    for content, message in cases:
        torch.save(content, path)
        with pytest.raises(UserError, match=message) as refused:
            imported(NAME, weights=path)
        assert "\n" not in str(refused.value)
    (tmp_path / "it.safetensors").write_bytes(b"\x08" * 30)
    for name, message in (("none.pth", "No such file"), ("", "it is a folder"), ("it.safetensors", "is damaged")):
        with pytest.raises(UserError, match=message):
            imported(NAME, weights=tmp_path / name)


def test_a_classifier_is_kept_for_the_same_classes_alone(theirs: nn.Module, tmp_path: Path) -> None:
    torch.save(theirs.state_dict(), tmp_path / "it.pth")
    start = from_model(NAME, weights=tmp_path / "it.pth")
    head = f"{len(start.architecture.blocks) - 1}.classifier"
    same, other = tuple("abcdefg"), tuple("abc")
    assert start.for_classes(same) == (start.architecture, [])
    assert torch.equal(start.network(same).state_dict()[f"{head}.bias"], theirs.state_dict()["classifier.bias"])
    architecture, (remark,) = start.for_classes(other)
    assert architecture.classes == 3
    assert remark.endswith(
        f"has 7 classes, the data 3: its classifier begins anew; not used: {head}.weight, {head}.bias"
    )
    fresh, state = start.network(other).state_dict(), theirs.state_dict()
    assert float(fresh[f"{head}.bias"].abs().max()) == 0
    assert torch.equal(fresh["0.0.weight"], state["conv_stem.weight"])
    without = {key: value for key, value in state.items() if not key.startswith("classifier")}
    torch.save(without, tmp_path / "it.pth")
    start = from_model(NAME, weights=tmp_path / "it.pth")
    classes = tuple(map(str, range(start.architecture.classes)))
    assert start.for_classes(classes)[1][0].endswith("has no weights for a classifier: its classifier begins anew")
    assert torch.equal(start.network(classes).state_dict()["0.0.weight"], state["conv_stem.weight"])


def test_a_network_that_was_fine_tuned_is_an_ordinary_checkpoint(theirs: nn.Module, tmp_path: Path) -> None:
    torch.save(theirs.state_dict(), tmp_path / "it.pth")
    few: dict[str, Any] = {"epochs": 1, "limit": 80, "data": "digits"}
    full = fm.train(model=NAME, weights=tmp_path / "it.pth", resolution=32, output=tmp_path / "full", **few)
    assert "has 7 classes, the data 10" in full.remarks[0]
    saved = load_checkpoint(full.checkpoint)
    assert (saved.resolution, saved.mean, len(saved.classes)) == (32, (0.485, 0.456, 0.406), 10)  # not the data's mean
    again = fm.train(checkpoint=full.checkpoint, output=tmp_path / "again", **few)
    assert again.remarks == ()
    start = from_checkpoint(full.checkpoint)
    assert start.for_classes(saved.classes)[1] == []
    assert "tells apart 10 other classes" in start.for_classes(tuple("abcdefghij"))[1][0]
    fm.export(checkpoint=again.checkpoint, output=tmp_path / "it.tflite", data="digits", images=8)
    metadata = ModelMetadata.from_strings(read_metadata(tmp_path / "it.tflite"))
    assert metadata is not None
    assert metadata.mean == (0.485, 0.456, 0.406)
    session = format_of(tmp_path / "it.tflite").load(tmp_path / "it.tflite")
    session.set_input(np.zeros((1, 3, 32, 32), np.float32))
    session.invoke()
    assert session.output().shape == (1, 10)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "no network to train; give one of --checkpoint, --architecture and --model"),
        ({"model": NAME, "architecture": "fbnet-c"}, "--architecture and --model to train; give one"),
        ({"architecture": "fbnet-c", "pretrained": True}, "--pretrained is for a network with a name"),
        ({"checkpoint": Path("x"), "weights": Path("y")}, "--weights is for a network with a name"),
        ({"model": NAME, "pretrained": True, "weights": Path("y")}, "leave one out"),
        (
            {"model": NAME, "inherit": Path("y")},
            "--inherit has the weights of what the search found; leave out",
        ),
        ({"model": "fbnetv2-f1", "pretrained": True}, "give --weights with a file that mobile_cv saved"),
        ({"model": "efficientnet-lite0"}, "did you mean 'efficientnet_lite0'.*or write timm:NAME or torchvision:NAME"),
    ],
)
def test_what_cannot_be_meant_is_refused(asked: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        fm.train(data="digits", output=tmp_path / "run", **asked)
    assert not (tmp_path / "run").exists()
