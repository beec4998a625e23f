"""The space of all that a network is when something is taken from it."""

import random

import pytest

from fbnet_mobile.arch import Architecture
from fbnet_mobile.errors import UserError
from fbnet_mobile.space import SearchSpace
from fbnet_mobile.zoo import load_architecture, zoo_names

NETWORK = Architecture.from_yaml(
    """
name: trained
resolution: 32
blocks:
  - {kind: conv, out_channels: 32, stride: 2, activation: hswish, bias: true}
  - {kind: inverted_residual, out_channels: 16, expanded_channels: null}
  - {kind: inverted_residual, out_channels: 24, stride: 2, expanded_channels: 40, kernel_size: 5, se_channels: 12}
  - {kind: inverted_residual, out_channels: 24, expanded_channels: 72, kernel_size: 7, se_channels: 20, bias: true}
  - {kind: inverted_residual, out_channels: 24, expanded_channels: 70}
  - {kind: inverted_residual, out_channels: 32, expanded_channels: 96}
  - {kind: conv, out_channels: 32, kernel_size: 1}
  - {kind: inverted_residual, out_channels: 32, expanded_channels: 64, groups: 2}
  - {kind: inverted_residual, out_channels: 40, expanded_channels: 64}
  - {kind: head, out_channels: 6, conv_channels: 80, hidden_channels: 56, bias: true}
"""
)


@pytest.mark.parametrize("name", ["trained", *zoo_names()[::3]])
def test_it_holds_the_network_and_what_is_less(name: str) -> None:
    network = NETWORK if name == "trained" else load_architecture(name)
    space = SearchSpace.within(network)
    assert space.architecture(space.first()).blocks == network.blocks
    assert SearchSpace.from_yaml(space.to_yaml()) == space
    assert SearchSpace.model_validate_json(space.model_dump_json()) == space
    rng = random.Random(0)
    for _ in range(10):
        drawn = space.draw(rng)
        smaller = space.architecture(drawn)
        assert smaller.macs < network.macs
        kept = [
            block
            for position, block in zip(space.positions, network.blocks, strict=True)
            if position.skip is None or not drawn[position.skip]
        ]
        for block, less in zip(kept, smaller.blocks, strict=True):
            assert getattr(less, "residual", None) == getattr(
                block, "residual", None
            )  # equal widths are no reason to add what never was added
            own = less.model_dump(exclude={"in_channels", "out_channels", "resolution", "no_residual"})
            assert all(
                value is None or not isinstance(value, int) or value <= getattr(block, field)
                for field, value in own.items()
            )


def test_what_is_chosen() -> None:
    space = SearchSpace.within(NETWORK)
    options = {name: values for name, values in space.variables.items() if len(values) > 1}
    assert options["resolution"] == (32, 28, 24, 20, 16)
    assert options["block1.out_channels"] == (32, 24, 16, 8)
    assert options["block3.out_channels"] == (24, 16, 8)  # of the third to the fifth block, joined by residuals
    assert not {"block4.out_channels", "block5.out_channels"} & space.variables.keys()
    assert options["block5.expanded_channels"] == (70, 64, 56, 48, 40, 32, 24)
    assert options["block4.kernel_size"] == (7, 5, 3)
    assert options["block4.se_channels"] == (20, 0)
    assert options["block4.skip"] == (False, True)
    # Among groups channels are shuffled: what one of these reads or gives stays as it is.
    assert not {name for name in options if name.startswith(("block7.", "block8."))}
    assert options["block9.out_channels"] == (40, 32, 24, 16)
    assert options["block10.hidden_channels"] == (56, 48, 40, 32, 24, 16)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kind: head,", "kind: conv, out_channels: 8,", "conv_channels"),
        ("skip: true", "skip: true, out_channels: [24, 16]", "leave out its out_channels"),
        ("se_channels: [20, 0]", "se_channels: [20, none]", "valid integer"),
        ("kernel_size: [7, 5, 3]", "kernel_size: [7, 4]", "even"),
        ("expanded_channels", "expanded_chanels", "did you mean"),
        ("classes: 6", "classes: 6\nstem: {out_channels: 8}", "leave out one of the two"),
    ],
)
def test_what_was_edited_badly_is_refused(old: str, new: str, said: str) -> None:
    text = SearchSpace.within(NETWORK).to_yaml()
    assert old in text
    with pytest.raises(UserError, match=said) as refused:
        SearchSpace.from_yaml(text.replace(old, new), "mine.yaml")
    assert "\n" not in str(refused.value)


def test_edited_options_are_taken() -> None:
    text = SearchSpace.within(NETWORK).to_yaml().replace("kernel_size: [7, 5, 3]", "kernel_size: 7")
    assert SearchSpace.from_yaml(text).variables["block4.kernel_size"] == (7,)
