"""Branches that are merged give what they gave, in fewer operations."""

from pathlib import Path

import pytest
import torch
from calibrated import calibrated
from torch import nn

from fbnet_mobile.formats.verify import export
from fbnet_mobile.graph.merge import merge_branches
from fbnet_mobile.graph.trace import trace
from fbnet_mobile.zoo.peers import load_peer


@pytest.mark.parametrize(
    ("name", "kinds", "most"),
    [
        ("mobileone_s0", {"MobileOneBlock"}, 90),
        ("repvgg_a0", {"RepVggBlock"}, 60),
        ("repghostnet_050", {"RepGhostModule"}, 200),
        ("fastvit_t8", {"MobileOneBlock", "ReparamLargeKernelConv"}, 250),
        ("repvit_m0_9", {"RepVggDw", "ConvNorm"}, 250),
    ],
)
def test_networks_of_timm_give_what_they_gave(name: str, kinds: set[str], most: int) -> None:
    torch.manual_seed(0)
    module = calibrated(load_peer(f"timm:{name}").module, 3, 64).eval()
    before = len(trace(module, (1, 3, 64, 64)).nodes)
    merged, said = merge_branches(module)
    assert kinds <= said.keys()
    assert len(trace(merged, (1, 3, 64, 64)).nodes) <= min(most, before - 1)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected, actual = module(images), merged(images)
    assert (actual - expected).abs().max() < 1e-4 * expected.abs().max()
    assert len(trace(module, (1, 3, 64, 64)).nodes) == before  # left as it was


class Doubled(nn.Module):
    """Two branches whose own way to merge them may be right or wrong."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.layer, self.factor = nn.Conv2d(3, 4, 1), factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.layer(x)

    def fuse(self) -> nn.Module:
        self.layer.weight *= self.factor
        self.layer.bias *= self.factor
        return self.layer


def test_an_export_is_compared_with_the_network_as_it_was(tmp_path: Path) -> None:
    report = export(nn.Sequential(Doubled(2)), tmp_path / "m.tflite", format="tflite", input_shape=(1, 3, 8, 8))
    assert report.merged == {"Doubled": 1}
    with pytest.raises(Exception, match="differ from PyTorch's by"):
        export(nn.Sequential(Doubled(1.9)), tmp_path / "n.tflite", format="tflite", input_shape=(1, 3, 8, 8))


def test_a_network_without_branches_is_left_alone() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    merged, said = merge_branches(module)
    assert merged is module
    assert said == {}
