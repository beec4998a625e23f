"""From first principles: with one-hot weights the supernet is the network of that assignment."""

import random
from typing import ClassVar, get_args

import pytest
import torch
from torch import nn

from fbnet_mobile.arch import Block, Convolution
from fbnet_mobile.search import supernet
from fbnet_mobile.search.choices import Choices
from fbnet_mobile.search.inherit import inherit
from fbnet_mobile.search.recipe import Mode
from fbnet_mobile.search.supernet import Supernet
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
  - block: conv
    out_channels: [24, 32]
    stride: 2
    kernel_size: [1, 3]
    activation: [hswish, relu]
  - out_channels: [16, 24]
    depth: 2
    skip: true
    candidates:
      small: {expansion_ratio: 1, kernel_size: 3, squeeze_excite: false, activation: relu, groups: 2}
      wide: {expansion_ratio: 2, kernel_size: 5, squeeze_excite: true, activation: hswish}
      mine: {block: blur, strength: 2}
  - block: blur
    out_channels: [16, 24]
    depth: 2
    skip: true
    strength: [1, 3]
head: {conv_channels: [24, 40], hidden_channels: [12, 20]}
"""


IMPORTED = """
name: imported
resolution: [15, 24, 32]
classes: 5
stem: {out_channels: [8, 16], stride: 2, activation: relu6, padding: same, batch_norm_eps: 0.001}
stages:
  - out_channels: [8, 12, 16]
    depth: 2
    stride: 2
    skip: true
    expansion_ratio: [1, 2]
    kernel_size: [3, 5]
    squeeze_excite: [true, false]
    activation: [relu6, silu]
    se_from: input
    se_activation: relu
    se_gate: sigmoid
    padding: same
    batch_norm_eps: 0.001
  - {out_channels: [12, 16], expansion_ratio: [1, 2], kernel_size: 3, squeeze_excite: false, activation: relu,
     project_activation: silu, no_residual: true}
  - {block: conv, out_channels: [12, 16], depth: 2, skip: true, kernel_size: [1, 3], activation: [silu, relu],
     residual: true}
  - block: fused_inverted_residual
    out_channels: [16, 24]
    depth: 2
    stride: 2
    skip: true
    expansion_ratio: [1, 2]
    kernel_size: [3, 5]
    squeeze_excite: [false, true]
    activation: [silu, relu]
    padding: same
  - block: universal_inverted_residual
    out_channels: [16, 24]
    depth: 2
    stride: 2
    skip: true
    expansion_ratio: [1, 3]
    start_kernel_size: [0, 3, 5]
    middle_kernel_size: [3, 5]
    activation: [relu, relu6]
    padding: same
    batch_norm_eps: 0.01
  - block: universal_inverted_residual
    out_channels: [16, 24]
    depth: 2
    skip: true
    expansion_ratio: [1, 3]
    start_kernel_size: [5, 3]
    middle_kernel_size: [0, 3]
    end_kernel_size: 3
    activation: relu
head: {conv_channels: [16, 24], hidden_channels: [12, 20], activation: relu6, hidden_norm: true, batch_norm_eps: 0.01}
"""
"""What networks of others are made of."""


class Blur(Block):
    """A user's own kind of block: its module is no chain of ours, and its width follows from both of its widths."""

    kind: ClassVar[str] = "blur"
    choices: ClassVar[tuple[str, ...]] = ("strength",)
    strength: int

    def convolutions(self) -> tuple[Convolution, ...]:
        return (Convolution(self.in_channels, self.out_channels, 1, self.out_resolution),)

    def build(self) -> nn.Module:
        return BlurModule(self)


class BlurModule(nn.Module):
    def __init__(self, block: Blur) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2 * block.strength + 1, stride=1, padding=block.strength)
        self.conv = nn.Sequential(
            nn.Conv2d(block.in_channels, block.out_channels, 1), nn.BatchNorm2d(block.out_channels)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(self.pool(features))
        return out.sin()


MODES = get_args(Mode)


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


def every_choice(mode: Mode) -> SearchSpace:
    """For ``paths``, of which there is a module for each combination, with fewer options."""
    text = EVERY_CHOICE
    if mode == "paths":
        text = text.replace("{low: 0.75, high: 3.75, step: 0.5}", "[0.75, 2.25]").replace("[3, 5, 7]", "[3, 7]")
        text = text.replace("[8, 12, 16]", "[8, 12]").replace("{low: 16, high: 32, step: 8}", "[16, 24]")
    return SearchSpace.from_yaml(text)


def at_32_pixels(name: str) -> SearchSpace:
    """A packaged space at a few pixels, to be fast."""
    return load_space(name).changed(resolution=32, classes=5)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *(("every-choice", mode) for mode in MODES),
        ("small", "shared"),
        ("fbnet", "candidates"),
    ],
)
def test_one_hot_weights_give_the_standalone_network(name: str, mode: Mode) -> None:
    space = every_choice(mode) if name == "every-choice" else at_32_pixels(name)
    generator, rng = torch.Generator().manual_seed(0), random.Random(0)
    parent, choices = Supernet(space, mode).eval(), Choices(space)
    randomise(parent, generator)
    largest = max(space.resolution)
    images = torch.randn(2, 3, largest, largest, generator=generator)
    outputs = []
    for _ in range(12):
        assignment = space.draw(rng)
        small = int(assignment["resolution"])
        index = torch.div(torch.arange(small) * largest, small, rounding_mode="floor")
        network = inherit(parent, assignment).eval()
        with torch.no_grad():
            expected = network(images[..., index, :][..., index])
            found = parent(images, choices.one_hot(assignment))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        outputs.append(found)
    assert torch.stack(outputs).std(0).min() > 1e-3, "the outputs must depend on the architecture"


