"""What can be done to a network before it is quantised, by looking at what rounding will do to it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fbnet_mobile.formats.ranges import METHODS, Histogram, Ranges
from fbnet_mobile.graph.lowered import Lowered
from fbnet_mobile.graph.operations import INPUT, Graph
from fbnet_mobile.graph.rounded import Rounded

_BATCH = 16


@torch.no_grad()
def observe_graph(graph: Graph, images: Tensor) -> dict[str, Histogram]:
    """Return a histogram of what the input and each node gives, by name, for (N, channels, height, width) images."""
    seen: dict[str, Histogram] = {}
    lowered = Lowered(graph)
    for batch in torch.split(images, _BATCH):
        for node, values in lowered.values(batch):
            seen.setdefault(INPUT if node is None else node.name, Histogram()).add(values.numpy())
    return seen


def find_ranges(graph: Graph, seen: Mapping[str, Histogram], method: str) -> Ranges:
    """Return the range of each value by one of :data:`fbnet_mobile.formats.ranges.METHODS`; of the output the whole."""
    whole = METHODS["min-max"]
    return {name: (whole if name == graph.output else METHODS[method])(found) for name, found in seen.items()}


@torch.no_grad()
def correct_biases(graph: Graph, images: NDArray[Any], method: str, weight_levels: int) -> Graph:
    """Return a graph of other biases: each layer's gives the mean, over the images, that it has without rounding.

    Empirical bias correction (Nagel et al. 2019, arXiv 1906.04721, section 4.2), layer after layer, so that each is
    also corrected for what rounding before it does.

    Args:
        graph: the network.
        images: (N, channels, height, width), as its input.
        method: by which activations are rounded.
        weight_levels: of weights, to either side of zero.
    """
    exact = torch.from_numpy(np.asarray(images, np.float32))
    ranges = find_ranges(graph, observe_graph(graph, exact), method)
    lowered, rounding = Lowered(graph), Rounded(graph, ranges, weight_levels=weight_levels)
    left = {name: len(readers) for name, readers in graph.consumers().items()}
    without: dict[str, Tensor] = {INPUT: exact}
    rounded: dict[str, Tensor] = {INPUT: rounding.given(exact, None)}
    nodes = []
    for node in graph.nodes:
        real = lowered.computed(node, [without[name] for name in node.inputs])
        inputs = [rounded[name] for name in node.inputs]
        value = rounding.computed(node, inputs)
        if node.op in ("conv2d", "linear"):
            axes = (0, *range(2, real.ndim))
            change = (real - value).mean(axes, keepdim=True)
            value = value + change
            bias = node.weights["bias"] + change.flatten().numpy()
            node = replace(node, weights={**node.weights, "bias": bias})
        nodes.append(node)
        without[node.name], rounded[node.name] = real, rounding.given(value, node, inputs)
        for name in node.inputs:
            left[name] -= 1
            if not left[name]:
                without.pop(name, None)
                rounded.pop(name, None)
    return replace(graph, nodes=tuple(nodes))
