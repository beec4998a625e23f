"""Writes a graph as an ONNX file: opset 17 and batch 1 unless told otherwise, channels first. Equal graphs, metadata
and options give equal bytes.

The operations are those of https://onnx.ai/onnx/operators; what opset 17 has not (SiLU, GELU) is composed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.metadata import ModelMetadata
from fbnet_mobile.formats.onnx.metadata import usual
from fbnet_mobile.graph.operations import INPUT, Graph, Node

OPSET = 17
"""By default: that of ONNX 1.12, which runtimes of 2022 read."""
OPSETS = (14, onnx.defs.onnx_opset_version())
"""The oldest opset (hard swish came with it) and the newest that the installed ``onnx`` knows."""

_BATCH = "batch"
_ALL = np.iinfo(np.int64).max


def write(
    graph: Graph, path: Path, metadata: Mapping[str, str], *, opset: int = OPSET, dynamic_batch: bool = False
) -> None:
    """Write ``graph`` with tensors of its inputs' and outputs' names, and check it by ``onnx.checker``.

    Args:
        graph: the network.
        path: is not there yet.
        metadata: strings for ``metadata_props``.
        opset: version of the operations, within :data:`OPSETS`. The file's IR version is the oldest that has it.
        dynamic_batch: leave the number of images open (the dimension "batch") instead of 1.

    Raises:
        UserError: an opset out of range, or one that cannot resize a feature map of a dynamic batch.
    """
    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise UserError(f"cannot write opset {opset}; choose one from {OPSETS[0]} to {OPSETS[1]}")
    builder = _Builder(graph, opset, dynamic_batch)
    for node in graph.nodes:
        builder.batch[node.name] = builder.batch_axis(node)
        _RULES[node.op](builder, node)
    kind = TensorProto.UINT8 if graph.pixels else TensorProto.FLOAT
    model = helper.make_model(
        helper.make_graph(
            builder.operations,
            "network",
            [helper.make_tensor_value_info(name, kind, builder.border(name)) for name in graph.inputs],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, builder.border(node))
                for name, node in graph.outputs.items()
            ],
            builder.constants,
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=helper.find_min_ir_version_for([helper.make_opsetid("", opset)]),
        producer_name="fbnet-mobile",
    )
    known = ModelMetadata.from_strings(metadata)
    if known is not None:
        model.doc_string = known.description
        metadata = {**usual(graph, known), **metadata}
    helper.set_model_props(model, dict(sorted(metadata.items())))
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


class _Builder:
    """The operations and constants made so far; a node's tensor has the node's name, or that of the output it makes."""

    def __init__(self, graph: Graph, opset: int, dynamic_batch: bool) -> None:
        self.outputs = {node: name for name, node in graph.outputs.items()}
        self.opset, self.dynamic_batch = opset, dynamic_batch
        self.shapes = graph.shapes()
        self.operations: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.batch: dict[str, int | None] = dict.fromkeys(graph.inputs, 0)
        self.input = INPUT
        if graph.pixels:
            self.input = f"{INPUT}_cast"
            self.operations.append(
                helper.make_node("Cast", [INPUT], [self.input], name=self.input, to=TensorProto.FLOAT)
            )

    def tensor(self, name: str) -> str:
        """Return the tensor that holds a node's value."""
        return self.outputs.get(name, self.input if name == INPUT else name)

    def border(self, name: str) -> list[int | str]:
        """Return the shape of an input's or output's value as the file states it."""
        shape, axis = self.shapes[name], self.batch[name] if self.dynamic_batch else None
        return [_BATCH if place == axis else size for place, size in enumerate(shape)]

    def batch_axis(self, node: Node) -> int | None:
        """Return the axis of a node's value that grows with the batch; None for one that does not depend on the input.

        The graph says what happens to one image: the batch, or the batch times what is merged with it, stays outside of
        whatever it was outside of.
        """
        axes = [self.batch[name] for name in node.inputs]
        known = [axis for axis in axes if axis is not None]
        if not known:
            return None
        axis, attributes = known[0], node.attributes
        if node.op == "permute":
            axes_before: tuple[int, ...] = attributes["axes"]
            return axes_before.index(axis)
        if node.op == "reshape":
            outside = math.prod(self.shapes[node.inputs[0]][:axis])
            return next(place for place in range(len(node.shape)) if math.prod(node.shape[:place]) == outside)
        if self.dynamic_batch and (
            axis == attributes.get("axis")
            or axis in attributes.get("axes", ())
            or (node.op == "slice" and (attributes["start"][axis], attributes["stop"][axis]) != (0, node.shape[axis]))
            or (node.op == "concat" and None in axes)
            or len(set(known)) > 1
        ):
            raise self.refused(node, "it joins or takes apart what is of several images; ask for a batch of one")
        if node.op in ("mean", "sum", "max") and not attributes["keepdims"]:
            reduced: tuple[int, ...] = attributes["axes"]
            return axis - sum(other < axis for other in reduced)
        return axis

    def refused(self, node: Node, because: str) -> UserError:
        """Return the error that says that a node cannot be written with a dynamic batch."""
        return UserError(f"cannot write {node.name} (in '{node.source}') to ONNX with a dynamic batch: {because}")

    def shape(self, node: Node, role: str, *sizes: int) -> str:
        """Add a constant shape to reshape to, and return its tensor; in it, 0 keeps the batch there is."""
        numbers = list(sizes)
        axis = self.batch[node.name]
        if self.dynamic_batch and axis is not None:
            before = self.shapes[node.inputs[0]]
            kept = axis == self.batch[node.inputs[0]] == 0 and before[0] == numbers[0]
            numbers[axis] = 0 if kept else -1
        return self.constant(node, role, np.array(numbers, np.int64))

    def inputs(self, node: Node) -> list[str]:
        """Return the tensors that the node reads, its constant last."""
        tensors = [self.tensor(name) for name in node.inputs]
        if "constant" in node.weights:
            tensors.append(self.constant(node, "constant", node.weights["constant"]))
        return tensors

    def constant(self, node: Node, role: str, array: NDArray[Any]) -> str:
        """Add a constant for a node and return its tensor."""
        name = f"{node.name}/{role}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def op(self, node: Node, kind: str, inputs: list[str], part: str = "", **attributes: Any) -> str:
        """Add an operation. It makes the node's value, or the named intermediate ``part`` of it."""
        name = f"{node.name}/{part}" if part else node.name
        made = name if part else self.tensor(node.name)
        self.operations.append(helper.make_node(kind, inputs, [made], name=name, **attributes))
        return made

    def reduce(
        self, node: Node, kind: str, x: str, axes: Sequence[int], *, part: str = "", keepdims: bool = True
    ) -> str:
        """Add an operation that reduces axes: of an attribute, or from an opset on of an input."""
        if self.opset < (13 if kind == "ReduceSum" else 18):
            return self.op(node, kind, [x], part, axes=list(axes), keepdims=int(keepdims))
        role = f"{part}/axes" if part else "axes"
        return self.op(
            node, kind, [x, self.constant(node, role, np.array(axes, np.int64))], part, keepdims=int(keepdims)
        )


