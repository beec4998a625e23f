"""From first principles: with one-hot weights the supernet is the network of that assignment."""

import random

import pytest
import torch
from torch import nn

from fbnet_mobile.search.choices import Choices
from fbnet_mobile.search.inherit import inherit
from fbnet_mobile.search.supernet import MaskedBatchNorm, Supernet, column_masks
from fbnet_mobile.space import SearchSpace, load_space

EVERY_CHOICE = """
name: every-choice
resolution: [16, 24, 32]
classes: 5
stem: {out_channels: [8, 16], stride: 2}
stages:
  - out_channels: [8, 12, 16]
    depth: 2
    stride: 1
    skip: true
    expansion_ratio: [1, 2]
    kernel_size: [3, 5, 7]
    squeeze_excite: [true, false]
    activation: [hswish, relu]
  - out_channels: {low: 16, high: 32, step: 8}
    depth: 3
    stride: 2
    skip: true
    expansion_ratio: {low: 0.75, high: 3.75, step: 0.5}
    kernel_size: [5, 3]
    squeeze_excite: [false, true]
    activation: [relu, hswish]
head: {conv_channels: [24, 40], hidden_channels: 20}
"""


def randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Give batch norm statistics and affine parameters that a mistake in them would show."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor, low, high in (
                (part.weight, 0.5, 1.5),
                (part.bias, -0.5, 0.5),
                (part.running_mean, -0.5, 0.5),
                (part.running_var, 0.5, 1.5),
            ):
                assert tensor is not None
                tensor.data.uniform_(low, high, generator=generator)


@pytest.mark.parametrize("name", ["every-choice", "small"])
def test_one_hot_weights_give_the_standalone_network(name: str) -> None:
    space = SearchSpace.from_yaml(EVERY_CHOICE) if name == "every-choice" else load_space(name)
    generator, rng = torch.Generator().manual_seed(0), random.Random(0)
    supernet, choices = Supernet(space).eval(), Choices(space)
    randomise(supernet, generator)
    largest = max(space.resolution)
    images = torch.randn(2, 3, largest, largest, generator=generator)
    outputs = []
    for _ in range(12):
        assignment = space.draw(rng)
        small = int(assignment["resolution"])
        index = torch.div(torch.arange(small) * largest, small, rounding_mode="floor")
        network = inherit(supernet, assignment).eval()
        with torch.no_grad():
            expected = network(images[..., index, :][..., index])
            found = supernet(images, choices.one_hot(assignment))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        outputs.append(found)
    assert torch.stack(outputs).std(0).min() > 1e-3, "the outputs must depend on the architecture"


def test_gradients_reach_every_option_of_every_choice() -> None:
    space = SearchSpace.from_yaml(EVERY_CHOICE)
    supernet, choices = Supernet(space), Choices(space)
    randomise(supernet, torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    weights = choices.sample(5.0, torch.Generator().manual_seed(0))
    supernet(torch.randn(8, 3, 32, 32), weights).square().mean().backward()
    for logits in choices.logits:
        assert logits.grad is not None
        assert (logits.grad != 0).all()
    assert all(parameter.grad is not None for parameter in supernet.parameters())


def test_mask_is_the_weighted_sum_of_column_masks_outside_batch_norm() -> None:
    features, weights = torch.randn(4, 6, 5, 5), torch.tensor([0.2, 0.3, 0.5])
    norm = MaskedBatchNorm(6)
    nn.init.uniform_(norm.bias)
    mask = weights @ column_masks([2, 4, 6])
    torch.testing.assert_close(mask, torch.tensor([1.0, 1.0, 0.8, 0.8, 0.5, 0.5]))
    masked = norm(features, mask)
    plain = nn.BatchNorm2d(6)
    plain.load_state_dict({**norm.state_dict(), **plain.state_dict(), "bias": norm.bias})
    torch.testing.assert_close(masked, plain(features) * mask[:, None, None])
    torch.testing.assert_close(norm.running_var, plain.running_var)
