"""A network that takes an app's own bytes: pixels from 0 to 255, with their normalisation inside the file."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fbnet_mobile.errors import UserError
from fbnet_mobile.graph.operations import INPUT, Graph, Node


class Normalisation(NamedTuple):
    """What makes a network's input of pixels: (pixel / 255 - mean) / std.

    Attributes:
        mean: of each channel, on the scale from 0 to 1.
        std: standard deviation of each channel, on the same scale.
    """

    mean: Sequence[float]
    std: Sequence[float]

    def normalise(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return what a network takes, float32, of (N, channels, height, width) pixels from 0 to 255."""
        mean, std = (255 * np.asarray(numbers, np.float32).reshape(-1, 1, 1) for numbers in self)
        result: NDArray[np.float32] = (images.astype(np.float32) - mean) / std
        return result


def take_pixels(graph: Graph, normalisation: Normalisation) -> Graph:
    """Return a graph whose input is uint8 pixels, and that gives for them what ``graph`` gives for its input.

    Where only convolutions read the input, the division by 255 std goes into their weights, which is exact whatever
    their padding: zeros stay zeros. The subtraction of 255 mean goes into their biases only if none of them pads,
    as a padded zero is a mean, not a black, pixel; otherwise it is an operation of its own.

    Raises:
        UserError: the numbers are not one for each channel of the input.
    """
    if len(graph.inputs) > 1:
        raise UserError(f"cannot take pixels for one of several inputs, {', '.join(graph.inputs)}; let it take float32")
    channels = graph.input_shape[1]
    numbers = (*normalisation.mean, *normalisation.std)
    sizes = {len(normalisation.mean), len(normalisation.std)}
    if sizes != {channels} or not all(map(math.isfinite, numbers)) or min(normalisation.std) <= 0:
        raise UserError(
            f"cannot normalise pixels of {channels} channels by mean {tuple(normalisation.mean)} and std "
            f"{tuple(normalisation.std)}; give one mean, and one std above 0, for each"
        )
    mean, std = (255 * np.asarray(numbers, np.float64) for numbers in normalisation)
    readers = graph.consumers()[INPUT]
    foldable = all(node.op == "conv2d" for node in readers)
    padded = not foldable or any(any(node.attributes["padding"]) for node in readers)
    shape = (1, -1, *[1] * (len(graph.input_shape) - 2))
    first: list[Node] = []
    last = INPUT

    def begin(op: str, constant: NDArray[np.float64]) -> None:
        nonlocal last
        name = f"{INPUT}_{op}"
        weights = {"constant": constant.reshape(shape).astype(np.float32)}
        first.append(Node(name, op, (last,), graph.input_shape, weights=weights))
        last = name

    if padded:
        begin("sub", mean)
    if not foldable:
        begin("mul", 1 / std)
    nodes = list(first)
    for node in graph.nodes:
        if foldable and INPUT in node.inputs:
            node = _scaled(node, std, None if padded else mean)
        nodes.append(replace(node, inputs=tuple(last if name == INPUT else name for name in node.inputs)))
    return replace(graph, nodes=tuple(nodes), pixels=True)


def _scaled(node: Node, std: NDArray[np.float64], mean: NDArray[np.float64] | None) -> Node:
    """Return the convolution for an input that is not yet divided by ``std``, nor less ``mean`` if that is given."""
    weight, bias = node.weights["weight"].astype(np.float64), node.weights["bias"].astype(np.float64)
    groups, (out, per_group, *_) = node.attributes["groups"], weight.shape

    def of_filters(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """The numbers of the channels that each filter reads, (out, in / groups, 1, 1)."""
        return np.repeat(numbers.reshape(groups, per_group), out // groups, axis=0)[:, :, None, None]

    weight = weight / of_filters(std)
    if mean is not None:
        bias = bias - (weight * of_filters(mean)).sum((1, 2, 3))
    return replace(node, weights={"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)})
