from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.extending.test_augmentation import NETWORK


def test_a_data_source_from_outside_is_trained_on(command_with: Callable[[str], Any], tmp_path: Path) -> None:
    run = command_with("data_source")
    (tmp_path / "network.yaml").write_text(NETWORK)

    def train(data: str, code: int = 0) -> Any:
        words = ("--architecture", "network.yaml", "--epochs", 3, "--batch-size", 16, "-o", "run")
        return run("train", "--data", data, *words, code=code)

    done = train("stripes:200")

    assert "on the 20 validation images" in done.stdout
    accuracy = float((tmp_path / "run" / "results.csv").read_text().splitlines()[-1].split(",")[-2])
    assert accuracy > 0.9  # of two classes, which a convolution tells apart at once
    assert "is no number of images; give stripes:80" in train("stripes:many", code=2).stderr
    assert "choose one of digits, torchvision, folder, webdataset, stripes, CIFAR10" in train("strpes", code=2).stderr
    assert "asks for stripes:220" in train("stripes:220", code=2).stderr  # the finished run is on other images
