"""A lowered network that rounds as an int8 file does, with ranges that can be learned."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fbnet_mobile.graph import kernels
from fbnet_mobile.graph.lowered import Lowered, compute
from fbnet_mobile.graph.operations import INPUT, Graph, Node

LEVELS = 256
"""Of an activation, which has a scale and a zero point for the whole tensor."""
WEIGHT_LEVELS = 127
"""Of a weight, to either side of zero."""

_FUSED_WITH = {
    "relu": {"conv2d", "linear", "add", "sub", "mul"},
    "relu6": {"conv2d", "linear", "add", "sub", "mul"},
    "hard_sigmoid": {"conv2d", "linear"},
}
"""What computes an activation of these itself, if nothing else reads what it gives before."""
_CLAMPED = {"relu": (0.0, math.inf), "relu6": (0.0, 6.0)}
"""What these keep of a layer that they are fused with; the ends of a hard sigmoid are those of its range."""
_LAYERS = frozenset({"conv2d", "linear"})
MOVING = frozenset({"reshape", "slice", "pad", "max_pool", "channel_shuffle"})
"""Operations that give numbers as they got them, in the same eight bits."""
_SAME_SCALE = frozenset({"avg_pool", "resize"})
"""Operations that give others, in the scale of those that they got."""
_FIXED = {"sigmoid": (0.0, 255 / 256), "tanh": (-1.0, 127 / 128), "softmax": (0.0, 255 / 256)}
"""The range of what these give, whatever was seen: runtimes compute them by tables."""


def points(graph: Graph) -> dict[str, str]:
    """Return the names of all values that are rounded, with the name of the value whose range they are rounded to."""
    consumers = graph.consumers()
    found = {INPUT: INPUT}
    for node in graph.nodes:
        after = graph.only_consumer(consumers, node.name)
        if after is not None and node.op in _FUSED_WITH.get(after.op, ()):
            continue
        same = node.op in MOVING | _SAME_SCALE and node.inputs[0] in found
        found[node.name] = found[node.inputs[0]] if same else node.name
    for node in reversed(graph.nodes):
        for name in node.inputs if node.op == "concat" else ():
            # What only goes into it is made in its range.
            if found.get(name) == name != INPUT and graph.only_consumer(consumers, name) is node:
                found |= dict.fromkeys((other for other in found if found[other] == name), found[node.name])
    return found


class Rounded(Lowered):
    """Computes a graph with the weights of layers and the values between them rounded to eight bits.

    Gradients pass rounding as if it were not there, but where a value is clipped (the straight-through estimator,
    Bengio et al. 2013, arXiv 1308.3432). The ends of ranges are learned with the gradient of learned step sizes
    (Esser et al. 2020, arXiv 1902.08153), with zero points (Bhalgat et al. 2020, arXiv 2004.09576).

    Args:
        graph: to be computed.
        ranges: of all values that :func:`points` names; the lowest and the highest number that stay what they are.
        in_pairs: see :func:`weight_ends`.
        keep: names of nodes that are computed in float32; what they give is rounded by those that are not.
    """

    def __init__(
        self,
        graph: Graph,
        ranges: Mapping[str, tuple[float, float]],
        in_pairs: bool = True,
        keep: Collection[str] = (),
    ) -> None:
        super().__init__(graph)
        self._points = points(graph)
        self._places = {name: place for place, name in enumerate(sorted({*self._points.values()}))}
        self._in_pairs = in_pairs
        together = {node.name: node.inputs[0] for node in graph.nodes if node.inputs[0] not in self._points}
        with_fused = {*keep, *(name for pair in together.items() if {*pair} & {*keep} for name in pair)}
        self.kept = tuple(node.name for node in graph.nodes if node.name in with_fused)
        self._in_float32 = {*self.kept}
        # An input is not rounded for those either.
        if any(INPUT in node.inputs for node in graph.nodes if node.name in self._in_float32):
            self._in_float32.add(INPUT)
        self._gates = {node.inputs[0] for node in graph.nodes if node.op == "hard_sigmoid"} - self._points.keys()
        self._fixed = {node.name: _FIXED[node.op] for node in graph.nodes if node.op in _FIXED}
        found = [self._fixed.get(name) or ranges[name] for name in self._places]
        # Vectors, as weight decay is for what has two axes.
        self.low = nn.Parameter(torch.tensor([min(low, 0.0) for low, _ in found], dtype=torch.float32))
        self.high = nn.Parameter(torch.tensor([max(high, 0.0) for _, high in found], dtype=torch.float32))

    def ranges(self) -> dict[str, tuple[float, float]]:
        """The ranges that there are now, by the names of all values that are rounded."""
        low, high = self.low.detach().clamp(max=0).tolist(), self.high.detach().clamp(min=0).tolist()
        return {name: (low[self._places[point]], high[self._places[point]]) for name, point in self._points.items()}

    def read(self, value: Tensor, name: str, node: Node) -> Tensor:
        """What a node reads: in eight bits, unless it is computed in float32."""
        if name not in self._in_float32 or node.name in self._in_float32:
            return value
        # A concatenation is made in its own numbers.
        place = self._places[self._points[node.name if node.op == "concat" else name]]
        return _Round.rounded(value, self.low[place], self.high[place])

    def computed(self, node: Node, inputs: list[Tensor]) -> Tensor:
        """What a node makes of its inputs, for a batch.

        Layers are computed in integers, as a sum of other numbers is on the other side of a half now and then, and
        what one step changes in a layer grows through those that follow.
        """
        if node.name in self._in_float32:
            return compute(node, inputs, super().weights(node))
        if node.inputs[0] not in self._points:
            return super().computed(node, inputs)
        if node.op == "silu":  # a product with what a table gives
            return inputs[0] * _Round.rounded(torch.sigmoid(inputs[0]), *map(inputs[0].new_tensor, _FIXED["sigmoid"]))
        if node.op == "concat":
            inputs = [self._converted(name, x, node.name) for name, x in zip(node.inputs, inputs, strict=True)]
        if node.op not in _LAYERS:
            return super().computed(node, inputs)
        weights = super().weights(node)
        step, before = self._weight_step(node, weights), self._step_and_zero(node.inputs[0])[0]
        of_sums = before * step.flatten()
        # What hard sigmoid adds first is added to the bias of the layer that it is fused with.
        more = 3.0 if node.name in self._gates else 0.0
        integers = {"weight": _nearest(weights["weight"] / step), "bias": _nearest((weights["bias"] + more) / of_sums)}
        sums = compute(node, [_nearest(inputs[0] / before)], integers)
        return sums * of_sums.reshape(-1, *[1] * (sums.ndim - 2)) - more

    def given(self, value: Tensor, node: Node | None, inputs: Sequence[Tensor] = ()) -> Tensor:
        """Round a value, unless it is in its eight bits already."""
        name = INPUT if node is None else node.name
        if name not in self._points or name in self._in_float32 or (node is not None and node.op in MOVING):
            return value
        place = self._places[self._points[name]]
        rounded = _Round.rounded(value, self.low[place], self.high[place])
        if node is None:
            return rounded
        step, zero = self._step_and_zero(name)
        layer = None if self.training else self._layer(node)
        if layer is not None:
            # What is clamped for a gate has the range of that, times 6.
            if layer.name in self._gates:
                low, high = self.low.detach()[place].clamp(max=0), self.high.detach()[place].clamp(min=0)
                step_of_sum = _step_and_zero(6 * low, 6 * high)[0]
            else:
                step_of_sum = step
            exact = self._requantised(value if layer is node else inputs[0], layer, step_of_sum) + zero
            lowest, highest = _CLAMPED.get(node.op, (-math.inf, math.inf))
            exact = exact.clamp(zero + lowest / step, zero + torch.round(highest / step))
        elif node.op == "hard_swish" and node.inputs[0] in self._points:
            before, nothing = self._step_and_zero(node.inputs[0])
            table = kernels.hard_swish(before, nothing, step, zero)
            exact = table[torch.round(inputs[0].detach() / before + nothing).int()]
        elif node.op == "add" and len(inputs) == 2 and {*node.inputs} <= self._points.keys():
            terms = [
                (torch.round(x.detach() / by), by) for x, by in zip(inputs, map(self._step, node.inputs), strict=True)
            ]
            exact = kernels.added(*terms[0], *terms[1], step) + zero
        elif node.op == "avg_pool":
            exact = kernels.average(value.detach() / step + zero, math.prod(node.attributes["kernel"]))
        elif node.op == "global_avg_pool" and node.inputs[0] in self._points:
            before, nothing = self._step_and_zero(node.inputs[0])
            integers = torch.round(inputs[0].detach() / before) + nothing
            exact = kernels.mean(integers, before, nothing, step, zero).reshape(value.shape)
        elif node.op == "resize":
            exact = kernels.bilinear(value.detach() / step + zero)
        else:
            return rounded
        return rounded + ((exact.clamp(0, LEVELS - 1) - zero) * step - rounded).detach()

    def _layer(self, node: Node) -> Node | None:
        """The layer in integers that gives a value, by itself or with the activation that is fused with it."""
        if node.op in _FUSED_WITH and node.inputs[0] not in self._points:
            node = self._graph.node(node.inputs[0])
        integers = node.op in _LAYERS and node.inputs[0] in self._points
        return node if integers else None

    def _requantised(self, value: Tensor, layer: Node, step: Tensor) -> Tensor:
        """What a layer gives, in whole steps: its sum times one number, in float32, as XNNPACK does it.

        As a product and a quotient it would be rounded to another integer now and then: seldom, but a network of
        millions of values makes much of a few.
        """
        of_sums = self._step(layer.inputs[0]) * self._weight_step(layer, super().weights(layer)).flatten()
        of_sums = of_sums.reshape(-1, *[1] * (value.ndim - 2))
        gate = layer.name in self._gates
        sums = torch.round((value.detach() + (3.0 if gate else 0.0)).double() / of_sums).float()
        return torch.round(sums * (of_sums / step))

    def weights(self, node: Node) -> dict[str, Tensor]:
        """Rounded: those of layers for each output channel, constants as values between layers are."""
        found = super().weights(node)
        if "weight" in found:
            step = self._weight_step(node, found)
            found["weight"] = _nearest(found["weight"] / step) * step
        if "constant" in found:
            constant = found["constant"]
            low, high = constant.detach().amin(), constant.detach().amax()
            found["constant"] = _Round.rounded(constant, low, high)
        return found

    def _converted(self, name: str, x: Tensor, to: str) -> Tensor:
        """A value in the numbers that another is rounded to."""
        if name not in self._points or name in self._in_float32 or self._points[name] == self._points[to]:
            return x
        (step, _), (after, _) = self._step_and_zero(name), self._step_and_zero(to)
        return x + (kernels.converted(torch.round(x.detach() / step), step, after) * after - x).detach()

    def _weight_step(self, node: Node, weights: Mapping[str, Tensor]) -> Tensor:
        """Between the numbers that weights are rounded to, for each output channel."""
        weight = weights["weight"].detach()
        ends = weight_ends(weight, node.attributes.get("groups", 1), self._in_pairs)
        return (ends / WEIGHT_LEVELS).reshape(-1, *[1] * (weight.ndim - 1))

    def _step(self, name: str) -> Tensor:
        return self._step_and_zero(name)[0]

    def _step_and_zero(self, name: str) -> tuple[Tensor, Tensor]:
        """Between the numbers that a value is rounded to, and which of their integers stands for 0."""
        place = self._places[self._points[name]]
        return _step_and_zero(self.low.detach()[place].clamp(max=0), self.high.detach()[place].clamp(min=0))


def round_to(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return a value as 256 steps from ``low`` to ``high``, both of them scalars, have it."""
    return _Round.rounded(value, low, high)


