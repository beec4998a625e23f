"""A network as plain data: a short list of operations with their weights, and the shape of every value.

Shapes are those of PyTorch whatever the target format: ``(1, channels, height, width)`` for feature maps and
``(1, features)`` for vectors. Weights are float32 arrays in PyTorch's layouts. Every emitter reads this and
nothing else, so what can be exported is exactly what :data:`OPERATIONS` lists.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
Weights = Mapping[str, NDArray[np.float32]]

INPUT = "input"
"""Name of the value that enters the network."""

ACTIVATIONS = frozenset(
    {"relu", "relu6", "hard_sigmoid", "hard_swish", "sigmoid", "silu", "gelu", "tanh", "leaky_relu", "elu"}
)
"""Operations of one input that work on each element alone. ``leaky_relu`` has the attribute ``slope``
(float), ``gelu`` has ``approximate`` (bool: the tanh approximation). ``hard_sigmoid`` is relu6(x + 3) / 6 and
``hard_swish`` is x times that, as in MobileNetV3 (arXiv 1905.02244, section 5.2)."""

OPERATIONS: Mapping[str, str] = {
    "conv2d": "weight (out, in / groups, kh, kw), bias (out,); stride, dilation (h, w), padding, groups",
    "linear": "(1, in) -> (1, out); weight (out, in), bias (out,)",
    "affine": "per channel: x * scale + shift; never left in a finished graph",
    "add": "two inputs, or one input and the weight 'constant' of the same rank",
    "mul": "as add",
    "sub": "first input less the second",
    "concat": "axis",
    "slice": "start and stop, one number an axis",
    "max_pool": "kernel, stride (h, w), padding",
    "avg_pool": "kernel, stride (h, w), padding; the padding's zeros count",
    "global_avg_pool": "mean over height and width; keepdims (bool)",
    "reshape": "between (1, channels, height, width) and (1, features)",
    "pad": "padding; with zeros",
    "resize": "mode 'nearest' or 'bilinear', align_corners (bool)",
    "channel_shuffle": "groups",
    "softmax": "over the channels or features",
    "prelu": "weight 'slope', one a channel",
    **dict.fromkeys(sorted(ACTIVATIONS), "element by element"),
}
"""Every operation and its weights and attributes. ``padding`` is always (top, bottom, left, right)."""


@dataclass(frozen=True)
class Node:
    """One operation and the one value it makes, which carries the node's name.

    Attributes:
        name: unique in the graph.
        op: a key of :data:`OPERATIONS`.
        inputs: names of the values it reads: nodes, or :data:`INPUT`.
        shape: shape of its value.
        attributes: see :data:`OPERATIONS`.
        weights: float32 arrays by role.
        source: path of the module it came from ("" for the network itself), for messages.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    shape: Shape
    attributes: Mapping[str, Any] = field(default_factory=dict)
    weights: Weights = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class Graph:
    """A network of one input and one output.

    Attributes:
        input_shape: (1, channels, height, width), or (1, features), of the value :data:`INPUT`.
        nodes: in an order in which they can be computed.
        output: name of the node whose value is the result.
        pixels: whether a file takes the input as uint8, from 0 to 255; it then begins with a cast to float32.
    """

    input_shape: Shape
    nodes: tuple[Node, ...]
    output: str
    pixels: bool = False

    def node(self, name: str) -> Node:
        """Return the node that makes the value ``name``; KeyError for :data:`INPUT`."""
        return self.by_name()[name]

    def by_name(self) -> dict[str, Node]:
        """Return all nodes by name."""
        return {node.name: node for node in self.nodes}

    def shapes(self) -> dict[str, Shape]:
        """Return the shape of every value, the input's included."""
        return {INPUT: self.input_shape, **{node.name: node.shape for node in self.nodes}}

    def consumers(self) -> dict[str, list[Node]]:
        """Return the nodes that read each value, once for every time they read it."""
        readers: dict[str, list[Node]] = {INPUT: [], **{node.name: [] for node in self.nodes}}
        for node in self.nodes:
            for name in node.inputs:
                readers[name].append(node)
        return readers

    def only_consumer(self, consumers: Mapping[str, list[Node]], name: str) -> Node | None:
        """Return the one node that reads the value ``name``; None if several do, or if it is the output."""
        readers = consumers[name]
        return readers[0] if len(readers) == 1 and name != self.output else None


def prune(nodes: Iterable[Node], output: str) -> tuple[Node, ...]:
    """Return the nodes on which ``output`` depends, in their order."""
    needed = {output}
    kept = []
    for node in reversed(list(nodes)):
        if node.name in needed:
            kept.append(node)
            needed.update(node.inputs)
    return tuple(reversed(kept))
