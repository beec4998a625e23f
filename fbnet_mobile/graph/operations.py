"""A network as plain data: a short list of operations with their weights, and the shape of every value.

Shapes are those of PyTorch whatever the target format: ``(batch, channels, height, width)`` for feature maps,
``(batch, features)`` for vectors, and any other for what an attention makes of them. Weights are float32 arrays in
PyTorch's layouts. Every emitter reads this and nothing else, so what can be exported is exactly what
:data:`OPERATIONS` lists.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
Weights = Mapping[str, NDArray[np.float32]]

INPUT, OUTPUT = "input", "output"
"""Names of what enters and of what leaves a network of one input and one output."""

ACTIVATIONS = frozenset(
    {"relu", "relu6", "hard_sigmoid", "hard_swish", "sigmoid", "silu", "gelu", "tanh", "leaky_relu", "elu"}
    | {"exp", "sqrt", "softplus", "abs"}
)
"""Operations of one input that work on each element alone. ``leaky_relu`` has the attribute ``slope``
(float), ``gelu`` has ``approximate`` (bool: the tanh approximation). ``hard_sigmoid`` is relu6(x + 3) / 6 and
``hard_swish`` is x times that, as in MobileNetV3 (arXiv 1905.02244, section 5.2)."""

OPERATIONS: Mapping[str, str] = {
    "constant": "no input; weight 'constant', the value itself",
    "conv2d": "weight (out, in / groups, kh, kw), bias (out,); stride, dilation (h, w), padding, groups",
    "conv_transpose2d": "weight (in, out / groups, kh, kw), bias (out,); stride, padding, output_padding, groups",
    "linear": "(..., in) -> (..., out); weight (out, in), bias (out,)",
    "matmul": "two inputs: matrices in the last two axes, the others broadcast",
    "affine": "per channel: x * scale + shift; never left in a finished graph",
    "layer_norm": "(x - mean) / sqrt(variance + eps) over axes, in order; perhaps weights 'scale' and 'shift' of these",
    "add": "two inputs, or one input and the weight 'constant', of the same rank",
    "mul": "as add",
    "sub": "first input less the second",
    "div": "first input over the second",
    "minimum": "as add",
    "maximum": "as add",
    "concat": "axis",
    "slice": "start, stop and step, one number an axis",
    "gather": "axis, indices along it",
    "max_pool": "kernel, stride (h, w), padding",
    "avg_pool": "kernel, stride (h, w), padding; the padding's zeros count",
    "global_avg_pool": "mean over height and width; keepdims (bool)",
    "mean": "axes, keepdims (bool)",
    "sum": "as mean",
    "max": "as mean",
    "permute": "axes: the value's axes are those of the input",
    "reshape": "to any shape of as many numbers",
    "pad": "padding; with zeros",
    "resize": "mode 'nearest' or 'bilinear', align_corners (bool)",
    "channel_shuffle": "groups",
    "softmax": "axis",
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
        inputs: names of the values it reads: nodes, or inputs of the network.
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
    """A network.

    Attributes:
        inputs: shape of each value that enters it, by name; the one of a network that has one is :data:`INPUT`.
        nodes: in an order in which they can be computed.
        outputs: name of the node that makes each result, by the result's name; that of one result is :data:`OUTPUT`.
        pixels: whether a file takes the one input as uint8, from 0 to 255; it then begins with a cast to float32.
    """

    inputs: Mapping[str, Shape]
    nodes: tuple[Node, ...]
    outputs: Mapping[str, str]
    pixels: bool = False

    @property
    def input_shape(self) -> Shape:
        """Shape of the first input."""
        return next(iter(self.inputs.values()))

    @property
    def output(self) -> str:
        """Name of the node that makes the first result."""
        return next(iter(self.outputs.values()))

    def node(self, name: str) -> Node:
        """Return the node that makes the value ``name``; KeyError for an input."""
        return self.by_name()[name]

    def by_name(self) -> dict[str, Node]:
        """Return all nodes by name."""
        return {node.name: node for node in self.nodes}

    def shapes(self) -> dict[str, Shape]:
        """Return the shape of every value, the input's included."""
        return {**self.inputs, **{node.name: node.shape for node in self.nodes}}

    def consumers(self) -> dict[str, list[Node]]:
        """Return the nodes that read each value, once for every time they read it."""
        readers: dict[str, list[Node]] = {name: [] for name in (*self.inputs, *self.by_name())}
        for node in self.nodes:
            for name in node.inputs:
                readers[name].append(node)
        return readers

    def only_consumer(self, consumers: Mapping[str, list[Node]], name: str) -> Node | None:
        """Return the one node that reads the value ``name``; None if several do, or if it is an output."""
        readers = consumers[name]
        return readers[0] if len(readers) == 1 and name not in self.outputs.values() else None


def prune(nodes: Iterable[Node], outputs: Iterable[str]) -> tuple[Node, ...]:
    """Return the nodes on which ``outputs`` depend, in their order."""
    needed = {*outputs}
    kept = []
    for node in reversed(list(nodes)):
        if node.name in needed:
            kept.append(node)
            needed.update(node.inputs)
    return tuple(reversed(kept))