def weight_ends(weight: Tensor, groups: int = 1, in_pairs: bool = True) -> Tensor:
    """Return the weight that is 127 steps from zero, for each output channel: (out,).

    A processor with AVX2 or AVX-512 and without VNNI multiplies unsigned activations by weights and adds the products
    of two neighbours in 16 bits, and saturates without a word (VPMADDUBSW; see "When and why do I need to try U8U8?" in
    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html). It does not where no two neighbours
    of one sign are more than 128 steps together, as 255 x 128 < 2^15. The usual remedy is seven bits for all weights;
    but two of the largest are seldom neighbours, so that most channels keep nearly eight. Those of a depthwise
    convolution, whose products are added in 32 bits, keep all.

    Args:
        weight: (out, in / groups, ...).
        groups: of a convolution.
        in_pairs: whether to keep to that; else it is the largest weight of a channel.
    """
    places = weight.reshape(*weight.shape[:2], -1)
    ends = places.abs().amax((1, 2))
    if in_pairs and not groups == len(weight) > weight.shape[1] == 1:
        # The order in which they are summed: the input channels of one place of the kernel, then those of the next. Of
        # an odd number of channels pairs begin at either, so all neighbours are looked at.
        rows = functional.pad(places.transpose(1, 2).flatten(1), (0, 1))
        for signed in (rows.clamp_min(0), rows.clamp_max(0)):
            ends = torch.maximum(ends, (signed[:, :-1] + signed[:, 1:]).abs().amax(1))
    return ends.clamp_min(WEIGHT_LEVELS * _LEAST_STEP)


