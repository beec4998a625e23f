from dataclasses import replace
from pathlib import Path

from torch import nn

from fbnet_mobile.data.data import load_data
from fbnet_mobile.engine.checkpoint import load_checkpoint
from fbnet_mobile.train.best import BestEpoch
from fbnet_mobile.train.recipe import TrainRecipe


def test_the_last_network_is_kept_that_none_before_it_beats_by_more_than_chance(tmp_path: Path) -> None:
    data = load_data("digits", resolution=16)
    data = replace(data, val=data.val.limit(100, 0))  # so that at 90 % the standard error is 3 points
    best = BestEpoch(tmp_path / "best.pt", "digits", data, TrainRecipe())
    kept = []
    for number, accuracy in enumerate([0.5, 0.9, 0.88, 0.86, 0.88, 0.95, 0.92], start=1):
        module = nn.Linear(1, 1)
        nn.init.constant_(module.weight, float(number))
        best.offer(module, accuracy)
        checkpoint = load_checkpoint(best.path)
        kept.append((checkpoint.val_accuracy, checkpoint.state_dict["weight"].item()))
    assert kept == [(0.5, 1), (0.9, 2), (0.88, 3), (0.88, 3), (0.88, 5), (0.95, 6), (0.95, 6)]
