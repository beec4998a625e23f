"""The folder of a run: who works in it, what it continues, and what it refuses."""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from fbnet_mobile.data.data import Data, load_data
from fbnet_mobile.engine.checkpoint import load_checkpoint
from fbnet_mobile.engine.loop import Means
from fbnet_mobile.errors import JobError, UserError, enough_memory
from fbnet_mobile.files import locked
from fbnet_mobile.train.loop import train
from fbnet_mobile.train.recipe import TrainRecipe
from fbnet_mobile.train.results import Trained

PROGRAM = Path(__file__).parents[1] / "train" / "digits_run.py"
CASES = Path(__file__).parents[1] / "cases"
network: Callable[..., nn.Module] = runpy.run_path(str(PROGRAM))["network"]


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data("digits", resolution=16, limit=160, show_progress=False)


def run(data: Data, out: Path, **changes: Any) -> Trained:
    recipe = TrainRecipe(**{"epochs": 2, "batch_size": 32, "learning_rate": 0.05, "ema_decay": 0.9, **changes})
    fabric = Fabric(accelerator="cpu", devices=1)
    return train(network(True), data, recipe, out, fabric, architecture="digits", show_progress=False)


def test_a_second_run_in_a_folder_is_refused_and_told_who_works_there(data: Data, tmp_path: Path) -> None:
    with (
        locked(tmp_path / ".lock", "it"),
        pytest.raises(JobError, match=rf"the folder .* is in use by process {os.getpid()} on .* since .*; wait until"),
    ):
        run(data, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_row_that_a_kill_between_state_and_log_cost_is_there_again(data: Data, tmp_path: Path) -> None:
    run(data, tmp_path)
    log = tmp_path / "results.csv"
    whole = log.read_text()
    log.write_text("\n".join(whole.splitlines()[:2]) + "\n")
    run(data, tmp_path)
    assert log.read_text() == whole


def test_a_finished_run_whose_images_have_changed_is_refused(data: Data, tmp_path: Path) -> None:
    run(data, tmp_path)
    moved = replace(data, train=replace(data.train, labels=data.train.labels.flip(0)))
    brighter = replace(data, mean=(0.9, 0.9, 0.9))
    for changed in (moved, brighter):
        with pytest.raises(
            UserError,
            match=r"holds a training (that differs .* in its labels|with mean colour .*); use another folder",
        ):
            run(changed, tmp_path)


def test_results_without_a_state_are_not_overwritten(data: Data, tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_text("of mine")
    with pytest.raises(UserError, match=r"has best\.pt but no last\.pt to continue; use another folder"):
        run(data, tmp_path)
    assert (tmp_path / "best.pt").read_text() == "of mine"


def variants(content: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A state with one of its values, at any of three levels, of another kind."""
    for name, value in content.items():
        for wrong in (None, -1, "text", [], {}, torch.zeros(1), float("nan")):
            if type(value) is not type(wrong) or isinstance(value, float):
                yield name, {**content, name: wrong}
        yield name, {key: each for key, each in content.items() if key != name}
        if isinstance(value, dict) and len(value) < 12:
            for inner, changed in variants(value):
                yield f"{name}.{inner}", {**content, name: changed}
        if isinstance(value, list) and value and isinstance(value[0], dict):
            for inner, changed in variants(value[0]):
                yield f"{name}.{inner}", {**content, name: [changed, *value[1:]]}


def refusal(call: Callable[[], object]) -> str:
    """What a call is refused with; empty if it is not."""
    try:
        call()
    except UserError as error:
        return str(error)
    return ""


def test_a_state_with_other_types_or_shapes_is_one_line(data: Data, tmp_path: Path) -> None:
    run(data, tmp_path)
    last = tmp_path / "last.pt"
    content, refused = torch.load(last, weights_only=True), 0
    for name, changed in variants(content):
        torch.save(changed, last)
        message = refusal(lambda: run(data, tmp_path))
        assert message.isprintable(), name
        refused += message != ""
    assert refused > 150
    buffers = content["task"]["optimizer"]["state"][0]
    for wrong in ({**buffers, "momentum_buffer": torch.zeros(3)}, {"momentum_buffer": "text"}):
        state = {**content["task"]["optimizer"]["state"], 0: wrong}
        optimizer = {**content["task"]["optimizer"], "state": state}
        torch.save({**content, "task": {**content["task"], "optimizer": optimizer}}, last)
        assert "last.pt is damaged" in refusal(lambda: run(data, tmp_path))
    content["task"]["module"]["0.weight"] = content["task"]["module"]["0.weight"][:3]
    torch.save(content, last)
    with pytest.raises(UserError, match=r"last\.pt is damaged; remove it, or use another folder"):
        run(data, tmp_path)


def test_a_checkpoint_with_other_types_or_shapes_is_one_line(data: Data, tmp_path: Path) -> None:
    path = run(data, tmp_path).checkpoint
    content = torch.load(path, weights_only=True)
    for name, changed in variants({key: value for key, value in content.items() if key != "recipe"}):
        torch.save({**changed, "recipe": {}}, path)
        message = refusal(lambda: load_checkpoint(path))
        assert message.isprintable(), name
        # Weights are held against the architecture when the network is made; None says that the test is still to come,
        # a tensor of one number is a number, and a network is not quantised, nor partly, if nothing says so.
        right = changed.get("test_accuracy", 0) is None or isinstance(changed.get(name), torch.Tensor)
        right |= not {"quantized", "kept"} <= changed.keys()
        assert message or name.startswith("state_dict") or right, name
    weights = {**content["state_dict"], "5.weight": torch.full((10, 144), torch.nan)}
    torch.save({**content, "state_dict": weights}, path)
    with pytest.raises(UserError, match=r"best\.pt: its weights are not finite numbers \(5\.weight\)"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["checkpoint-pickle-cut.pt", "checkpoint-tensor-for-text.pt", "one-byte.pt"])
def test_files_that_ended_in_a_traceback_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(UserError, match=rf"^[^\n]*{name}[^\n]*$"):
        load_checkpoint(CASES / name)


def test_a_write_that_fails_in_the_first_process_ends_the_others_too(tmp_path: Path) -> None:
    (tmp_path / "results.csv").mkdir()  # where a file must stand
    done = subprocess.run(
        [sys.executable, PROGRAM, tmp_path, "1", "2", "plain"],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert "the first process failed: cannot write" in done.stderr or "cannot write" in done.stderr


def test_too_little_memory_says_what_was_too_large(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def huge(*_: Any) -> None:
        torch.empty(2**60)

    monkeypatch.setattr(nn.Flatten, "forward", huge)
    with pytest.raises(
        JobError,
        match=r"^too little memory for a batch of 32 images of 16 x 16 pixels; use a smaller --batch-size, [^\n]*$",
    ):
        run(data, tmp_path)
    with pytest.raises(RuntimeError, match="another"), enough_memory("it", "do that"):
        raise RuntimeError("another")


def test_means_are_over_the_steps_that_were_made() -> None:
    means = Means(Fabric(accelerator="cpu", devices=1), 2)
    assert means.read() is None
    for value in (1.0, 2.0, 6.0):
        means.add(torch.tensor(value), torch.tensor(-value))
    assert means.read() == [3.0, -3.0]


def test_the_folder_holds_one_row_an_epoch(data: Data, tmp_path: Path) -> None:
    result = run(data, tmp_path, epochs=3)
    log = pd.read_csv(tmp_path / "results.csv")
    assert log["epoch"].tolist() == [1, 2, 3]
    assert log["train_loss"].tolist() == [row.train_loss for row in result.history]
