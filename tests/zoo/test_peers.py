import sys
from pathlib import Path

import pytest

from fbnet_mobile.cli import export as command
from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.base import format_of, read_metadata
from fbnet_mobile.formats.metadata import ModelMetadata
from fbnet_mobile.zoo.peers import load_peer

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("name", "size", "classes", "normalisation"),
    [
        ("timm:mobilenetv3_small_050", 224, 1000, IMAGENET),
        ("timm:tf_efficientnet_lite1", 240, 1000, ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))),
        ("timm:mobilenetv3_large_100.miil_in21k", 224, 11221, ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))),
        ("torchvision:mobilenet_v3_small", 224, 1000, IMAGENET),
        ("torchvision:efficientnet_b1", 240, 1000, IMAGENET),
    ],
)
def test_input_and_classes_are_those_of_its_weights(
    name: str, size: int, classes: int, normalisation: tuple[tuple[float, ...], ...]
) -> None:
    peer = load_peer(name)
    assert peer.input_shape == (1, 3, size, size)
    assert (peer.metadata.mean, peer.metadata.std) == normalisation
    assert len(peer.metadata.classes) == classes
    assert peer.metadata.classes[:2] == (("tench", "goldfish") if classes == 1000 else ("0", "1"))
    assert load_peer(name, resolution=96).input_shape == (1, 3, 96, 96)


@pytest.mark.parametrize("name", ["timm:mobilenetv3_small_050", "torchvision:mobilenet_v3_small"])
def test_it_is_exported_like_any_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.tflite"
    words = ["fbnet-export", "--model", name, "--resolution", "64", "--input", "uint8", "-o", str(path)]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert not ended.value.code
    assert f"the weights of {name} are freshly initialised" in capsys.readouterr().out
    session = format_of(path).load(path)
    assert (session.input_shape, session.takes_pixels) == ((1, 3, 64, 64), True)
    metadata = ModelMetadata.from_strings(read_metadata(path))
    assert metadata is not None
    assert metadata.architecture.startswith(f"name: {name}\n")
    assert (metadata.input, metadata.mean, metadata.classes[0]) == (
        "uint8",
        IMAGENET[0],
        "tench",
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:mobilenetv3_larg_100", "unknown network 'timm:mobilenetv3_larg_100'; did you mean 'timm:mobilenetv3_la"),
        ("timm:mobilenetv3_large_100.rain1k", r"did you mean 'timm:mobilenetv3_large_100\.ra_in1k'"),
        ("torchvision:MobileNet-v3-smal", "did you mean 'torchvision:mobilenet_v3_small'"),
        ("torchvision:zzzz", r"see torchvision\.models\.list_models\(\)"),
        ("keras:mobilenet", "write timm:NAME or torchvision:NAME"),
    ],
)
def test_an_unknown_name_gets_the_nearest(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_peer(name)


def test_without_timm_its_installation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install 'fbnet-mobile\[timm\]'"):
        load_peer("timm:mobilenetv3_small_050")


@pytest.mark.parametrize(
    ("name", "where"),
    [("timm:mobilenetv3_small_050", "timm.create_model"), ("torchvision:mobilenet_v3_small", None)],
)
def test_weights_that_do_not_arrive_are_one_line(
    name: str,
    where: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        sys.stderr.write("Downloading ...")
        raise OSError("no way to the hub\nand more")

    monkeypatch.setattr(where or "torchvision.models.mobilenetv3.MobileNet_V3_Small_Weights.get_state_dict", fails)
    with pytest.raises(UserError) as refused:
        load_peer(name, pretrained=True)
    assert str(refused.value) == (
        f"cannot get the weights of {name}: no way to the hub; connect to the network, or leave out --pretrained"
    )
    assert capfd.readouterr() == ("", "")
