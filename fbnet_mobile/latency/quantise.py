"""Files of fewer bits for measuring: what ``export.precision`` makes, without what it costs."""

from pathlib import Path

import numpy as np

from fbnet_mobile.export import formats
from fbnet_mobile.export.graph import Graph


def write(graph: Graph, path: Path, format: str, precision: str) -> None:  # noqa: A002
    """Write a graph in a precision, int8 with the ranges of random inputs."""
    images = np.random.default_rng(0).standard_normal(graph.input_shape).astype(np.float32)
    formats.write(graph, path, format, precision=precision, calibration=images)
