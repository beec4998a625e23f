from pathlib import Path

import pytest
import torch
from torch import nn

import fbnet_mobile as fm
from fbnet_mobile.blocks.network import build
from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.base import format_of, read_metadata
from fbnet_mobile.zoo import load_network
from fbnet_mobile.zoo.features import backbone
from fbnet_mobile.zoo.peers import load_peer


def test_a_networks_feature_maps_are_what_its_last_block_of_each_stride_gives() -> None:
    architecture = load_network("fbnetv2-f0")
    network = build(architecture).eval()
    maps = backbone(architecture, network, ["stride16", "stride4", "3"])
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        found, value = maps(images), images
        by_size: dict[tuple[int, ...], torch.Tensor] = {}
        for number, block in enumerate(network[:-1]):
            value = block(value)
            by_size[tuple(value.shape[2:])] = value
            if number == 3:
                torch.testing.assert_close(found["block3"], value)
    assert list(found) == ["stride16", "stride4", "block3"]
    torch.testing.assert_close(found["stride16"], by_size[4, 6])
    torch.testing.assert_close(found["stride4"], by_size[16, 24])
    assert len(maps.network) < len(network) - 1, "what comes after the last map is left away"


def test_what_there_is_not_is_answered_by_what_there_is() -> None:
    architecture = load_network("fbnetv2-f0")
    with pytest.raises(UserError, match="unknown feature map 'stride7'; did you mean 'stride"):
        backbone(architecture, build(architecture), ["stride7"])
    with pytest.raises(UserError, match="stride8 is asked for twice"):
        backbone(architecture, build(architecture), ["stride8", "stride8"])
    with pytest.raises(UserError, match="torchvision:resnet18 cannot be had with feature maps"):
        load_peer("torchvision:resnet18", features=["stride8"])


def test_timms_feature_maps_by_stride_and_by_name() -> None:
    module, shape, metadata = load_peer(
        "timm:lcnet_035", resolution=(64, 96), channels=1, features=["stride8", "blocks.5"]
    )
    assert shape == (1, 1, 64, 96)
    assert (metadata.classes, len(metadata.mean)) == ((), 1)
    with torch.no_grad():
        found = nn.Module.eval(module)(torch.rand(shape))
    assert {name: tuple(each.shape[2:]) for name, each in found.items()} == {"stride8": (8, 12), "blocks_5": (2, 3)}


def test_a_backbone_is_exported_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "b.onnx"
    result = fm.export(model="fbnetv2-f0", features="stride8,stride32", resolution="64x96", output=path)
    assert {name: shape for name, (shape, _) in result.file.outputs.items()} == {
        "stride8": (1, 24, 8, 12),
        "stride32": (1, 192, 2, 3),
    }
    assert max(relative for _, relative in result.file.outputs.values()) < 1e-5
    assert read_metadata(path)["architecture"] == "", "no prediction is made for a part of a network"
    assert format_of(path).load(path).input_shape == (1, 3, 64, 96)
    (measured,) = fm.benchmark(models=[path]).models
    assert measured.latency is not None
    assert measured.latency.min_us > 0
