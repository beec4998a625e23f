"""A table predicts what was measured under its own conditions, and else says which of them differs."""

from typing import Any

import pytest

from fbnet_mobile.api.prediction import predict
from fbnet_mobile.arch import Architecture
from fbnet_mobile.latency.table import BLOCK, INVOCATION, Conditions, LatencyTable, Measurement

SAME: dict[str, Any] = {
    "device": "host",
    "cpu": "a processor",
    "runtime": "litert",
    "runtime_version": "2.1",
    "threads": 1,
    "precision": "fp32",
    "format": "tflite",
}


def table(network: Architecture, blocks: int) -> LatencyTable:
    rows = {
        LatencyTable.row_key(BLOCK, [block]): Measurement(us, us, us, us, us, us, 9, 3, 0.0)
        for block, us in zip(network.blocks[:blocks], (40.0, 30.0), strict=False)
    }
    rows[LatencyTable.row_key(INVOCATION)] = Measurement(10, 10, 10, 10, 10, 10, 9, 3, 0.0)
    return LatencyTable(Conditions(**SAME, statistic="min", space="tiny", date="2026-01-01"), rows)


def test_the_fixed_cost_is_counted_once(network: Architecture) -> None:
    assert predict(table(network, 2), network, **SAME) == (pytest.approx(60.0), "")


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("device", "board", "the device is board, that of the latency table host"),
        ("cpu", "another", "the processor is another, that of the latency table a processor"),
        ("runtime", "onnxruntime", "the runtime is onnxruntime, that of the latency table litert"),
        ("runtime_version", "3", "the runtime's version is 3, that of the latency table 2.1"),
        ("threads", 2, "the number of threads is 2, that of the latency table 1"),
        ("precision", None, "the precision is not known, that of the latency table fp32"),
        ("format", "onnx", "the format is onnx, that of the latency table tflite"),
    ],
)
def test_nothing_is_predicted_under_other_conditions(
    network: Architecture, field: str, value: object, why: str
) -> None:
    assert predict(table(network, 2), network, **{**SAME, field: value}) == (None, why)


def test_nothing_is_predicted_of_what_the_table_has_not(network: Architecture) -> None:
    assert predict(table(network, 2), None, **SAME) == (None, "the network is not made of a search space's blocks")
    predicted, why = predict(table(network, 1), network, **SAME)
    assert predicted is None
    assert why == f"the latency table has no block '{network.blocks[1].key}'"
