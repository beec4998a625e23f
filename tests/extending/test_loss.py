"""A loss with a teacher that the product does not know, from a package of its own."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from fbnet_mobile.engine.checkpoint import load_checkpoint, save_checkpoint

Run = Callable[..., subprocess.CompletedProcess[str]]
NETWORK = """
name: tiny
resolution: 16
blocks:
  - {kind: conv, out_channels: 8, stride: 2}
  - {kind: inverted_residual, out_channels: 16, expanded_channels: 24, stride: 2}
  - {kind: head, out_channels: 10, conv_channels: 32}
"""


def test_a_network_learns_the_answers_of_a_teacher_instead_of_the_labels(
    tmp_path: Path, command_with: Callable[[str], Run]
) -> None:
    train = command_with("loss")
    (tmp_path / "tiny.yaml").write_text(NETWORK)
    words = ("--architecture", "tiny.yaml", "--data", "digits", "--limit", "200", "--batch-size", "20")
    train("train", *words, "--epochs", "1", "-o", "teacher")

    # A teacher that answers 3 to everything: a network that follows it does so too, whatever the labels say.
    teacher = load_checkpoint(tmp_path / "teacher" / "best.pt")
    (bias,) = (name for name in teacher.state_dict if name.endswith("classifier.bias"))
    teacher.state_dict[bias].copy_(50.0 * torch.eye(10)[3])
    save_checkpoint(tmp_path / "threes.pt", teacher)
    student = ("--epochs", "3", "-o", "student", "--loss", "answers")
    refused = train("train", *words, *student, code=2)
    assert "the loss answers learns from a teacher; give its checkpoint with --teacher" in refused.stderr
    train("train", *words, *student, "--teacher", "threes.pt")

    log = pd.read_csv(tmp_path / "student" / "results.csv")
    assert log["train_loss"].iloc[-1] < 0.3 < log["train_loss"].iloc[0]
    assert log["train_accuracy"].iloc[-1] < 0.2, "the share of threes"
