import os
from pathlib import Path

import pytest
import torch

from fbnet_mobile.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fbnet_mobile.errors import UserError

CHECKPOINT = Checkpoint(
    architecture="stem: 16\n",
    state_dict={"weight": torch.arange(6.0).view(2, 3)},
    classes=("cat", "dog"),
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.2, 0.1),
    resolution=32,
    val_accuracy=0.75,
    recipe={"epochs": 3, "flip": None},
)


class Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "run" / "best.pt", CHECKPOINT)

    loaded = load_checkpoint(tmp_path / "run" / "best.pt")

    assert torch.equal(loaded.state_dict.pop("weight"), CHECKPOINT.state_dict["weight"])
    assert loaded == Checkpoint(**{**vars(CHECKPOINT), "state_dict": {}})


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"format": "fbnet-mobile checkpoint 1", "state_dict": Attack(tmp_path / "owned")}, tmp_path / "a.pt")

    with pytest.raises(UserError, match="objects that could run code"):
        load_checkpoint(tmp_path / "a.pt")
    assert not (tmp_path / "owned").exists()


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "whole.pt", CHECKPOINT)
    whole = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("weights: none\n")
    (tmp_path / "empty.pt").touch()
    torch.save({"weight": torch.zeros(2)}, tmp_path / "foreign.pt")
    torch.save(torch.zeros(2), tmp_path / "tensor.pt")
    torch.save({"format": "fbnet-mobile checkpoint 1", "bias": 1}, tmp_path / "newer.pt")

    for name in ("missing", "cut", "text", "empty", "foreign", "tensor", "newer"):
        with pytest.raises(UserError, match=rf"^[^\n]*{name}.pt [^\n]*$"):
            load_checkpoint(tmp_path / f"{name}.pt")


@pytest.mark.filterwarnings("ignore:Validating sparse tensor:UserWarning")
@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10**6, 10**6),
        torch.ones(2, 3).to_sparse(),
        torch.empty(2, 3, device="meta"),
        torch.ones(2, 3, requires_grad=True),
    ],
    ids=["a trillion numbers of four bytes", "sparse", "without numbers", "with a gradient"],
)
def test_tensors_that_are_no_plain_numbers_are_refused(tensor: torch.Tensor, tmp_path: Path) -> None:
    content = {**vars(CHECKPOINT), "format": "fbnet-mobile checkpoint 1", "state_dict": {"weight": tensor}}
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(UserError, match=r"odd\.pt is damaged or no checkpoint; restore it or train again$"):
        load_checkpoint(tmp_path / "odd.pt")
