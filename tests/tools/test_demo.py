import runpy
from pathlib import Path

import pytest

DEMO = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "demo.py"))


def test_a_demo_on_other_images_does_not_touch_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [str(DEMO["run_folder"](source)) for source in ("digits", "cifar10", "digits", "cifar10")]
    assert folders == ["runs/demo", "runs/demo-cifar10", "runs/demo", "runs/demo-cifar10"]


@pytest.mark.parametrize(
    ("budget", "images", "epochs"), [(200_000, 45_000, 4), (200_000, 1_437, 25), (1_000, 9_000, 1)]
)
def test_epochs_fit_the_budget(budget: int, images: int, epochs: int) -> None:
    assert DEMO["epochs"](budget, images) == epochs
