"""Writes a graph as an ExecuTorch program: as a module of PyTorch's operations, exported, and lowered to XNNPACK."""

import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.executorch.metadata import METADATA
from fbnet_mobile.formats.packages import quiet
from fbnet_mobile.graph.operations import INPUT, Graph, Node


def write(graph: Graph, path: Path, metadata: Mapping[str, str]) -> None:
    """Write ``graph`` as the method ``forward``, and the metadata as a method that returns them.

    Raises:
        UserError: there is no rule for an operation, or not one input and one result.
    """
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise UserError(
            f"cannot write {len(graph.inputs)} inputs and {len(graph.outputs)} results to ExecuTorch: it takes "
            "one each; choose another format"
        )
    for node in graph.nodes:
        if node.op not in _RULES:
            raise UserError(f"cannot write {node.name} (in '{node.source}') to ExecuTorch: it has no {node.op}")
    kind = torch.uint8 if graph.pixels else torch.float32
    before = logging.root.manager.disable
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' remarks on themselves
        logging.disable()
        try:
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            program = torch.export.export(_Network(graph).eval(), (torch.zeros(graph.input_shape, dtype=kind),))
            lowered = to_edge_transform_and_lower(
                program,
                partitioner=[XnnpackPartitioner()],
                constant_methods={METADATA: json.dumps(dict(sorted(metadata.items())))} if metadata else None,
            )
            content = lowered.to_executorch().buffer
        finally:
            logging.disable(before)
    path.write_bytes(content)