def _constant(to: _Builder, node: Node) -> str:
    name = to.tensor(node.name)
    to.constants.append(numpy_helper.from_array(np.asarray(node.weights["constant"], order="C"), name))
    return name


def _plain(kind: str, **attributes: Any) -> Callable[[_Builder, Node], str]:
    return lambda to, node: to.op(node, kind, to.inputs(node), **attributes)


def _conv2d(to: _Builder, node: Node) -> str:
    weight = node.weights["weight"]
    return to.op(
        node,
        "Conv",
        [
            *to.inputs(node),
            to.constant(node, "weight", weight),
            to.constant(node, "bias", node.weights["bias"]),
        ],
        kernel_shape=weight.shape[2:],
        strides=node.attributes["stride"],
        dilations=node.attributes["dilation"],
        pads=node.attributes["padding"],
        group=node.attributes["groups"],
    )


def _conv_transpose2d(to: _Builder, node: Node) -> str:
    weight = node.weights["weight"]
    return to.op(
        node,
        "ConvTranspose",
        [*to.inputs(node), to.constant(node, "weight", weight), to.constant(node, "bias", node.weights["bias"])],
        kernel_shape=weight.shape[2:],
        strides=node.attributes["stride"],
        pads=node.attributes["padding"],
        output_padding=node.attributes["output_padding"],
        group=node.attributes["groups"],
    )


def _linear(to: _Builder, node: Node) -> str:
    if len(node.shape) == 2:
        weights = [to.constant(node, role, node.weights[role]) for role in ("weight", "bias")]
        return to.op(node, "Gemm", [*to.inputs(node), *weights], transB=1)
    weight = to.constant(node, "weight", node.weights["weight"].T)
    if not node.weights["bias"].any():
        return to.op(node, "MatMul", [*to.inputs(node), weight])
    product = to.op(node, "MatMul", [*to.inputs(node), weight], part="product")
    return to.op(node, "Add", [product, to.constant(node, "bias", node.weights["bias"])])


