"""fbnet-train as it is typed: recipes, a dry run, what it leaves, evaluation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from fbnet_mobile.cli import train
from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.metadata import ModelMetadata
from fbnet_mobile.zoo.peers import Peer

Call = Callable[..., Any]

NETWORK = """
name: tiny
resolution: 16
blocks:
  - {kind: conv, out_channels: 8, stride: 2}
  - {kind: head, out_channels: 3, conv_channels: 16}
"""


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command in an empty folder: its record, or, if it fails, its one line."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(NETWORK)

    def run(*words: str, fails: bool = False) -> Any:
        monkeypatch.setattr("sys.argv", ["fbnet-train", *words, "--json"])
        with pytest.raises(SystemExit) as ended:
            train.main()
        said = capsys.readouterr()
        assert bool(ended.value.code) is fails, said.err
        return said.err.splitlines()[-1] if fails else json.loads(said.out)

    return run


WORDS = ("--architecture", "tiny.yaml", "--data", "images", "--batch-size", "8")


def test_a_run_from_its_plan_to_its_evaluation(call: Call, make_folder: Callable[..., Path]) -> None:
    make_folder({"blue": 20, "green": 30, "red": 20}, size=(30, 20))
    Path("images/red/3.png").write_bytes(b"no image")
    words = (*WORDS, "--recipe", "quick", "--epochs", "2", "--mixup", "0.2")

    plan = call(*words, "--dry-run")
    assert (plan["steps"], plan["images"], plan["classes"]) == (7, {"train": 56, "val": 7, "test": 7}, 3)
    assert plan["options"]["ema_decay"] == 0.99
    assert plan["options"]["epochs"] == 2
    assert plan["schedule"]["2"] == 0
    assert plan["memory_bytes"] > 10**8
    assert not Path("run").exists()

    assert "red/3.png: it is no image of a format that is read" in call(*words, "-o", "run", fails=True)
    result = call(*words, "-o", "run", "--skip-damaged")
    assert (result["damaged"], result["test_images"]) == (1, 7)
    kept = yaml.safe_load(Path("run/args.yaml").read_text())
    assert (kept["recipe"], kept["epochs"], kept["warmup_epochs"]) == ("quick", 2, 0.5)
    assert "images/red/3.png" in Path("run/damaged.txt").read_text()
    names = {path.name for path in Path("run").iterdir()}
    assert names >= {"best.pt", "last.pt", "results.csv", "batch.png", "curves.png", "confusion_matrix.png"}

    taught = (*WORDS, "--teacher", "run/best.pt", "--dry-run")
    assert call(*taught)["options"]["loss"] == "distillation"
    assert "has 'green' where the data have 'red'" in call(*taught, "--classes", "red,blue", fails=True)

    words = ("--evaluate", "run/best.pt", "--data", "images")
    assert "cannot decode" in call(*words, fails=True)
    found = call(*words, "--skip-damaged", "-o", "judged")
    assert found["evaluation"] == json.loads(Path("judged/evaluation.json").read_text())
    assert [item["name"] for item in found["evaluation"]["classes"]] == ["blue", "green", "red"]
    assert "has no meaning; leave it out" in call(*WORDS, "--evaluate", "run/best.pt", fails=True)
    assert "so --checkpoint has no meaning" in call(*words, "--checkpoint", "run/best.pt", fails=True)


def test_a_part_of_the_classes_is_evaluated_on_that_part(call: Call, make_folder: Callable[..., Path]) -> None:
    make_folder({"blue": 20, "green": 30, "red": 20})
    call(*WORDS, "--classes", "red,blue", "--epochs", "1", "-o", "run")
    found = call("--evaluate", "run/best.pt", "--data", "images")
    assert [item["name"] for item in found["evaluation"]["classes"]] == ["blue", "red"]


def test_a_teacher_of_timm_and_images_without_labels(
    call: Call, make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch import nn

    make_folder({"blue": 20, "green": 30, "red": 20})
    Path("more").mkdir()
    for number in range(6):
        Image.new("RGB", (20, 16), (number, 9, 9)).save(f"more/{number}.png")
    asked = []

    def load_peer(name: str, *, pretrained: bool) -> Peer:
        asked.append((name, pretrained))
        module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
        return Peer(module, (1, 3, 32, 32), ModelMetadata("", ("a", "b", "c"), (0.5,) * 3, (0.5,) * 3))

    monkeypatch.setattr("fbnet_mobile.zoo.peers.load_peer", load_peer)
    words = (*WORDS, "--epochs", "1", "--unlabelled", "more", "--teacher")
    assert call(*words, "timm:some", "-o", "run")["history"][0]["train_loss"] > 0
    assert asked == [("timm:some", True)]
    assert yaml.safe_load(Path("run/args.yaml").read_text())["teacher"] == "timm:some"
    assert "cannot be mixed" in call(*words, "timm:some", "-o", "other", "--mixup", "0.1", fails=True)


def test_peers_teachers_are_of_the_classes_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_fabric import Fabric
    from torch import nn

    from fbnet_mobile.api.teacher import open_teacher

    metadata = ModelMetadata("", ("a", "b"), (0.5,) * 3, (0.5,) * 3)
    monkeypatch.setattr(
        "fbnet_mobile.zoo.peers.load_peer", lambda *_, **__: Peer(nn.Identity(), (1, 3, 8, 8), metadata)
    )
    more: Any = (("x", "y", "z"), ((0.5,) * 3, (0.5,) * 3), Fabric(accelerator="cpu", devices=1))
    with pytest.raises(UserError, match="the teacher timm:it has 2 classes where the data have 3; train it on these"):
        open_teacher("timm:it", *more)
    assert open_teacher("", *more) is None