def _step_and_zero(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    step = ((high - low) / (LEVELS - 1)).clamp_min(_LEAST_STEP)
    return step, torch.round(-low / step).clamp(0, LEVELS - 1)


def _nearest(x: Tensor) -> Tensor:
    """Integers, of the gradient of what was rounded."""
    return x + (torch.round(x) - x).detach()


class _Round(torch.autograd.Function):
    """x -> step (clamp(round(x / step) + zero, 0, 255) - zero): step = (high - low) / 255, zero = round(-low / step)"""

    @classmethod
    def rounded(cls, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Round a tensor to a range, both ends of it scalars."""
        result: Tensor = cls.apply(x, low.clamp(max=0), high.clamp(min=0))
        return result

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """See the class."""
        step, zero = _step_and_zero(low, high)
        y = torch.fake_quantize_per_tensor_affine(x, step, zero.int(), 0, LEVELS - 1)
        ctx.save_for_backward(x, y, step)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of x: none where it was clipped. Of the ends: what clipping to them, and the step between them, does."""
        (gradient,), (x, y, step) = gradients, ctx.saved_tensors
        off = (y - x) / step
        above, below = off < -_WITHIN, off > _WITHIN
        through = gradient.masked_fill(above | below, 0)
        of_step = (through * off).sum() / (LEVELS - 1)
        # As large as a weight's whatever the number of values, section 2.2 of arXiv 1902.08153.
        share = (x.numel() / len(x)) ** -0.5
        return through, share * ((gradient * below).sum() - of_step), share * ((gradient * above).sum() + of_step)


_LEAST_STEP = 1e-12
_WITHIN = 0.5001
"""Of a step: how far rounding moves a value that is not clipped."""