class _Network(nn.Module):
    """The graph as a module; its weights are buffers, named by number as names of nodes are no identifiers."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.names: dict[tuple[str, str], str] = {}
        for node in graph.nodes:
            for role, array in node.weights.items():
                name = self.names[node.name, role] = f"weight{len(self.names)}"
                self.register_buffer(name, torch.from_numpy(np.array(array, np.float32)))

    def forward(self, images: Tensor) -> Tensor:
        """Compute node by node."""
        values = {INPUT: images.float() if self.graph.pixels else images}
        for node in self.graph.nodes:
            weights = {role: self.get_buffer(self.names[node.name, role]) for role in node.weights}
            values[node.name] = _RULES[node.op](node, [values[name] for name in node.inputs], weights)
        return values[self.graph.output]


Weights = Mapping[str, Tensor]
Rule = Callable[[Node, Sequence[Tensor], Weights], Tensor]


def _one(function: Callable[[Tensor], Tensor]) -> Rule:
    return lambda node, inputs, weights: function(inputs[0])


def _two(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    """Of two inputs, or of one and the weight ``constant``."""
    return lambda node, inputs, weights: function(
        inputs[0], weights["constant"] if "constant" in weights else inputs[1]
    )


def _padded(node: Node, x: Tensor, value: float = 0.0) -> tuple[Tensor, tuple[int, int]]:
    """The input and the padding that is left to do, (height, width): none where the sides differ, as that is done."""
    top, left, bottom, right = node.attributes["padding"]
    if (top, left) == (bottom, right):
        return x, (top, left)
    return F.pad(x, (left, right, top, bottom), value=value), (0, 0)


def _conv2d(node: Node, inputs: Sequence[Tensor], weights: Weights) -> Tensor:
    x, padding = _padded(node, inputs[0])
    stride, dilation, groups = (node.attributes[name] for name in ("stride", "dilation", "groups"))
    return F.conv2d(x, weights["weight"], weights["bias"], stride, padding, dilation, groups)


def _conv_transpose2d(node: Node, inputs: Sequence[Tensor], weights: Weights) -> Tensor:
    top, left, bottom, right = node.attributes["padding"]
    more_down, more_right = node.attributes["output_padding"]
    return F.conv_transpose2d(
        inputs[0],
        weights["weight"],
        weights["bias"],
        node.attributes["stride"],
        (top, left),
        (more_down + top - bottom, more_right + left - right),
        node.attributes["groups"],
    )


def _layer_norm(node: Node, inputs: Sequence[Tensor], weights: Weights) -> Tensor:
    (x,), axes = inputs, node.attributes["axes"]
    apart = x - x.mean(axes, keepdim=True)
    normal = apart * torch.rsqrt((apart * apart).mean(axes, keepdim=True) + node.attributes["eps"])
    shape = [size if axis in axes else 1 for axis, size in enumerate(node.shape)]
    scaled = normal * weights["scale"].reshape(shape) if "scale" in weights else normal
    return scaled + weights["shift"].reshape(shape) if "shift" in weights else scaled


def _slice(node: Node, inputs: Sequence[Tensor], weights: Weights) -> Tensor:
    x = inputs[0]
    limits = zip(*(node.attributes[role] for role in ("start", "stop", "step")), strict=True)
    for axis, (start, stop, step) in enumerate(limits):
        if (start, stop, step) != (0, x.shape[axis], 1):
            x = torch.ops.aten.slice.Tensor(x, axis, start, stop, step)
    return x


def _max_pool(node: Node, inputs: Sequence[Tensor], weights: Weights) -> Tensor:
    x, padding = _padded(node, inputs[0], -float(np.finfo(np.float32).max))
    return F.max_pool2d(x, node.attributes["kernel"], node.attributes["stride"], padding)


def _avg_pool(node: Node, inputs: Sequence[Tensor], weights: Weights) -> Tensor:
    x, padding = _padded(node, inputs[0])
    return F.avg_pool2d(x, node.attributes["kernel"], node.attributes["stride"], padding)


def _global_avg_pool(node: Node, inputs: Sequence[Tensor], weights: Weights) -> Tensor:
    return inputs[0].mean((2, 3), keepdim=node.attributes["keepdims"])


def _reduce(function: Callable[..., Tensor]) -> Rule:
    return lambda node, inputs, weights: function(inputs[0], node.attributes["axes"], node.attributes["keepdims"])


def _pad(node: Node, inputs: Sequence[Tensor], weights: Weights) -> Tensor:
    top, left, bottom, right = node.attributes["padding"]
    return F.pad(inputs[0], (left, right, top, bottom))


def _resize(node: Node, inputs: Sequence[Tensor], weights: Weights) -> Tensor:
    if node.attributes["mode"] == "nearest":
        return F.interpolate(inputs[0], node.shape[2:], mode="nearest")
    return F.interpolate(inputs[0], node.shape[2:], mode="bilinear", align_corners=node.attributes["align_corners"])


_RULES: dict[str, Rule] = {
    "constant": lambda node, inputs, weights: weights["constant"].clone(),
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "linear": lambda node, inputs, weights: F.linear(inputs[0], weights["weight"], weights["bias"]),
    "matmul": _two(torch.matmul),
    "layer_norm": _layer_norm,
    "add": _two(torch.add),
    "mul": _two(torch.mul),
    "sub": _two(torch.sub),
    "div": _two(torch.div),
    "minimum": _two(torch.minimum),
    "maximum": _two(torch.maximum),
    "concat": lambda node, inputs, weights: torch.cat(list(inputs), node.attributes["axis"]),
    "slice": _slice,
    "gather": lambda node, inputs, weights: torch.index_select(
        inputs[0], node.attributes["axis"], torch.tensor(node.attributes["indices"])
    ),
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "global_avg_pool": _global_avg_pool,
    "mean": _reduce(torch.mean),
    "sum": _reduce(torch.sum),
    "max": _reduce(torch.amax),
    "permute": lambda node, inputs, weights: inputs[0].permute(node.attributes["axes"]),
    "reshape": lambda node, inputs, weights: inputs[0].reshape(node.shape),
    "pad": _pad,
    "resize": _resize,
    "channel_shuffle": lambda node, inputs, weights: F.channel_shuffle(inputs[0], node.attributes["groups"]),
    "softmax": lambda node, inputs, weights: F.softmax(inputs[0], node.attributes["axis"]),
    "relu": _one(F.relu),
    "relu6": _one(F.relu6),
    "hard_sigmoid": _one(F.hardsigmoid),
    "hard_swish": _one(F.hardswish),
    "sigmoid": _one(torch.sigmoid),
    "silu": _one(F.silu),
    "gelu": lambda node, inputs, weights: F.gelu(
        inputs[0], approximate="tanh" if node.attributes["approximate"] else "none"
    ),
    "tanh": _one(torch.tanh),
    "leaky_relu": lambda node, inputs, weights: F.leaky_relu(inputs[0], node.attributes["slope"]),
    "elu": _one(F.elu),
    "prelu": lambda node, inputs, weights: F.prelu(inputs[0], weights["slope"].reshape(-1)),
    "exp": _one(torch.exp),
    "sqrt": _one(torch.sqrt),
    "softplus": _one(F.softplus),
    "abs": _one(torch.abs),
}