@pytest.mark.parametrize("mode", MODES)
def test_batch_norm_learns_of_each_channel_what_the_standalone_networks_does(mode: Mode) -> None:
    space = every_choice(mode).changed(resolution=32)
    generator, rng = torch.Generator().manual_seed(0), random.Random(2)
    parent, choices = Supernet(space, mode).train(), Choices(space)
    randomise(parent, generator)
    images = torch.randn(16, 3, 32, 32, generator=generator)
    for _ in range(4):
        assignment = space.draw(rng)
        network = inherit(parent, assignment).train()
        with torch.no_grad():
            torch.testing.assert_close(
                parent(images, choices.one_hot(assignment)), network(images), rtol=1e-4, atol=1e-4
            )
        learnt = inherit(parent, assignment).state_dict()
        for name, value in network.state_dict().items():
            if name.endswith(("running_mean", "running_var")):
                torch.testing.assert_close(learnt[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_reach_every_option_of_every_choice(mode: Mode) -> None:
    space = every_choice(mode)
    parent, choices = Supernet(space, mode), Choices(space)
    randomise(parent, torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    weights = choices.sample(5.0, torch.Generator().manual_seed(0))
    parent(torch.randn(8, 3, 32, 32), weights).square().mean().backward()
    for logits in choices.logits:
        assert logits.grad is not None
        assert (logits.grad != 0).all()
    assert all(parameter.grad is not None for parameter in parent.parameters())


def test_what_is_spread_is_where_it_would_be_subsampled_with_zeros_between() -> None:
    for large, small in ((16, 16), (16, 8), (16, 12), (28, 7), (15, 11), (62, 28)):
        features = torch.rand(2, 3, small, small, dtype=torch.double, requires_grad=True)
        wide = supernet._spread(features, large)
        torch.testing.assert_close(supernet._subsample(wide, small), features)
        assert int((wide != 0).sum()) == features.numel()
        torch.testing.assert_close(wide.sum(), features.sum())
        (gradient,) = torch.autograd.grad((wide * torch.arange(large)).sum(), features)
        torch.testing.assert_close(gradient[0, 0, 0].long(), torch.arange(small) * large // small, atol=1, rtol=0)


@pytest.mark.parametrize("mode", ["shared", "candidates"])
def test_what_networks_of_others_are_made_of_is_searched(mode: Mode) -> None:
    """In training, where batch norm keeps every signal as large as it is: what a block does wrong shows at the end."""
    space = SearchSpace.from_yaml(IMPORTED)
    torch.manual_seed(0)
    generator, rng = torch.Generator().manual_seed(0), random.Random(2)
    parent, choices = Supernet(space, mode), Choices(space)
    assert not any(isinstance(part, supernet.Paths) for part in parent.modules())
    randomise(parent, generator)
    for name, weight in parent.named_parameters():
        if "squeeze" in name or "classifier" in name:
            weight.data.normal_(generator=generator)
    images = torch.randn(16, 3, 32, 32, generator=generator)
    for _ in range(8):
        assignment = space.draw(rng)
        small = int(assignment["resolution"])
        index = torch.div(torch.arange(small) * 32, small, rounding_mode="floor")
        network = inherit(parent, assignment).train()
        with torch.no_grad():
            expected = network(images[..., index, :][..., index])
            assert expected.std(0).min() > 0.1
            found = parent(images, choices.one_hot(assignment))
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    parent(images, choices.sample(5.0, generator)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in parent.parameters())


@pytest.mark.parametrize(
    "stage",
    [
        "{out_channels: 16, stride: 2, expansion_ratio: 2, kernel_size: [1, 3], squeeze_excite: false, "
        "activation: relu, padding: same}",
        "{out_channels: 16, expansion_ratio: 2, kernel_size: 3, squeeze_excite: true, activation: relu, "
        "se_gate: [sigmoid, hsigmoid]}",
        "{block: universal_inverted_residual, out_channels: 16, stride: 2, expansion_ratio: 2, start_kernel_size: 3, "
        "middle_kernel_size: [0, 3], activation: relu}",
    ],
)
def test_what_no_mask_can_say_runs_as_a_module_for_each_block(stage: str) -> None:
    space = SearchSpace.from_yaml(
        f"{{name: odd, resolution: 16, classes: 3, stem: {{out_channels: 8}}, stages: [{stage}], "
        "head: {conv_channels: null}}"
    )
    parent, choices = Supernet(space).eval(), Choices(space)
    assert isinstance(parent.blocks[1], supernet.Paths)
    randomise(parent, torch.Generator().manual_seed(0))
    images = torch.randn(2, 3, 16, 16)
    for number in range(4):
        assignment = space.draw(random.Random(number))
        with torch.no_grad():
            expected = inherit(parent, assignment).eval()(images)
            torch.testing.assert_close(parent(images, choices.one_hot(assignment)), expected, rtol=1e-5, atol=1e-5)
