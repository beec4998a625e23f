from pathlib import Path

from torch import nn

from fbnet_mobile.data.data import load_data
from fbnet_mobile.engine.checkpoint import load_checkpoint
from fbnet_mobile.train.best import BestEpoch
from fbnet_mobile.train.recipe import TrainRecipe


def test_a_network_is_kept_only_if_it_is_better_than_those_before(tmp_path: Path) -> None:
    data = load_data("digits", resolution=16, limit=200)
    best = BestEpoch(tmp_path / "best.pt", "digits", data, TrainRecipe())
    kept = []
    for number, accuracy in enumerate([0.5, 0.9, 0.7, 0.9], start=1):
        module = nn.Linear(1, 1)
        nn.init.constant_(module.weight, float(number))
        best.offer(module, accuracy)
        checkpoint = load_checkpoint(best.path)
        kept.append((checkpoint.val_accuracy, checkpoint.state_dict["weight"].item()))
    assert kept == [(0.5, 1.0), (0.9, 2.0), (0.9, 2.0), (0.9, 2.0)]
