"""A whole small search on real digits, with a table that says what blocks cost."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric

from fbnet_mobile.arch import Architecture
from fbnet_mobile.blocks.network import build
from fbnet_mobile.cost.bounds import cost_range
from fbnet_mobile.cost.constraint import Constraint, latency_constraint, limit_on
from fbnet_mobile.data.augment import normalise
from fbnet_mobile.data.data import Data, load_data
from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.latency.table import BLOCK, INVOCATION, Conditions, LatencyTable, Measurement
from fbnet_mobile.search import loop
from fbnet_mobile.search.inherit import inherited
from fbnet_mobile.search.loop import search
from fbnet_mobile.search.recipe import SearchRecipe
from fbnet_mobile.search.results import Searched
from fbnet_mobile.search.strategies.gradient import architecture_objective
from fbnet_mobile.search.supernet import Supernet
from fbnet_mobile.space import RESOLUTION, SearchSpace

SPACE = SearchSpace.from_yaml(
    """
name: tiny
resolution: 16
classes: 10
stem: {out_channels: 8, stride: 2}
stages:
  - out_channels: [8, 12, 16]
    depth: 2
    skip: true
    expansion_ratio: [2, 3]
    kernel_size: [3, 5]
    squeeze_excite: [false, true]
    activation: [relu, hswish]
  - out_channels: [16, 24, 32]
    stride: 2
    expansion_ratio: [2, 3]
    kernel_size: [3, 5]
    squeeze_excite: false
    activation: relu
