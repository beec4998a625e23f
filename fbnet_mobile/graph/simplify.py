"""Rewrites of a graph that every format profits from. Each takes and returns plain data."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fbnet_mobile.graph.operations import Graph, Node, prune


def simplify(graph: Graph) -> Graph:
    """Return an equal graph without ``affine`` nodes, and without needless padding and flattening nodes."""
    graph = _fold_affine(graph)
    graph = _fold_padding(graph)
    graph = _join_permutations(graph)
    return _flattened_linear_as_convolution(graph)


def _fold_affine(graph: Graph) -> Graph:
    """Fold x * scale + shift into the convolution or linear layer before it, or make it a mul and an add."""
    consumers = graph.consumers()
    nodes: dict[str, Node] = {}
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        node = replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))
        if node.op != "affine":
            nodes[node.name] = node
            continue
        scale, shift = node.weights["scale"], node.weights["shift"]
        before = nodes.get(node.inputs[0])
        read_once = before is not None and graph.only_consumer(consumers, before.name) is not None
        if before is not None and read_once and before.op in ("conv2d", "linear"):
            weight = before.weights["weight"]
            per_output = scale.reshape(-1, *[1] * (weight.ndim - 1))
            weights = {"weight": weight * per_output, "bias": before.weights["bias"] * scale + shift}
            # The folded layer keeps its place and its name; later nodes, and later affines, refer to it.
            nodes[before.name] = replace(before, weights=weights)
            consumers[before.name] = consumers[node.name]
            renamed[node.name] = before.name
            made = graph.outputs.items()
            graph = replace(graph, outputs={name: before.name if of == node.name else of for name, of in made})
            continue
        per_channel = (1, -1) + (1,) * (len(node.shape) - 2)
        scaled = replace(node, name=f"{node.name}_scale", op="mul", weights={"constant": scale.reshape(per_channel)})
        nodes[scaled.name] = scaled
        nodes[node.name] = replace(
            node, op="add", inputs=(scaled.name,), weights={"constant": shift.reshape(per_channel)}
        )
    return replace(graph, nodes=tuple(nodes.values()))


def _fold_padding(graph: Graph) -> Graph:
    """Give the padding of a ``pad`` node to the convolution that reads it."""
    by_name = graph.by_name()

    def fold(node: Node) -> Node:
        before = by_name.get(node.inputs[0]) if node.inputs else None
        if node.op != "conv2d" or before is None or before.op != "pad":
            return node
        added = before.attributes["padding"]
        padding = tuple(a + b for a, b in zip(node.attributes["padding"], added, strict=True))
        return replace(node, inputs=before.inputs, attributes={**node.attributes, "padding": padding})

    return _rebuilt(graph, {node.name: [fold(node)] for node in graph.nodes})


def _join_permutations(graph: Graph) -> Graph:
    """Reorder axes once where they are reordered twice, and not at all where that puts them back."""
    made: dict[str, Node] = {}
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        node = replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))
        before = made.get(node.inputs[0]) if node.op == "permute" else None
        if before is not None and before.op == "permute":
            axes = tuple(before.attributes["axes"][axis] for axis in node.attributes["axes"])
            node = replace(node, inputs=before.inputs, attributes={"axes": axes})
            if axes == tuple(range(len(axes))) and node.name not in graph.outputs.values():
                renamed[node.name] = node.inputs[0]
                continue
        made[node.name] = node
    return replace(graph, nodes=prune(made.values(), graph.outputs.values()))


def _flattened_linear_as_convolution(graph: Graph) -> Graph:
    """Turn a linear layer on a flattened feature map into a convolution with a kernel of the map's size.

    The two are equal, and the convolution does not depend on the order in which a format flattens a map.
    """
    by_name, shapes = graph.by_name(), graph.shapes()

    def turn(node: Node) -> list[Node]:
        before = by_name.get(node.inputs[0]) if node.inputs else None
        if node.op != "linear" or before is None or before.op != "reshape":
            return [node]
        shape = shapes[before.inputs[0]]
        if len(shape) != 4 or shape[2:] == (1, 1) or before.shape != (shape[0], math.prod(shape[1:])):
            return [node]
        weight = node.weights["weight"]
        features = weight.shape[0]
        convolution = Node(
            name=f"{node.name}_conv",
            op="conv2d",
            inputs=before.inputs,
            shape=(shape[0], features, 1, 1),
            attributes={"stride": (1, 1), "dilation": (1, 1), "padding": (0, 0, 0, 0), "groups": 1},
            weights={"weight": np.reshape(weight, (features, *shape[1:])), "bias": node.weights["bias"]},
            source=node.source,
        )
        return [convolution, replace(node, op="reshape", inputs=(convolution.name,), weights={})]

    return _rebuilt(graph, {node.name: turn(node) for node in graph.nodes})


def _rebuilt(graph: Graph, replacements: Mapping[str, list[Node]]) -> Graph:
    nodes = [new for node in graph.nodes for new in replacements[node.name]]
    return replace(graph, nodes=prune(nodes, graph.outputs.values()))
