"""A graph as a PyTorch module: what a file computes, so that it can be looked at, and trained, before it is written."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fbnet_mobile.errors import UserError
from fbnet_mobile.graph.operations import INPUT, Graph, Node


class Lowered(nn.Module):
    """Computes what a graph says, for any number of images: (B, channels, height, width) float32.

    Its parameters are the weights of the graph's nodes, in which batch norm is folded.

    Args:
        graph: of operations that :data:`fbnet_mobile.graph.operations.OPERATIONS` lists.

    Raises:
        UserError: there is an operation that is not known here.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        for node in graph.nodes:
            if not _known(node):
                raise UserError(f"cannot compute {node.op} (in '{node.source}') outside of a file")
        self._graph = graph
        self._weights = nn.ParameterDict(
            {_key(node, role): torch.tensor(weight) for node in graph.nodes for role, weight in node.weights.items()}
        )

    def weights(self, node: Node) -> dict[str, Tensor]:
        """The weights of a node, by role, as they are computed with."""
        return {role: self._weights[_key(node, role)] for role in node.weights}

    def graph(self) -> Graph:
        """The graph with the weights that there are now."""

        def with_weights(node: Node) -> Node:
            weights = {role: self._weights[_key(node, role)].detach().cpu().numpy().copy() for role in node.weights}
            return replace(node, weights=weights)

        return replace(self._graph, nodes=tuple(map(with_weights, self._graph.nodes)))

    def values(self, images: Tensor) -> Iterator[tuple[Node | None, Tensor]]:
        """What the input (None) and each node gives, in the order in which they are computed.

        Only what is still to be read is kept.
        """
        left = {name: len(readers) for name, readers in self._graph.consumers().items()}
        values: dict[str, Tensor] = {}
        value = self.given(images, None)
        yield None, value
        values[INPUT] = value
        for node in self._graph.nodes:
            inputs = [self.read(values[name], name, node) for name in node.inputs]
            value = self.given(self.computed(node, inputs), node, inputs)
            yield node, value
            values[node.name] = value
            for name in node.inputs:
                left[name] -= 1
                if not left[name]:
                    values.pop(name, None)

    def read(self, value: Tensor, name: str, node: Node) -> Tensor:
        """What a node reads of a value of that name; the value itself, here."""
        return value

    def computed(self, node: Node, inputs: list[Tensor]) -> Tensor:
        """What a node makes of its inputs, for a batch."""
        return compute(node, inputs, self.weights(node))

    def given(self, value: Tensor, node: Node | None, inputs: Sequence[Tensor] = ()) -> Tensor:
        """What is read of a value that a node made of its inputs; the value itself, here."""
        return value

    def forward(self, images: Tensor) -> Tensor:
        """The value of the graph's output, for a batch."""
        result = images
        for node, value in self.values(images):
            if node is not None and node.name == self._graph.output:
                result = value
        return result


def computable(graph: Graph) -> bool:
    """Whether :class:`Lowered` knows all operations of a graph."""
    return all(map(_known, graph.nodes))


def _known(node: Node) -> bool:
    """Whether its operation is known, for a batch that is the first axis throughout."""
    return node.op in _RULES and node.shape[0] == 1 and len(node.shape) in (2, 4)


def compute(node: Node, inputs: list[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
    """The value of one node for a batch."""
    return _RULES[node.op](node, inputs, weights)


def _key(node: Node, role: str) -> str:
    """A name that a parameter may have."""
    return f"{node.name}/{role}".replace(".", "|")


Rule = Callable[[Node, list[Tensor], Mapping[str, Tensor]], Tensor]


def _padded(x: Tensor, padding: tuple[int, int, int, int], fill: float = 0.0) -> Tensor:
    top, left, bottom, right = padding
    return F.pad(x, (left, right, top, bottom), value=fill) if any(padding) else x


def _conv2d(node: Node, inputs: list[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
    (x,), (top, left, bottom, right) = inputs, node.attributes["padding"]
    how = (node.attributes["stride"], (top, left), node.attributes["dilation"], node.attributes["groups"])
    if (top, left) == (bottom, right):
        return F.conv2d(x, weights["weight"], weights["bias"], *how)
    stride, _, dilation, groups = how
    return F.conv2d(
        _padded(x, node.attributes["padding"]), weights["weight"], weights["bias"], stride, 0, dilation, groups
    )


def _with_constant(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    def rule(node: Node, inputs: list[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
        first, second = inputs if len(inputs) == 2 else (*inputs, weights["constant"])
        return function(first, second)

    return rule


def _pool(function: Callable[..., Tensor], fill: float) -> Rule:
    def rule(node: Node, inputs: list[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
        x = _padded(inputs[0], node.attributes["padding"], fill)
        return function(x, node.attributes["kernel"], node.attributes["stride"])

    return rule


def _slice(node: Node, inputs: list[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
    bounds = zip(*(node.attributes[name][1:] for name in ("start", "stop", "step")), strict=True)
    return inputs[0][(slice(None), *(slice(*each) for each in bounds))]


def _resize(node: Node, inputs: list[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
    if node.attributes["mode"] == "nearest":
        return F.interpolate(inputs[0], node.shape[2:], mode="nearest")
    return F.interpolate(inputs[0], node.shape[2:], mode="bilinear", align_corners=node.attributes["align_corners"])


def _channel_shuffle(node: Node, inputs: list[Tensor], weights: Mapping[str, Tensor]) -> Tensor:
    return F.channel_shuffle(inputs[0], node.attributes["groups"])


def _plain(function: Callable[..., Tensor], *names: str, **more: Any) -> Rule:
    """A function of the only input, with the attributes of these names."""
    return lambda node, inputs, weights: function(inputs[0], *(node.attributes[name] for name in names), **more)


_RULES: dict[str, Rule] = {
    "conv2d": _conv2d,
    "linear": lambda node, inputs, weights: F.linear(inputs[0], weights["weight"], weights["bias"]),
    "add": _with_constant(torch.add),
    "mul": _with_constant(torch.mul),
    "sub": _with_constant(torch.sub),
    "concat": lambda node, inputs, weights: torch.cat(inputs, node.attributes["axis"]),
    "slice": _slice,
    "max_pool": _pool(F.max_pool2d, -torch.inf),
    "avg_pool": _pool(F.avg_pool2d, 0.0),
    "global_avg_pool": lambda node, inputs, weights: inputs[0].mean((2, 3), keepdim=node.attributes["keepdims"]),
    "reshape": lambda node, inputs, weights: inputs[0].reshape(-1, *node.shape[1:]),
    "pad": lambda node, inputs, weights: _padded(inputs[0], node.attributes["padding"]),
    "resize": _resize,
    "channel_shuffle": _channel_shuffle,
    "softmax": _plain(F.softmax, "axis"),
    "relu": _plain(F.relu),
    "relu6": _plain(F.relu6),
    "hard_sigmoid": _plain(F.hardsigmoid),
    "hard_swish": _plain(F.hardswish),
    "sigmoid": _plain(torch.sigmoid),
    "silu": _plain(F.silu),
    "gelu": lambda node, inputs, weights: F.gelu(
        inputs[0], approximate="tanh" if node.attributes["approximate"] else "none"
    ),
    "tanh": _plain(torch.tanh),
    "leaky_relu": _plain(F.leaky_relu, "slope"),
    "elu": _plain(F.elu),
    "prelu": lambda node, inputs, weights: F.prelu(inputs[0], weights["slope"]),
}
"""How each operation is computed; see :data:`fbnet_mobile.graph.operations.OPERATIONS`."""