def _layer_norm(to: _Builder, node: Node) -> str:
    """By the operation of all last axes, from opset 17 on, or that of all axes but two, or as it is defined."""
    axes, eps, rank = node.attributes["axes"], node.attributes["eps"], len(node.shape)
    sizes = [node.shape[axis] for axis in axes]
    (x,), weights = to.inputs(node), node.weights
    if axes == tuple(range(2, rank)) and not weights:
        ones = to.constant(node, "scale", np.ones(node.shape[1], np.float32))
        zeros = to.constant(node, "shift", np.zeros(node.shape[1], np.float32))
        return to.op(node, "InstanceNormalization", [x, ones, zeros], epsilon=eps)
    scale = to.constant(node, "scale", weights["scale"] if "scale" in weights else np.ones(sizes, np.float32))
    shift = [to.constant(node, "shift", weights["shift"])] if "shift" in weights else []
    if to.opset >= 17 and axes == tuple(range(axes[0], rank)):
        return to.op(node, "LayerNormalization", [x, scale, *shift], axis=axes[0], epsilon=eps)
    centre = to.reduce(node, "ReduceMean", x, axes, part="mean")
    apart = to.op(node, "Sub", [x, centre], part="apart")
    square = to.op(node, "Mul", [apart, apart], part="square")
    variance = to.reduce(node, "ReduceMean", square, axes, part="variance")
    finite = to.op(node, "Add", [variance, to.constant(node, "eps", np.array(eps, np.float32))], part="finite")
    deviation = to.op(node, "Sqrt", [finite], part="deviation")
    normal = to.op(node, "Div", [apart, deviation], part="normal")
    if not shift:
        return to.op(node, "Mul", [normal, scale])
    return to.op(node, "Add", [to.op(node, "Mul", [normal, scale], part="scaled"), *shift])


def _relu6(to: _Builder, node: Node) -> str:
    limits = [to.constant(node, f"limit{value}", np.array(value, np.float32)) for value in (0, 6)]
    return to.op(node, "Clip", [*to.inputs(node), *limits])


def _silu(to: _Builder, node: Node) -> str:
    gate = to.op(node, "Sigmoid", to.inputs(node), part="gate")
    return to.op(node, "Mul", [*to.inputs(node), gate])


def _gelu(to: _Builder, node: Node) -> str:
    """x * (1 + erf(x / sqrt 2)) / 2, or with tanh(sqrt(2 / pi) (x + 0.044715 x^3)) in place of erf."""

    def scalar(role: str, value: float) -> str:
        return to.constant(node, role, np.array(value, np.float32))

    (x,) = to.inputs(node)
    if node.attributes["approximate"]:
        square = to.op(node, "Mul", [x, x], part="square")
        scaled = to.op(node, "Mul", [square, scalar("cubic", math.sqrt(2 / math.pi) * 0.044715)], part="scaled")
        factor = to.op(node, "Add", [scaled, scalar("linear", math.sqrt(2 / math.pi))], part="factor")
        curve = to.op(node, "Tanh", [to.op(node, "Mul", [x, factor], part="argument")], part="curve")
    else:  # in these words ONNX Runtime knows it, and computes it in one operation
        argument = to.op(node, "Div", [x, scalar("root", math.sqrt(2))], part="argument")
        curve = to.op(node, "Erf", [argument], part="curve")
    raised = to.op(node, "Add", [curve, scalar("one", 1)], part="raised")
    return to.op(node, "Mul", [to.op(node, "Mul", [x, raised], part="doubled"), scalar("half", 0.5)])


def _pool(kind: str, **attributes: Any) -> Callable[[_Builder, Node], str]:
    def rule(to: _Builder, node: Node) -> str:
        kernel, stride = node.attributes["kernel"], node.attributes["stride"]
        pads = node.attributes["padding"]
        return to.op(node, kind, to.inputs(node), kernel_shape=kernel, strides=stride, pads=pads, **attributes)

    return rule


def _global_avg_pool(to: _Builder, node: Node) -> str:
    if node.attributes["keepdims"]:
        return to.op(node, "GlobalAveragePool", to.inputs(node))
    (x,) = to.inputs(node)
    return to.reduce(node, "ReduceMean", x, (2, 3), keepdims=False)


def _reduce(kind: str) -> Callable[[_Builder, Node], str]:
    def rule(to: _Builder, node: Node) -> str:
        (x,), attributes = to.inputs(node), node.attributes
        return to.reduce(node, kind, x, attributes["axes"], keepdims=attributes["keepdims"])

    return rule


def _reshape(to: _Builder, node: Node) -> str:
    return to.op(node, "Reshape", [*to.inputs(node), to.shape(node, "shape", *node.shape)])


def _slice(to: _Builder, node: Node) -> str:
    start, stop, step = (list(node.attributes[role]) for role in ("start", "stop", "step"))
    axis = to.batch[node.name]
    if to.dynamic_batch and axis is not None:
        stop[axis] = _ALL
    limits = {"start": start, "stop": stop}
    if set(step) != {1}:
        limits |= {"axes": list(range(len(step))), "step": step}
    bounds = [to.constant(node, role, np.array(numbers, np.int64)) for role, numbers in limits.items()]
    return to.op(node, "Slice", [*to.inputs(node), *bounds])


