"""A search within a trained network: the supernet is that network, whose channels are sorted."""

import itertools
import random
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor, nn

import fbnet_mobile as fm
from fbnet_mobile.api.search import plan
from fbnet_mobile.arch import Architecture
from fbnet_mobile.blocks.network import Network, build, calibrate_batch_norm
from fbnet_mobile.cost.constraint import limit_on
from fbnet_mobile.data.data import load_data
from fbnet_mobile.engine.checkpoint import load_checkpoint
from fbnet_mobile.errors import UserError
from fbnet_mobile.search.choices import Choices, Weights
from fbnet_mobile.search.importance import by_images, by_weights, sort_channels
from fbnet_mobile.search.inherit import inherit, inherited
from fbnet_mobile.search.loop import search
from fbnet_mobile.search.recipe import SearchRecipe
from fbnet_mobile.search.start import Start
from fbnet_mobile.search.supernet import Supernet
from fbnet_mobile.space import RESOLUTION, SearchSpace
from fbnet_mobile.zoo import load_architecture
from fbnet_mobile.zoo.importing import imported
from tests.space.test_within import NETWORK

SIDE = 32


def trained(network: Architecture) -> Network:
    """With weights and statistics as no fresh network has them, so that channels differ; in double precision."""
    torch.manual_seed(0)
    module = build(network)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
        elif isinstance(part, nn.Conv2d | nn.Linear) and part.bias is not None:
            nn.init.normal_(part.bias, std=0.2)
    calibrate_batch_norm(module.double(), torch.randn(8, 3, SIDE, SIDE, dtype=torch.double))
    return module


def small(name: str) -> Architecture:
    if name == "trained":
        return NETWORK
    found = imported(name).architecture if ":" in name or "lite" in name else load_architecture(name)
    network = found.with_classes(6)
    blocks = [
        {"kind": block.kind, **block.model_dump(exclude={"in_channels", "resolution"})} for block in network.blocks
    ]
    return Architecture.model_validate({"name": name, "resolution": SIDE, "blocks": blocks})


def doubled(weights: Weights) -> Weights:
    return {name: weight.double() for name, weight in weights.items()}


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


FAMILIES = [
    "trained",
    "fbnet-a",
    "fbnetv2-l2",
    "efficientnet_lite0",
    "timm:mobilenetv1_100",
    "timm:tf_mobilenetv3_small_075",
    "timm:lcnet_050",
    "timm:fbnetv3_b",
    "timm:tinynet_e",
    "torchvision:mobilenet_v2",
    "timm:mobilenetv4_conv_small",
    "timm:tf_efficientnetv2_b0",
]


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_with_everything_at_its_largest_it_is_the_network(name: str) -> None:
    network, space = small(name), SearchSpace.within(small(name))
    module, images = trained(network), torch.randn(3, 3, SIDE, SIDE, dtype=torch.double)
    before = module(images)
    with torch.enable_grad():
        importance = by_images(module, space, [(images, torch.tensor([0, 1, 2]))])
    assert importance.keys() == by_weights(module, space).keys()
    for order in (importance, by_weights(module, space)):
        sort_channels(module, space, order)
        assert distance(module(images), before) < 1e-9
    supernet, choices, rng = Supernet(space).double(), Choices(space).double(), random.Random(0)
    supernet.adopt(module)
    supernet.eval()
    assert distance(supernet(images, doubled(choices.one_hot(space.first()))), before) < 1e-9
    for _ in range(3):
        drawn = space.draw(rng)
        weights = doubled(choices.one_hot(drawn))
        alone = inherit(supernet, drawn).double().eval()
        shown = supernet.resized(images, int(drawn[RESOLUTION]))
        assert distance(supernet(images, weights), alone(shown)) < 1e-5  # a copy of its weights is of 32 bits


def test_channels_that_do_nothing_come_last() -> None:
    space, module = SearchSpace.within(NETWORK), trained(NETWORK)
    images, labels = torch.randn(8, 3, SIDE, SIDE, dtype=torch.double), torch.arange(8) % 6
    dead = torch.randperm(24)[:9]
    with torch.no_grad():
        for block in (2, 3, 4):  # all that a residual joins
            norm = module[block].project.norm
            norm.weight[dead] = 0
            norm.bias[dead] = 0
    importance = by_images(module, space, [(images, labels)])["block3.out_channels"]
    assert set(importance.argsort()[:9].tolist()) == set(dead.tolist())
    module = trained(NETWORK)
    with torch.no_grad():
        for block in (3, 4, 5):
            module[block].expand.conv.weight[:, dead] = 0
    by = by_weights(module, space)["block3.out_channels"]
    assert set(by.argsort()[:9].tolist()) == set(dead.tolist())


