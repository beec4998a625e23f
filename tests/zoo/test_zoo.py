from pathlib import Path

import pytest

from fbnet_mobile.arch import Architecture
from fbnet_mobile.blocks.network import build
from fbnet_mobile.errors import UserError
from fbnet_mobile.zoo import (
    PUBLISHED_ACCURACY,
    load_architecture,
    load_network,
    published_macs,
    published_params,
    zoo_names,
)

# Input resolution; multiply-accumulates of convolutions and linear layers and trainable parameters, as counted on the
# networks that facebookresearch/mobile-vision builds (bb8465c; dmasking at a21b5e2); and millions of each as it counts.
# The last two are also what its model_info JSON files state (to the digits given there; FBNetV2-F0 is in none).
PUBLISHED = {
    "dmasking-f1": (128, 56096264, 6029661, 56.274952, 5.99297),
    "dmasking-f4": (224, 235134434, 7032827, 235.882786, 6.991688),
    "dmasking-l2-hs": (256, 417763592, 8553864, 419.064776, 8.492858),
    "dmasking-l3": (288, 751122890, 9464040, 753.163968, 9.39406),
    "fbnet-a": (224, 244452664, 4321232, 244.52636, 4.270288),
    "fbnet-b": (224, 291004424, 4818216, 291.10164, 4.766672),
    "fbnet-c": (224, 378136224, 5592784, 378.23344, 5.525424),
    "fbnetv2-f0": (224, 66280000, 2822368, 66.554112, 2.811448),
    "fbnetv2-f1": (128, 56231936, 6024744, 56.41056, 5.999408),
    "fbnetv2-f2": (160, 85163192, 6024744, 85.441392, 5.999408),
    "fbnetv2-f3": (192, 121423712, 6924840, 121.824, 6.899504),
    "fbnetv2-f4": (224, 237605592, 7022880, 238.351984, 6.994824),
    "fbnetv2-l1": (224, 325025344, 8538792, 326.023008, 8.49652),
    "fbnetv2-l2": (256, 422610304, 8538792, 423.912768, 8.49652),
}


def test_the_zoo_is_complete() -> None:
    assert zoo_names() == tuple(sorted(PUBLISHED))
    assert set(PUBLISHED_ACCURACY) == set(PUBLISHED) - {"fbnetv2-f0"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_equal_the_published_ones_to_the_last_digit(name: str) -> None:
    resolution, macs, params, flops_m, params_m = PUBLISHED[name]
    network = load_network(name)
    assert (network.name, network.resolution, network.classes) == (name, resolution, 1000)
    assert (network.macs, network.params) == (macs, params)
    assert (published_macs(network) / 1e6, published_params(network) / 1e6) == (flops_m, params_m)
    module = build(network)
    assert sum(parameter.numel() for parameter in module.parameters()) == params


def test_a_file_of_the_zoo_is_what_would_be_written_again() -> None:
    for name in zoo_names():
        network = load_network(name)
        assert Architecture.from_yaml(network.to_yaml()) == network


def test_names_and_paths(tmp_path: Path) -> None:
    network = load_network("fbnet-c").with_classes(7)
    network.save(tmp_path / "mine.yaml")
    assert load_architecture(str(tmp_path / "mine.yaml")) == network
    assert load_architecture("fbnet-c").classes == 1000
    for load in (load_network, load_architecture):
        with pytest.raises(
            UserError, match=r"unknown network 'FBNetV2_L1'; did you mean 'fbnetv2-l1'\? choose one of dmasking-f1, "
        ):
            load("FBNetV2_L1")
    with pytest.raises(UserError, match=r"cannot read .*none: No such file"):
        load_architecture(str(tmp_path / "none"))
