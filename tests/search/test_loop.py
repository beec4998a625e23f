"""A whole small search on real digits, with a table that says what blocks cost."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from fbnet_mobile.arch import Architecture
from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.latency.table import BLOCK, INVOCATION, Conditions, LatencyTable, Measurement
from fbnet_mobile.nn import build
from fbnet_mobile.search import loop
from fbnet_mobile.search.loop import SearchRecipe, search
from fbnet_mobile.space import SearchSpace
from fbnet_mobile.train.augment import normalise
from fbnet_mobile.train.data import Data, load_data

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


def run(data: Data, out: Path, target_us: float = 120.0, recipe: SearchRecipe = RECIPE) -> loop.SearchResult:
    return search(
        SPACE, table(), target_us, data, recipe, out, Fabric(accelerator="cpu", devices=1), show_progress=False
    )


def test_search_meets_the_target_learns_and_is_reused(data: Data, tmp_path: Path) -> None:
    result = run(data, tmp_path)
    assert 0.97 * 120 < result.predicted_us <= 120
    assert Architecture.load(tmp_path / "architecture.yaml") == result.architecture
    assert json.loads((tmp_path / "result.json").read_text())["predicted_us"] == result.predicted_us
    assert result.history[-1].weight_loss < 0.9 * result.history[0].weight_loss
    assert result.history[-1].confidence > 0.55
    assert [row.epoch for row in result.history] == [1, 2, 3]
    stamp = (tmp_path / "last.pt").stat().st_mtime_ns
    assert run(data, tmp_path) == result
    assert (tmp_path / "last.pt").stat().st_mtime_ns == stamp


def test_training_can_begin_with_the_supernets_weights(data: Data, tmp_path: Path) -> None:
    result = run(data, tmp_path)
    network = loop.inherited_network(tmp_path, result.architecture).eval()
    # Without batch norm statistics of its own it is no finished network, but it is no untrained one either.
    assert loss_of(network, data) < loss_of(build(result.architecture).eval(), data) - 0.1
    other = result.architecture.with_classes(11)
    with pytest.raises(UserError, match="found another network than tiny-120us"):
        loop.inherited_network(tmp_path, other)
    with pytest.raises(UserError, match=r"last\.pt does not exist"):
        loop.inherited_network(tmp_path / "empty", result.architecture)


@torch.no_grad()
def loss_of(network: torch.nn.Module, data: Data) -> float:
    images, labels = next(data.val.batches(64))
    return float(torch.nn.functional.cross_entropy(network(normalise(images, data.mean, data.std)), labels))


def test_a_tighter_target_gives_a_cheaper_network(data: Data, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=1)
    slow, fast = (run(data, tmp_path / str(target), target, recipe) for target in (180.0, 60.0))
    assert fast.predicted_us <= 60
    assert slow.architecture.macs > 1.5 * fast.architecture.macs


def test_an_interrupted_search_ends_as_an_undisturbed_one(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(data, tmp_path / "whole")
    step = loop._Search._architecture_step

    def fails_in_the_second_epoch(self: loop._Search, *args: object) -> object:
        if args[3] == 2:
            raise JobError("power cut")
        return step(self, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loop._Search, "_architecture_step", fails_in_the_second_epoch)
        with pytest.raises(JobError, match="power cut"):
            run(data, tmp_path / "cut")
    resumed = run(data, tmp_path / "cut")
    assert resumed.architecture == whole.architecture
    for one, other in zip(resumed.history, whole.history, strict=True):
        first, second = asdict(one), asdict(other)
        first.pop("seconds"), second.pop("seconds")
        assert first == pytest.approx(second, nan_ok=True)


def test_what_cannot_work_is_refused_in_one_line(data: Data, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"target latency 20 us cannot be reached: .* take 36\.26 to 201\.2 us"):
        run(data, tmp_path / "fast", 20.0)
    assert not (tmp_path / "fast").exists()
    run(data, tmp_path / "run", recipe=replace(RECIPE, epochs=1))
    with pytest.raises(UserError, match="holds a search with another learning_rate; use another folder"):
        run(data, tmp_path / "run", recipe=replace(RECIPE, epochs=1, learning_rate=0.2))
    with pytest.raises(JobError, match="the loss became nan in epoch 1"):
        run(data, tmp_path / "nan", recipe=replace(RECIPE, epochs=1, learning_rate=1e30))
