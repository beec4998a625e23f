"""A checkpoint under the names that mobile_cv's public definitions fix, built here from the architecture."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fbnet_mobile.arch import Architecture
from fbnet_mobile.blocks.conv import ConvBlock
from fbnet_mobile.blocks.inverted_residual import InvertedResidual
from fbnet_mobile.blocks.network import build
from fbnet_mobile.errors import UserError
from fbnet_mobile.zoo import load_network
from fbnet_mobile.zoo.mobile_cv import load_mobile_cv

# (stage, block) of each block with weights: FBNet-A skips 1_0, 2_2 and 2_3, FBNetV2-F4 skips 4_2.
PLACES = {
    "fbnet-a": [
        "0_0", "2_0", "2_1", *(f"3_{b}" for b in range(4)), *(f"4_{b}" for b in range(8)),
        *(f"5_{b}" for b in range(5)), "6_0",
    ],
    "fbnetv2-f4": [
        "0_0", "1_0", *(f"2_{b}" for b in range(3)), *(f"3_{b}" for b in range(4)), "4_0", "4_1",
        *(f"4_{b}" for b in range(3, 7)), *(f"5_{b}" for b in range(4)), "6_0",
    ],
}  # fmt: skip


def checkpoint(network: Architecture) -> dict[str, Tensor]:
    """Random weights in the order of each block's convolutions."""
    found: dict[str, Tensor] = {}
    for place, block in zip(PLACES[network.name], network.blocks, strict=True):
        start = f"module.backbone.stages.xif{place}."
        convolutions = block.convolutions()
        if isinstance(block, ConvBlock):
            skip = block.kernel_size == 1
            names = [("conv.conv", "conv.bn") if skip else ("conv", "bn")]
        elif isinstance(block, InvertedResidual):
            expand = [("pw.conv", "pw.bn")] if block.expanded_channels else []
            excite = [("se.se.0.conv", ""), ("se.se.1", "")] if block.se_channels else []
            names = [*expand, ("dw.conv", "dw.bn"), *excite, ("pwl.conv", "pwl.bn")]
        elif len(convolutions) == 3:
            names = [("pw.conv", "pw.bn"), ("pwl.conv", ""), ("module.head.conv", "")]
        else:
            names = [("conv", "bn"), ("module.head.conv", "")]
        for (conv, norm), shape in zip(names, convolutions, strict=True):
            conv = conv if conv.startswith("module.") else start + conv
            size = (shape.out_channels, shape.in_channels // shape.groups, shape.kernel_size, shape.kernel_size)
            found[f"{conv}.weight"] = torch.randn(size)
            if shape.bias:
                found[f"{conv}.bias"] = torch.randn(shape.out_channels)
            if shape.batch_norm:
                for part in ("weight", "bias", "running_mean", "running_var"):
                    found[f"{start}{norm}.{part}"] = torch.rand(shape.out_channels)
                found[f"{start}{norm}.num_batches_tracked"] = torch.tensor(7)
    return found


@pytest.mark.parametrize("name", PLACES)
def test_every_tensor_arrives_where_the_same_layer_is(name: str, tmp_path: Path) -> None:
    network = load_network(name)
    given = checkpoint(network)
    zeros = {key: torch.zeros_like(value) for key, value in given.items()}
    shuffled = dict(sorted(given.items()))  # the order of a file says nothing
    torch.save({"state_dict": zeros, "model_ema": shuffled, "epoch": 3}, tmp_path / "model.pth")
    loaded = load_mobile_cv(tmp_path / "model.pth", network).state_dict()
    assert len(loaded) == len(given)
    # Modules of a block are registered in the order in which it computes, which is that of its convolutions.
    for theirs, ours in zip(given.items(), loaded.items(), strict=True):
        assert torch.equal(theirs[1].flatten(), ours[1].flatten()), (theirs[0], ours[0])


def test_another_file_is_refused_in_one_line(tmp_path: Path) -> None:
    network = load_network("fbnetv2-f4")
    path = tmp_path / "model.pth"
    given = checkpoint(network)
    without = {key: value for key, value in given.items() if "xif4_3" not in key}
    cases: list[tuple[Any, str]] = [
        ({"state_dict": without}, "not a checkpoint that mobile_cv saved for fbnetv2-f4: it has weights of 19 blocks"),
        ({"state_dict": {**given, "module.head.conv.weight": torch.ones(10, 1984, 1, 1)}}, "or have another shape"),
        ({"state_dict": build(network).state_dict()}, "it has weights named '0.0.weight'"),
        ({"state_dict": {**given, "module.backbone.stages.xif2_0.dw.x": torch.ones(1)}}, "xif2_0 has weights named"),
        ({"epoch": 3}, "does not hold the weights of one network"),
        ([1], "does not hold the weights of one network"),
        ({"state_dict": given, "config": Path("x")}, "could run code, which are never loaded"),
    ]
    for content, message in cases:
        torch.save(content, path)
        with pytest.raises(UserError, match=message) as refused:
            load_mobile_cv(path, network)
        assert "\n" not in str(refused.value)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="is damaged or no checkpoint"):
        load_mobile_cv(path, network)
    with pytest.raises(UserError, match=r"cannot read .*none\.pth: No such file"):
        load_mobile_cv(tmp_path / "none.pth", network)
