"""Writes a graph as an ONNX file: opset 17, batch 1, channels first. Equal graphs and metadata give equal
bytes.

The operations are those of https://onnx.ai/onnx/operators; what opset 17 has not (SiLU, GELU) is composed.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fbnet_mobile.errors import UserError
from fbnet_mobile.export.graph import INPUT, Graph, Node

OPSET = 17
_IR_VERSION = 8
"""The IR version released with opset 17 (ONNX 1.12): what runtimes of that age read."""


def write(graph: Graph, path: Path, metadata: Mapping[str, str]) -> None:
    """Write ``graph`` with the tensors "input" and "output", and check it by ``onnx.checker``."""
    builder = _Builder(graph)
    for node in graph.nodes:
        _RULES[node.op](builder, node)
    model = helper.make_model(
        helper.make_graph(
            builder.operations,
            "network",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, graph.input_shape)],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, graph.shapes()[graph.output])],
            builder.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="fbnet-mobile",
    )
    helper.set_model_props(model, dict(sorted(metadata.items())))
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def read_metadata(path: Path) -> dict[str, str]:
    """Return the model's ``metadata_props``."""
    try:
        model = onnx.load_model(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError, which is no more precise
        raise UserError(f"{path} is no ONNX file; export it again") from error
    return {entry.key: entry.value for entry in model.metadata_props}


class _Builder:
    """The operations and constants made so far; a node's tensor has the node's name, the last is "output"."""

    def __init__(self, graph: Graph) -> None:
        self.output = graph.output
        self.operations: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def tensor(self, name: str) -> str:
        """Return the tensor that holds a node's value."""
        return "output" if name == self.output else name

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


def _linear(to: _Builder, node: Node) -> str:
    weights = [to.constant(node, role, node.weights[role]) for role in ("weight", "bias")]
    return to.op(node, "Gemm", [*to.inputs(node), *weights], transB=1)


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
    else:
        curve = to.op(
            node,
            "Erf",
            [to.op(node, "Mul", [x, scalar("root", math.sqrt(0.5))], part="argument")],
            part="curve",
        )
    raised = to.op(node, "Add", [curve, scalar("one", 1)], part="raised")
    return to.op(node, "Mul", [to.op(node, "Mul", [x, scalar("half", 0.5)], part="halved"), raised])


def _pool(kind: str, **attributes: Any) -> Callable[[_Builder, Node], str]:
    def rule(to: _Builder, node: Node) -> str:
        kernel, stride = node.attributes["kernel"], node.attributes["stride"]
        pads = node.attributes["padding"]
        return to.op(node, kind, to.inputs(node), kernel_shape=kernel, strides=stride, pads=pads, **attributes)

    return rule


def _global_avg_pool(to: _Builder, node: Node) -> str:
    if node.attributes["keepdims"]:
        return to.op(node, "GlobalAveragePool", to.inputs(node))
    return to.op(node, "ReduceMean", to.inputs(node), axes=[2, 3], keepdims=0)


def _reshape(to: _Builder, node: Node) -> str:
    return to.op(node, "Reshape", [*to.inputs(node), to.constant(node, "shape", np.array(node.shape, np.int64))])


def _slice(to: _Builder, node: Node) -> str:
    bounds = [to.constant(node, role, np.array(node.attributes[role], np.int64)) for role in ("start", "stop")]
    return to.op(node, "Slice", [*to.inputs(node), *bounds])


def _pad(to: _Builder, node: Node) -> str:
    top, left, bottom, right = node.attributes["padding"]
    pads = to.constant(node, "pads", np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
    return to.op(node, "Pad", [*to.inputs(node), pads])


def _resize(to: _Builder, node: Node) -> str:
    # PyTorch's nearest takes the pixel at or before i * in / out, without half a pixel's shift.
    bilinear, align = node.attributes["mode"] == "bilinear", node.attributes["align_corners"]
    positions = "align_corners" if align else "half_pixel" if bilinear else "asymmetric"
    sizes = to.constant(node, "sizes", np.array(node.shape, np.int64))
    return to.op(
        node,
        "Resize",
        [*to.inputs(node), "", "", sizes],
        mode="linear" if bilinear else "nearest",
        coordinate_transformation_mode=positions,
        nearest_mode="floor",
    )


def _channel_shuffle(to: _Builder, node: Node) -> str:
    batch, channels, height, width = node.shape
    groups = node.attributes["groups"]
    split = to.constant(node, "split", np.array([batch, groups, channels // groups, height, width], np.int64))
    viewed = to.op(node, "Reshape", [*to.inputs(node), split], part="viewed")
    swapped = to.op(node, "Transpose", [viewed], part="swapped", perm=[0, 2, 1, 3, 4])
    return to.op(node, "Reshape", [swapped, to.constant(node, "shape", np.array(node.shape, np.int64))])


_RULES: dict[str, Callable[[_Builder, Node], str]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "add": _plain("Add"),
    "mul": _plain("Mul"),
    "sub": _plain("Sub"),
    "concat": lambda to, node: to.op(node, "Concat", to.inputs(node), axis=node.attributes["axis"]),
    "slice": _slice,
    "max_pool": _pool("MaxPool"),
    "avg_pool": _pool("AveragePool", count_include_pad=1),
    "global_avg_pool": _global_avg_pool,
    "reshape": _reshape,
    "pad": _pad,
    "resize": _resize,
    "channel_shuffle": _channel_shuffle,
    "softmax": _plain("Softmax", axis=1),
    "relu": _plain("Relu"),
    "relu6": _relu6,
    "hard_sigmoid": _plain("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hard_swish": _plain("HardSwish"),
    "sigmoid": _plain("Sigmoid"),
    "silu": _silu,
    "gelu": _gelu,
    "tanh": _plain("Tanh"),
    "leaky_relu": lambda to, node: to.op(node, "LeakyRelu", to.inputs(node), alpha=node.attributes["slope"]),
}
