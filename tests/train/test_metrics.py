"""Numbers of an evaluation by hand, and what a run leaves of it."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from fbnet_mobile.data.data import load_data
from fbnet_mobile.train.metrics import measure
from fbnet_mobile.train.pictures import draw_batch, draw_curves, write_evaluation
from fbnet_mobile.train.results import EpochResult

CLASSES = ("cat", "dog", "$cow$")


def test_each_number_is_what_it_says() -> None:
    """Six cats and dogs: a dog is taken for a cat with a probability of 0.6, a cat for a dog with 0.8."""
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    shares = torch.tensor([[0.8, 0.2, 0]] * 3 + [[0.2, 0.8, 0], [0.6, 0.4, 0], [0.2, 0.8, 0]])
    found = measure(shares.clamp(min=1e-9).log(), labels, CLASSES, [f"{number}.jpg" for number in range(6)])
    assert (found.images, found.accuracy, found.top5) == (6, pytest.approx(4 / 6), None)
    cat, dog, cow = found.classes
    assert (cat.images, dog.images, cow.images) == (4, 2, 0)
    assert (cat.precision, cat.recall, cat.f1) == pytest.approx((0.75, 0.75, 0.75))
    assert (dog.precision, dog.recall, dog.f1) == pytest.approx((0.5, 0.5, 0.5))
    assert (found.precision, found.recall, found.f1) == pytest.approx((0.625, 0.625, 0.625)), "of classes with images"
    assert found.confusion == ((3, 1, 0), (1, 1, 0), (0, 0, 0))
    # Five answers of 0.8, four of which are right; one of 0.6, which is wrong.
    assert found.calibration_error == pytest.approx((5 * abs(4 / 5 - 0.8) + 1 * 0.6) / 6, abs=1e-6)
    assert [(item.number, item.image, item.true, item.predicted) for item in found.mistakes] == [
        (3, "3.jpg", "cat", "dog"),
        (4, "4.jpg", "dog", "cat"),
    ]
    assert [item.probability for item in found.mistakes] == pytest.approx([0.8, 0.6])


def test_the_pictures_are_there(tmp_path: Path) -> None:
    data = load_data("digits", resolution=16, limit=100, show_progress=False)
    logits = torch.eye(10)[(data.test.labels + (torch.arange(len(data.test)) % 7 == 0)) % 10]
    found = measure(logits, data.test.labels, data.classes, data.test.names())
    assert found.top5 is not None
    write_evaluation(tmp_path, found, data.test)
    draw_curves(tmp_path / "curves.png", [EpochResult(epoch, 0.1, 2.0, 0.5, 0.5, 1.0) for epoch in (1, 2)])
    draw_batch(tmp_path / "batch.png", torch.randn(4, 3, 16, 16), torch.tensor([1, 2, 3, -1]), data)
    kept = json.loads((tmp_path / "evaluation.json").read_text())
    assert kept["mistakes"][0]["image"].startswith("image ")
    assert sum(map(sum, kept["confusion"])) == len(data.test)
    for name in ("batch", "curves", "confusion_matrix", "confusion_matrix_normalised", "mistakes"):
        with Image.open(tmp_path / f"{name}.png") as image:
            image.load()
            assert len(image.convert("RGB").getcolors(10**6) or []) > 10, name
