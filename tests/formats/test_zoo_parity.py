"""A few networks of the zoo; benchmarks/export_parity.py does the same for all of them, and for random ones."""

import itertools

import pytest
from export_parity import TOLERANCES, compare

from fbnet_mobile.zoo import load_network


@pytest.mark.parametrize(
    ("name", "formats"),
    [
        ("fbnetv2-f1", ["tflite", "onnx", "coreml"]),
        ("dmasking-f1", ["tflite", "coreml"]),
        ("fbnet-a", ["tflite", "onnx"]),
    ],
)
def test_a_published_network_gives_what_pytorch_gives(name: str, formats: list[str]) -> None:
    rows = list(compare(load_network(name), formats))
    assert [(row["format"], row["precision"]) for row in rows] == list(itertools.product(formats, ("fp32", "fp16")))
    for row in rows:
        assert row["between_inputs"] > 0.1, "the test would prove nothing"
        assert row["relative_difference"] < TOLERANCES[row["precision"]]
        weight_bytes = {"fp32": 4, "fp16": 2}[row["precision"]]
        assert row["size_bytes"] > weight_bytes * load_network(name).params * 0.97
