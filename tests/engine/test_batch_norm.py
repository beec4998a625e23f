from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from fbnet_mobile.data.data import load_data
from fbnet_mobile.engine.batch_norm import estimate_batch_norm, training_views

CPU = torch.device("cpu")


def test_statistics_are_of_all_classes_together(tmp_path: Path) -> None:
    """A folder of images is read class by class: what is between classes would be missing."""
    colours = {"dark": 40, "light": 200}
    for name, grey in colours.items():
        (tmp_path / name).mkdir()
        for number in range(160):
            Image.new("L", (8, 8), grey).save(tmp_path / name / f"{number}.png")
    data = load_data(str(tmp_path), resolution=8, show_progress=False)
    data = replace(data, mean=(0.0,) * 3, std=(1.0,) * 3)
    norm = nn.BatchNorm2d(3, affine=False)
    estimate_batch_norm(nn.Sequential(norm), training_views(data, 128, CPU, ()))
    between = (200 - 40) / 2 / 255
    assert norm.running_var is not None
    assert norm.running_var.tolist() == pytest.approx([between**2] * 3, rel=0.1)


def test_statistics_are_of_whole_images(tmp_path: Path) -> None:
    """Parts that are cut out of them show things larger than they are where the network is evaluated."""
    picture = Image.new("L", (64, 64), 40)
    picture.paste(200, (16, 16, 48, 48))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for number in range(40):
            picture.save(tmp_path / name / f"{number}.png")
    data = load_data(str(tmp_path), resolution=64, show_progress=False)
    assert data.train.store.cuts
    norm = nn.BatchNorm2d(3, affine=False)
    data = replace(data, mean=(0.0,) * 3, std=(1.0,) * 3)
    estimate_batch_norm(nn.Sequential(norm), training_views(data, 64, CPU, ("crop:0.35", "flip")))
    assert norm.running_mean is not None
    assert norm.running_mean.tolist() == pytest.approx([(40 + (200 - 40) / 4) / 255] * 3, rel=1e-2)