def _gather(to: _Builder, node: Node) -> str:
    indices = to.constant(node, "indices", np.array(node.attributes["indices"], np.int64))
    return to.op(node, "Gather", [*to.inputs(node), indices], axis=node.attributes["axis"])


def _pad(to: _Builder, node: Node) -> str:
    top, left, bottom, right = node.attributes["padding"]
    pads = to.constant(node, "pads", np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
    return to.op(node, "Pad", [*to.inputs(node), pads])


def _resize(to: _Builder, node: Node) -> str:
    # PyTorch's nearest takes the pixel at or before i * in / out, without half a pixel's shift.
    bilinear, align = node.attributes["mode"] == "bilinear", node.attributes["align_corners"]
    positions = "align_corners" if align else "half_pixel" if bilinear else "asymmetric"
    axes: dict[str, Any] = {}
    before = to.shapes[node.inputs[0]]
    if not to.dynamic_batch:
        size = ["", to.constant(node, "sizes", np.array(node.shape, np.int64))]
    elif node.shape[2] % before[2] == node.shape[3] % before[3] == 0:
        factors = [1, 1, node.shape[2] // before[2], node.shape[3] // before[3]]
        size = [to.constant(node, "scales", np.array(factors, np.float32))]
    elif to.opset >= 18:
        axes = {"axes": [2, 3]}
        size = ["", to.constant(node, "sizes", np.array(node.shape[2:], np.int64))]
    else:
        raise to.refused(node, "a resize there by another than whole factors needs opset 18; ask for that")
    return to.op(
        node,
        "Resize",
        [*to.inputs(node), "", *size],
        mode="linear" if bilinear else "nearest",
        coordinate_transformation_mode=positions,
        nearest_mode="floor",
        **axes,
    )


def _channel_shuffle(to: _Builder, node: Node) -> str:
    batch, channels, height, width = node.shape
    groups = node.attributes["groups"]
    split = to.shape(node, "split", batch, groups, channels // groups, height, width)
    viewed = to.op(node, "Reshape", [*to.inputs(node), split], part="viewed")
    swapped = to.op(node, "Transpose", [viewed], part="swapped", perm=[0, 2, 1, 3, 4])
    return to.op(node, "Reshape", [swapped, to.shape(node, "shape", *node.shape)])


def _prelu(to: _Builder, node: Node) -> str:
    slope = node.weights["slope"].reshape(-1, *[1] * (len(node.shape) - 2))
    return to.op(node, "PRelu", [*to.inputs(node), to.constant(node, "slope", slope)])


_RULES: dict[str, Callable[[_Builder, Node], str]] = {
    "constant": _constant,
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "linear": _linear,
    "matmul": _plain("MatMul"),
    "layer_norm": _layer_norm,
    "add": _plain("Add"),
    "mul": _plain("Mul"),
    "sub": _plain("Sub"),
    "div": _plain("Div"),
    "minimum": _plain("Min"),
    "maximum": _plain("Max"),
    "concat": lambda to, node: to.op(node, "Concat", to.inputs(node), axis=node.attributes["axis"]),
    "slice": _slice,
    "gather": _gather,
    "max_pool": _pool("MaxPool"),
    "avg_pool": _pool("AveragePool", count_include_pad=1),
    "global_avg_pool": _global_avg_pool,
    "mean": _reduce("ReduceMean"),
    "sum": _reduce("ReduceSum"),
    "max": _reduce("ReduceMax"),
    "permute": lambda to, node: to.op(node, "Transpose", to.inputs(node), perm=node.attributes["axes"]),
    "reshape": _reshape,
    "pad": _pad,
    "resize": _resize,
    "channel_shuffle": _channel_shuffle,
    "softmax": lambda to, node: to.op(node, "Softmax", to.inputs(node), axis=node.attributes["axis"]),
    "relu": _plain("Relu"),
    "relu6": _relu6,
    "hard_sigmoid": _plain("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hard_swish": _plain("HardSwish"),
    "sigmoid": _plain("Sigmoid"),
    "silu": _silu,
    "gelu": _gelu,
    "tanh": _plain("Tanh"),
    "leaky_relu": lambda to, node: to.op(node, "LeakyRelu", to.inputs(node), alpha=node.attributes["slope"]),
    "elu": _plain("Elu"),
    "prelu": _prelu,
    "exp": _plain("Exp"),
    "sqrt": _plain("Sqrt"),
    "softplus": _plain("Softplus"),
    "abs": _plain("Abs"),
}
