from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

NETWORK = """
name: tiny
resolution: 16
blocks:
  - {kind: conv, out_channels: 8, stride: 2}
  - {kind: head, out_channels: 10, conv_channels: 16}
"""


def test_an_augmentation_from_outside_is_trained_with(command_with: Callable[[str], Any], tmp_path: Path) -> None:
    run = command_with("augmentation")
    (tmp_path / "network.yaml").write_text(NETWORK)

    def train(folder: str, augmentations: str, code: int = 0) -> Any:
        words = ("--architecture", "network.yaml", "--data", "digits", "--epochs", 1, "-o", folder, "--limit", 200)
        return run("train", *words, "--augmentations", augmentations, code=code)

    train("plain", "crop")
    train("wiped", "crop,cutout")

    plain, wiped = ((tmp_path / folder / "best.pt") for folder in ("plain", "wiped"))
    weights = [torch.load(path, weights_only=True)["state_dict"] for path in (plain, wiped)]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    refused = train("misspelt", "crop,cutuot", code=2)
    assert "unknown augmentation 'cutuot'; did you mean 'cutout'? choose one of crop, flip, " in refused.stderr
    assert not (tmp_path / "misspelt").exists()
    assert "augmentations" in train("plain", "crop,cutout", code=2).stderr  # another run than the one that is there
