"""What can be done to a network before it is quantised, by looking at what rounding will do to it."""

import math
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
from fbnet_mobile.graph.rounded import Rounded, points, round_to

_BATCH = 16
_MOST_NUMBERS = 1 << 27
"""Values of all layers that are held at once, with as many of their gradients: 1 GB of them."""


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
    whole, floors = METHODS["min-max"], find_floors(graph)
    found = {name: (whole if name == graph.output else METHODS[method])(each) for name, each in seen.items()}
    return {name: (max(low, floors.get(name, low)), high) for name, (low, high) in found.items()}


def find_floors(graph: Graph) -> dict[str, float]:
    """Return under which number a value tells nothing, by name, where there is one.

    What hard swish alone reads need not be told apart under -3, as it makes 0 of all that: half of the steps, often,
    for what is above. A ReLU is computed with what is before it.
    """
    consumers = graph.consumers()
    readers = {node.name: graph.only_consumer(consumers, node.name) for node in graph.nodes}
    return {name: -3.0 for name, reader in readers.items() if reader is not None and reader.op == "hard_swish"}


@torch.no_grad()
def equalise(graph: Graph, images: NDArray[Any]) -> Graph:
    """Return a graph that computes the same, in which the channels between two layers use more of the same eight bits.

    Cross-layer equalisation (Nagel et al. 2019, arXiv 1906.04721, section 4.1): what a layer makes of a channel is
    divided by a number, by which the weights that read it are multiplied, as a ReLU between them passes it on. These
    numbers are such that ranges of channels, as they are seen, are those of the weights that read them; a depthwise
    layer has a range for the weights of each channel, so that its channels get the same range altogether.

    Args:
        graph: the network.
        images: (N, channels, height, width), as its input.
    """
    by_name, consumers, pairs = graph.by_name(), graph.consumers(), {}
    for node in graph.nodes:
        after = graph.only_consumer(consumers, node.name) if node.op == "conv2d" else None
        value = after if after is not None and after.op == "relu" else node
        reader = graph.only_consumer(consumers, value.name) if after is not None else None
        if reader is not None and reader.op == "conv2d":
            out, per_group = reader.weights["weight"].shape[:2]
            if reader.attributes["groups"] == 1 or (per_group == 1 and out == value.shape[1]):
                pairs[value.name] = node.name, reader.name
    if not pairs:
        return graph
    lowered, largest = Lowered(graph), dict[str, Tensor]()
    for batch in torch.split(torch.from_numpy(np.asarray(images, np.float32)), _BATCH):
        for at, values in lowered.values(batch):
            if at is not None and at.name in pairs:
                found = values.abs().amax((0, 2, 3))
                largest[at.name] = torch.maximum(found, largest.get(at.name, found))
    weights = {name: dict(by_name[name].weights) for pair in pairs.values() for name in pair}
    for name, (layer, read_by) in pairs.items():
        before, after_it = weights[layer], weights[read_by]
        alone = by_name[read_by].attributes["groups"] > 1
        factors = _relative(largest[name].numpy())
        if not alone:
            factors = np.sqrt(factors / _relative(np.abs(after_it["weight"]).max((0, 2, 3))))
        factors = (factors / factors.max())[:, None, None, None]
        before["weight"], before["bias"] = before["weight"] / factors, before["bias"] / factors.ravel()
        after_it["weight"] = after_it["weight"] * (factors if alone else factors[:, 0])
    return replace(
        graph, nodes=tuple(replace(node, weights=weights.get(node.name, node.weights)) for node in graph.nodes)
    )


def rounding_costs(graph: Graph, images: NDArray[Any], ranges: Mapping[str, Ranges]) -> dict[str, dict[str, float]]:
    """Return what it costs to round one value alone, by its name and that of each way to ranges.

    That is the divergence of the logits (:func:`fbnet_mobile.formats.int8.error`) to the second order: half of the
    expected square of what the rounding changes in the logarithm of an answer's probability, for answers drawn as the
    network gives them (its Fisher information; as in arXiv 2102.05426, but along the change itself, not its diagonal).
    Noise that no logit depends on costs nothing, however large; what all others are computed from may cost most.

    Args:
        graph: the network, of one result of several logits, or their probabilities; of another no cost is known, nor
            if they are not finite.
        images: (N, channels, height, width), as its input.
        ranges: of the input and each node, by ways to them.
    """
    last = graph.node(graph.output)
    if len(last.shape) != 2 or last.shape[1] == 1:
        return {}
    lowered, rounded = Lowered(graph).requires_grad_(False), points(graph)
    if last.op == "softmax":
        del rounded[last.name]  # what is judged is the logits before
    found = {name: dict.fromkeys(ranges, 0.0) for name in rounded}
    drawn = torch.Generator().manual_seed(0)
    together = sum(math.prod(node.shape) for node in graph.nodes)
    size = min(max(_MOST_NUMBERS // together, 1), _BATCH)
    for batch in torch.split(torch.from_numpy(np.asarray(images, np.float32)), size):
        values: dict[str, Tensor] = {}
        for node, value in lowered.values(batch.clone().requires_grad_(True)):
            name = INPUT if node is None else node.name
            if value.requires_grad:
                value.retain_grad()
            values[name] = value
        logits = values[last.name].clamp_min(1e-12).log() if last.op == "softmax" else values[last.name]
        spread = (logits - logits.mean(1, keepdim=True)).detach().std().clamp_min(1e-12)
        answers = torch.log_softmax(logits / spread, 1)
        if not answers.requires_grad or not answers.isfinite().all():
            return {}
        given = torch.multinomial(answers.detach().exp(), 1, generator=drawn)
        answers.gather(1, given).sum().backward()  # type: ignore[no-untyped-call]
        for name, point in rounded.items():
            gradient = values[name].grad
            if gradient is None:
                continue
            for method in ranges:
                ends = (torch.tensor(end, dtype=torch.float32) for end in ranges[method][point])
                with torch.no_grad():
                    change = gradient * (round_to(values[name].detach(), *ends) - values[name].detach())
                    found[name][method] += float(change.flatten(1).sum(1).square().sum()) / 2 / len(images)
    return found


_LEAST_PART = 0.01
"""Of the largest channel: one that is smaller, or was not seen at all, is taken to be that large."""


def _relative(sizes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sizes as parts of the largest."""
    most = sizes.max()
    return np.maximum(sizes / most, np.float32(_LEAST_PART)) if most > 0 else np.ones_like(sizes)


@torch.no_grad()
def correct_biases(graph: Graph, images: NDArray[Any], ranges: Ranges, in_pairs: bool) -> Graph:
    """Return a graph of other biases: each layer's gives the mean, over the images, that it has without rounding.

    Empirical bias correction (Nagel et al. 2019, arXiv 1906.04721, section 4.2), layer after layer, so that each is
    also corrected for what rounding before it does.

    Args:
        graph: the network.
        images: (N, channels, height, width), as its input.
        ranges: that values are rounded to.
        in_pairs: how weights are rounded; see :func:`fbnet_mobile.graph.rounded.weight_ends`.
    """
    exact = torch.from_numpy(np.asarray(images, np.float32))
    lowered, rounding = Lowered(graph), Rounded(graph, ranges, in_pairs=in_pairs)
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
