import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from fbnet_mobile import files
from fbnet_mobile.data.data import load_data
from fbnet_mobile.engine.checkpoint import load_checkpoint
from fbnet_mobile.engine.processes import require_whole_weights
from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.train.evaluate import evaluate
from fbnet_mobile.train.recipe import TrainRecipe
from fbnet_mobile.train.results import Trained

PROGRAM = Path(__file__).with_name("digits_run.py")
EPOCHS = 5

run: Callable[..., Trained] = runpy.run_path(str(PROGRAM))["run"]
network: Callable[..., Any] = runpy.run_path(str(PROGRAM))["network"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run(tmp_path_factory.mktemp("undisturbed"), EPOCHS)


def test_it_learns_and_leaves_a_checkpoint_of_the_accuracy_it_states(undisturbed: Trained) -> None:
    data = load_data("digits", resolution=16, limit=600)
    checkpoint = load_checkpoint(undisturbed.checkpoint)
    module = network(batch_norm=True)
    module.load_state_dict(checkpoint.state_dict)

    assert undisturbed.test_accuracy > 0.8
    assert undisturbed.val_accuracy in [row.val_accuracy for row in undisturbed.history[1:]]
    assert evaluate(module, data.val, data) == checkpoint.val_accuracy == undisturbed.val_accuracy
    assert evaluate(module, data.test, data) == checkpoint.test_accuracy == undisturbed.test_accuracy
    assert checkpoint.classes == data.classes
    assert checkpoint.recipe["epochs"] == EPOCHS

    def exported(images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.float32
        assert images.flags.c_contiguous
        with torch.no_grad():
            return module.eval()(torch.from_numpy(images)).numpy()

    assert evaluate(exported, data.test, data, batch_size=1) == pytest.approx(undisturbed.test_accuracy)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(undisturbed: Trained, tmp_path: Path) -> None:
    job = subprocess.Popen([sys.executable, PROGRAM, tmp_path, str(EPOCHS), "1", "batch_norm"])
    log = tmp_path / "results.csv"
    give_up = time.monotonic() + 300
    while not (log.exists() and len(log.read_text().splitlines()) > 2):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    # What a process killed while it was writing would leave.
    (tmp_path / f".partial-{files._host()}-{job.pid}-half").mkdir()

    resumed = run(tmp_path, EPOCHS)

    assert 3 <= resumed.first_epoch <= EPOCHS
    assert _without_time(resumed) == _without_time(undisturbed)
    assert pd.read_csv(log)["epoch"].tolist() == list(range(1, EPOCHS + 1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "last.pt", "results.csv"]
    weights, expected = (load_checkpoint(item.checkpoint).state_dict for item in (resumed, undisturbed))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize("steps", [25, 70, 119])
def test_a_run_that_stops_within_an_epoch_goes_on_there(undisturbed: Trained, tmp_path: Path, steps: int) -> None:
    """The state is kept at every twentieth step; dropout draws the same as it would have."""
    made = []

    def stop_after(module: Any, inputs: Any) -> None:
        made.append(module.training)
        if sum(made) > steps:
            raise KeyboardInterrupt

    with monkeypatched(nn.AdaptiveAvgPool2d, stop_after), pytest.raises(KeyboardInterrupt):
        run(tmp_path, EPOCHS, save_minutes=0.0)
    state = torch.load(tmp_path / "last.pt", weights_only=True)["task"]
    per_epoch = 75
    assert state["done"] == steps % per_epoch // 20 * 20
    resumed = run(tmp_path, EPOCHS)
    assert _without_time(resumed) == _without_time(undisturbed)
    weights, expected = (load_checkpoint(item.checkpoint).state_dict for item in (resumed, undisturbed))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@contextmanager
def monkeypatched(kind: type[nn.Module], before: Callable[[Any, Any], None]) -> Iterator[None]:
    """Call ``before`` ahead of each forward of modules of a kind."""

    def watched(module: nn.Module, inputs: Any) -> None:
        if isinstance(module, kind):
            before(module, inputs)

    handle = nn.modules.module.register_module_forward_pre_hook(watched)
    try:
        yield
    finally:
        handle.remove()


def test_a_strategy_that_shards_weights_is_refused(tmp_path: Path) -> None:
    class FSDPStrategy:
        pass

    fabric = SimpleNamespace(strategy=FSDPStrategy())
    with pytest.raises(UserError, match=r"FSDPStrategy gives each process a part of the weights, .*: use ddp"):
        require_whole_weights(fabric)  # type: ignore[arg-type]


def test_an_interruption_does_not_forget_the_best_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[float] = [0.9, 0.2, 0.3]

    def evaluated(*_: Any, **__: Any) -> float:
        if not said:
            raise KeyboardInterrupt
        return said.pop(0)

    monkeypatch.setattr("fbnet_mobile.train.loop.evaluate", evaluated)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, EPOCHS)
    said += [0.4, 0.5]
    assert run(tmp_path, EPOCHS).val_accuracy == 0.9


def test_a_finished_run_is_not_trained_again(undisturbed: Trained) -> None:
    again = run(undisturbed.checkpoint.parent, EPOCHS)

    assert again == replace(undisturbed, first_epoch=EPOCHS + 1)


def test_another_recipe_is_refused(undisturbed: Trained) -> None:
    with pytest.raises(UserError, match=r"a training with learning_rate 0.05, and this one asks for 0.2; use another"):
        run(undisturbed.checkpoint.parent, EPOCHS, learning_rate=0.2)


def test_a_loss_that_explodes_ends_the_job_and_keeps_what_was_good(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"the loss became nan in epoch 1; .* learning rate below 1e"):
        run(tmp_path, 2, learning_rate=1e30)
    with pytest.raises(JobError, match="the loss became nan in epoch 1"):
        run(tmp_path, 2, learning_rate=1e30)


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, PROGRAM, tmp_path / "two", "2", "2", "plain"],
        check=True,
        timeout=120,
    )
    one = run(tmp_path / "one", 2, batch_norm=False)

    two = pd.read_csv(tmp_path / "two" / "results.csv")
    for row, losses in zip(one.history, two.to_dict("records"), strict=True):
        assert losses["train_loss"] == pytest.approx(row.train_loss, rel=1e-4)
        assert losses["val_accuracy"] == pytest.approx(row.val_accuracy, abs=0.01)


def test_the_learning_rate_rises_and_falls() -> None:
    recipe = TrainRecipe(epochs=10, learning_rate=0.4, warmup_epochs=2)

    rates = [recipe.learning_rate_at(epoch) for epoch in (0, 1, 2, 6, 10)]

    assert rates == pytest.approx([0, 0.2, 0.4, 0.2, 0])


def test_an_impossible_recipe_is_refused() -> None:
    with pytest.raises(UserError, match="label_smoothing is 2; give a finite number from 0 to 1"):
        TrainRecipe(label_smoothing=2)


def _without_time(result: Trained) -> list[Any]:
    return [replace(row, seconds=0) for row in result.history]