head: {conv_channels: [32, 64]}
"""
)
RECIPE = SearchRecipe(epochs=3, batch_size=16, architecture_learning_rate=0.1)


def table() -> LatencyTable:
    """Blocks that cost 1 us for every 2,000 multiply-accumulates, and 5 us for an invocation."""

    def row(latency_us: float) -> Measurement:
        return Measurement(latency_us, *[latency_us] * 5, runs=1, rounds=1, uncertainty=0.0)

    rows = {LatencyTable.row_key(INVOCATION): row(5.0)}
    rows |= {LatencyTable.row_key(BLOCK, [block]): row(5.0 + block.macs / 2e3) for block in SPACE.candidates()}
    return LatencyTable(Conditions("host", "cpu", "litert", "1", 1, "fp32", "min", "tiny", "2026-01-01"), rows)


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data("digits", resolution=16, limit=640, show_progress=False)


def run(
    data: Data, out: Path, target_us: float = 120.0, recipe: SearchRecipe = RECIPE, *more: Constraint, **options: Any
) -> Searched:
    constraints = [latency_constraint(SPACE, table(), target_us), *more]
    fabric = Fabric(accelerator="cpu", devices=1)
    return search(SPACE, constraints, data, recipe, out, fabric, show_progress=False, **options)


def predicted_us(result: Searched) -> float:
    return table().total(result.architecture)


def test_search_meets_the_target_learns_and_is_reused(data: Data, tmp_path: Path) -> None:
    result = run(data, tmp_path)
    assert 0.97 * 120 < predicted_us(result) <= 120
    assert Architecture.load(tmp_path / "architecture.yaml") == result.architecture
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["constraints"][0]["value"] == result.constraints[0].value == pytest.approx(predicted_us(result))
    assert written["most_likely"] == result.most_likely
    assert result.history[-1].weight_loss < 0.9 * result.history[0].weight_loss
    assert result.history[-1].strategy["confidence"] > 0.55
    assert [row.epoch for row in result.history] == [1, 2, 3]
    stamp = (tmp_path / "last.pt").stat().st_mtime_ns
    assert run(data, tmp_path) == result
    assert (tmp_path / "last.pt").stat().st_mtime_ns == stamp


def test_training_can_begin_with_the_supernets_weights(data: Data, tmp_path: Path) -> None:
    result = run(data, tmp_path)
    network = inherited(tmp_path, result.architecture).network
    # With the statistics of the batch: those that it inherits are of all networks together.
    assert loss_of(network.train(), data) < loss_of(build(result.architecture).train(), data) - 0.3
    other = result.architecture.with_classes(11)
    with pytest.raises(UserError, match="found another network than tiny-120us"):
        inherited(tmp_path, other)
    with pytest.raises(UserError, match=r"last\.pt does not exist"):
        inherited(tmp_path / "empty", result.architecture)


@torch.no_grad()
def loss_of(network: torch.nn.Module, data: Data) -> float:
    images, labels = next(data.val.batches(64))
    return float(torch.nn.functional.cross_entropy(network(normalise(images, data.mean, data.std)), labels))


def test_a_tighter_target_gives_a_cheaper_network(data: Data, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=1)
    slow, fast = (run(data, tmp_path / str(target), target, recipe) for target in (180.0, 60.0))
    assert predicted_us(fast) <= 60
    assert slow.architecture.macs > 1.5 * fast.architecture.macs


def same(one: Searched, other: Searched) -> None:
    assert one.architecture == other.architecture
    for first, second in zip(one.history, other.history, strict=True):
        assert replace(first, seconds=0.0).columns() == pytest.approx(
            replace(second, seconds=0.0).columns(), nan_ok=True
        )


def test_several_targets_share_the_warm_up_and_end_as_alone(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, warmup=2 / 3)
    alone = {target: run(data, tmp_path / "alone" / str(target), target, recipe) for target in (80.0, 150.0)}
    trained: list[int] = []
    epoch = loop._Search.run

    def counted(self: loop._Search, number: int) -> Any:
        trained.append(number)
        return epoch(self, number)

    monkeypatch.setattr(loop._Search, "run", counted)
    for target, result in alone.items():
        folder = tmp_path / "shared" / str(target)
        same(run(data, folder, target, recipe, shared_warmup=tmp_path / "shared" / "warmup.pt"), result)
    assert trained == [1, 2, 3, 3]
    assert alone[80.0].architecture != alone[150.0].architecture
    other = replace(recipe, learning_rate=0.2)
    with pytest.raises(UserError, match=r"shared holds a search with learning_rate 0\.1, and this one asks for 0\.2"):
        run(data, tmp_path / "other", 80.0, other, shared_warmup=tmp_path / "shared" / "warmup.pt")


@pytest.mark.parametrize("changes", [{"mode": "candidates"}, {"objective": "product"}], ids=str)
def test_other_ways_to_search_meet_all_constraints_too(changes: dict[str, Any], data: Data, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=1, **changes)
    params = limit_on(SPACE, "params", 4500)
    result = run(data, tmp_path, 120.0, recipe, params)
    assert predicted_us(result) <= 120
    assert result.architecture.params <= 4500
    assert {"expected_latency_us", "expected_params"} <= set(result.history[0].columns())
    network = inherited(tmp_path, result.architecture).network
    assert network[0][0].weight.shape[0] == result.architecture.blocks[0].out_channels


def test_the_objective_is_the_published_product_or_a_constraint() -> None:
    cross_entropy, latency_us = torch.tensor(2.0), torch.tensor(100.0, requires_grad=True)
    excesses = [latency_us / 80 - 1, torch.tensor(-0.5)]
    product = replace(RECIPE, objective="product", alpha=0.2, beta=0.6)
    found = architecture_objective(cross_entropy, latency_us, excesses, [0.0, 0.7], product)
    assert float(found.detach()) == pytest.approx(2 * 0.2 * math.log(100) ** 0.6 + 0.5 * 0.2**2)
    (slope,) = torch.autograd.grad(found, latency_us)
    assert float(slope) == pytest.approx(2 * 0.2 * 0.6 * math.log(100) ** -0.4 / 100)
    found = architecture_objective(cross_entropy, latency_us, excesses, [0.1, 0.2], RECIPE)
    assert float(found.detach()) == pytest.approx(2 + 0.5 * (0.1 + 0.25) ** 2)


def test_one_resolution_a_step_learns_which_to_take(data: Data, tmp_path: Path) -> None:
    space = SPACE.changed(resolution=[8, 12, 16])
    macs = limit_on(space, "macs", 60_000)
    recipe = replace(RECIPE, one_resolution=True)
    fabric = Fabric(accelerator="cpu", devices=1)
    result = search(space, [macs], data, recipe, tmp_path, fabric, show_progress=False)
    assert result.architecture.macs <= 60_000
    assert result.history[-1].weight_loss < result.history[0].weight_loss
    logits = torch.load(tmp_path / "last.pt", weights_only=True)["task"]["strategy"]["choices"]["logits.0"]
    assert len(set(logits.tolist())) == 3, "the weight of every resolution moves"


@pytest.mark.parametrize(
    ("one_resolution", "expected"),
    [(True, [(1 / 3, (1, 0, 0)), (1 / 3, (0, 1, 0)), (1 / 3, (0, 0, 1))]), (False, [(1.0, (1, 1, 1))])],
    ids=["drawn", "all"],
)
def test_the_estimate_tries_each_resolution_that_may_be_drawn(
    one_resolution: bool, expected: list[Any], data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, ran = [], []
    forward = Supernet.forward

    def seen(self: Supernet, images: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        ran.append(tuple(int(weight > 0) for weight in weights[RESOLUTION]))
        return forward(self, images, weights)

    def forecast(supernet: Supernet, passes: Any, *_: Any) -> str:
        for share, loss in passes:
            loss(2)
            tried.append((pytest.approx(share), ran[-1]))
        raise JobError("tried")

    monkeypatch.setattr(Supernet, "forward", seen)
    monkeypatch.setattr(loop, "forecast", forecast)
    space, recipe = SPACE.changed(resolution=[8, 12, 16]), replace(RECIPE, one_resolution=one_resolution)
    macs, fabric = limit_on(space, "macs", 60_000), Fabric(accelerator="cpu", devices=1)
    with pytest.raises(JobError, match="tried"):
        search(space, [macs], data, recipe, tmp_path, fabric)
    assert tried == expected


def test_tensorboard_shows_every_probability_once_after_a_resumed_run(data: Data, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    run(data, tmp_path, tensorboard=True)
    written = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    for tag in ("search/expected_latency_us", "stage1.out_channels/12", "stage1.block2.skip/True"):
        assert tag.encode() in written


def test_what_cannot_work_is_refused_in_one_line(data: Data, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has latency on host of at most 20\.0 us: .* is 36\.3 us to 201\.2 us"):
        run(data, tmp_path / "fast", 20.0)
    assert not (tmp_path / "fast").exists()
    macs = limit_on(SPACE, "macs", 130_000)
    most = max(float(array.max()) for array in macs.costs.values())
    opposite = replace(macs, name="idleness", costs={name: most - array for name, array in macs.costs.items()})
    with pytest.raises(UserError, match=r"no network of space tiny was found that has .* and .*; raise one of them"):
        run(data, tmp_path / "both", 120.0, RECIPE, replace(opposite, limit=1.05 * least(opposite)))
    assert not (tmp_path / "both").exists()
    run(data, tmp_path / "run", recipe=replace(RECIPE, epochs=1))
    with pytest.raises(UserError, match=r"a search with learning_rate 0\.1, and this one asks for 0\.2; use another"):
        run(data, tmp_path / "run", recipe=replace(RECIPE, epochs=1, learning_rate=0.2))
    with pytest.raises(UserError, match="unknown mode 'parallel'; choose one of shared, candidates, paths"):
        replace(RECIPE, mode="parallel")  # type: ignore[arg-type]


def least(constraint: Constraint) -> float:
    """What the cheapest network costs."""
    return cost_range(SPACE, constraint).lowest


def test_a_warm_up_is_taken_by_searches_that_differ_in_limits_alone(data: Data, tmp_path: Path) -> None:
    recipe, warmup = replace(RECIPE, epochs=2, warmup=0.5), tmp_path / "warmup.pt"
    run(data, tmp_path / "first", 120.0, recipe, shared_warmup=warmup)
    with pytest.raises(
        UserError, match=r"holds a search that differs from this one in its constraints; use another folder"
    ):
        run(data, tmp_path / "more", 120.0, recipe, limit_on(SPACE, "params", 9000), shared_warmup=warmup)
    other = latency_constraint(SPACE, table(), 120.0)
    slower = replace(other, costs={name: 1.01 * array for name, array in other.costs.items()})
    fabric = Fabric(accelerator="cpu", devices=1)
    with pytest.raises(
        UserError, match=r"holds a search that differs from this one in its constraints; use another folder"
    ):
        search(SPACE, [slower], data, recipe, tmp_path / "slower", fabric, shared_warmup=warmup, show_progress=False)


def test_epochs_of_warm_up_say_nothing_of_an_accuracy_that_nothing_has_yet(
    data: Data, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    limits = [latency_constraint(SPACE, table(), 120.0)]
    result = search(SPACE, limits, data, replace(RECIPE, epochs=2, warmup=0.5), tmp_path, fabric)
    first, second = (line for line in capfd.readouterr().err.splitlines() if line.startswith("epoch "))
    assert "weight loss" in first
    assert "accuracy" not in first
    assert "architecture accuracy" in second
    assert result.history[0].architecture_accuracy is None
    assert (tmp_path / "log.csv").read_text().splitlines()[1].split(",")[2:4] == ["", ""]


def test_a_loss_that_is_no_number_stops_the_search_and_keeps_the_epochs_before(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = SearchRecipe.learning_rate_at
    monkeypatch.setattr(
        SearchRecipe, "learning_rate_at", lambda self, progress: rate(self, progress) * (1e30 if progress > 0.4 else 1)
    )
    with pytest.raises(
        JobError, match=r"the loss became nan in epoch 2; the epochs before it are kept in .* learning rate below 0\.1"
    ):
        run(data, tmp_path)
    monkeypatch.undo()
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert len(state["history"]) == 1
    assert all(value.isfinite().all() for value in state["task"]["supernet"].values())
    assert [row.epoch for row in run(data, tmp_path).history] == [1, 2, 3]