def test_importance_is_the_square_of_the_derivative_by_a_factor() -> None:
    space, module = SearchSpace.within(NETWORK), trained(NETWORK)
    images, labels = torch.randn(4, 3, SIDE, SIDE, dtype=torch.double), torch.arange(4)
    importance = by_images(module, space, [(images, labels)])["block3.out_channels"]
    factor = torch.ones(24, dtype=torch.double, requires_grad=True)
    features = images
    for number, part in enumerate(module):
        out = part(features)
        if number in (2, 3, 4):
            added = out if number == 2 else out - features
            out = added * factor[:, None, None] + (0 if number == 2 else features)
        features = out
    (by_hand,) = torch.autograd.grad(nn.functional.cross_entropy(features, labels), factor)
    torch.testing.assert_close(importance, by_hand.square())


DIGITS = """
name: digits
resolution: 16
blocks:
  - {kind: conv, out_channels: 16, stride: 2}
  - {kind: inverted_residual, out_channels: 16, expanded_channels: 32, kernel_size: 5}
  - {kind: inverted_residual, out_channels: 16, expanded_channels: 32}
  - {kind: head, out_channels: 10, conv_channels: 64}
"""


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    (folder / "net.yaml").write_text(DIGITS)
    fm.train(architecture=str(folder / "net.yaml"), data="digits", epochs=6, batch_size=32, output=folder / "run")
    return folder / "run" / "best.pt"


def test_from_a_trained_network_to_a_smaller_one(full: Path, tmp_path: Path) -> None:
    found = fm.search(within=full, data="digits", max_macs="40k", epochs=3, batch_size=32, output=tmp_path / "small")
    assert found.found[0].macs <= 40_000
    history = found.found[0].history
    begun = limit_on(SearchSpace.within(Start.load(full).architecture), "macs", 1e9)
    space = SearchSpace.within(Start.load(full).architecture)
    whole = begun.total(space, space.first())
    assert 0.8 * whole < history[0].strategy["expected_macs"] <= whole  # it starts as the network
    made = fm.train(inherit=tmp_path / "small", teacher=str(full), data="digits", output=tmp_path / "ours")
    assert made.test_accuracy > 0.7
    assert load_checkpoint(made.checkpoint).recipe["optimizer"] == "adamw"  # that of finetune


def test_few_images_are_searched_in_small_batches(
    full: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"within": full, "data": "digits", "limit": 100, "max_macs": "40k"}
    fm.search(**few, epochs=1, output=tmp_path)
    assert "100 training images: 1 epochs in batches of 8," in capsys.readouterr().err
    assert "100 training images: 60 epochs in batches of 8," in str(plan(**few))


def test_the_supernet_begins_as_the_teacher(full: Path, tmp_path: Path) -> None:
    start = Start.load(full)
    space = SearchSpace.within(start.architecture)
    data = start.colours(load_data("digits", resolution=16, limit=200, show_progress=False))
    assert data.mean == start.checkpoint.mean
    fabric = Fabric(accelerator="cpu", devices=1)
    recipe = SearchRecipe(epochs=1, learning_rate=1e-9, warmup=0.9)
    limit = limit_on(space, "macs", 50_000)
    result = search(space, [limit], data, recipe, tmp_path, fabric, start=start, show_progress=False)
    network = inherited(tmp_path, result.architecture)
    assert network.colours == (data.mean, data.std)
    # Nothing was learned: the network that was found is a part of the sorted one.
    whole = start.sorted_network(space, data, data.train.split(recipe.weight_share, 0)[0], recipe)
    first = next(iter(network.network.parameters()))
    torch.testing.assert_close(first, next(iter(whole.parameters()))[: len(first)], atol=1e-5, rtol=0)


def test_what_does_not_belong_together_is_refused(full: Path, tmp_path: Path) -> None:
    text = SearchSpace.within(Start.load(full).architecture).to_yaml()
    for old, new, said in (
        ("kernel_size: [5, 3]", "kernel_size: [3]", "block2 of space"),
        ("resolution: [16, 14, 12, 10, 8]", "resolution: [14]", "largest resolution"),
    ):
        assert old in text
        (tmp_path / "mine.yaml").write_text(text.replace(old, new))
        with pytest.raises(UserError, match=said):
            fm.search(
                within=full, space=str(tmp_path / "mine.yaml"), data="digits", max_macs="40k", output=tmp_path / "run"
            )
    with pytest.raises(UserError, match="not written block by block"):
        fm.search(within=full, space="small", data="digits", max_macs="40k", output=tmp_path / "run")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match="give its checkpoint with --within"):
        fm.search(space=str(tmp_path / "mine.yaml"), data="digits", max_macs="40k", output=tmp_path / "run")
    (tmp_path / "photos").mkdir()
    for part, name in itertools.product(("train", "val", "test"), ("cats", "dogs")):
        (tmp_path / "photos" / part / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "photos" / part / name / "one.png")
    with pytest.raises(UserError, match="tells 10 classes from one another"):
        fm.search(within=full, data=str(tmp_path / "photos"), max_macs="40k", output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
