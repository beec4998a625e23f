"""Writes a graph as a TFLite file, through the MLIR dialect of Google's own converter (``litert_converter``).

The file works on height, width, channels (NHWC) from its input to its output; a feature map is never
transposed. A channel shuffle holds a TRANSPOSE, which is that operation itself, and so does flattening a feature map
where no linear layer follows, as its numbers must come in PyTorch's order. Equal graphs and metadata give equal bytes.
What classifies pictures says so in TFLite's standard metadata, too.

The operations and their attributes are those of ``tensorflow/compiler/mlir/lite/ir/tfl_ops.td``. They are
made with MLIR's generic builder: the graph already knows every shape, so nothing is left to infer, and an
inverted residual block takes a few milliseconds.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbnet_mobile.formats.metadata import ModelMetadata
from fbnet_mobile.formats.packages import quiet
from fbnet_mobile.formats.tflite.metadata import METADATA, SIGNATURE
from fbnet_mobile.formats.tflite.standard import STANDARD, describes, pack
from fbnet_mobile.graph.operations import INPUT, Graph, Node, Shape

with quiet():
    from litert_converter.mlir import ir
    from litert_converter.tools.model_utils import transform


def write(graph: Graph, path: Path, metadata: Mapping[str, str]) -> None:
    """Write ``graph`` with a signature of one "input" and one "output"."""
    with quiet():
        # MLIR keeps every constant for the life of its context, so each file gets a context of its own.
        context = transform.get_ir_context()
        with context, ir.Location.unknown():
            content = transform.write_flatbuffer(_module(graph, metadata), ir_context=context)
    path.write_bytes(content)


def _module(graph: Graph, metadata: Mapping[str, str]) -> ir.Module:
    module = ir.Module.create()
    text = json.dumps(dict(sorted(metadata.items())), ensure_ascii=False)
    buffers = {METADATA: ir.StringAttr.get(text)}
    known = ModelMetadata.from_strings(metadata)
    if known is not None and describes(graph, known):
        buffers[STANDARD] = ir.StringAttr.get(pack(graph, known))
    module.operation.attributes["tfl.metadata"] = ir.DictAttr.get(buffers)
    input_type = _tensor(_nhwc(graph.input_shape), ir.IntegerType.get_unsigned(8) if graph.pixels else None)
    output_type = _tensor(_nhwc(graph.shapes()[graph.output]))
    function = ir.Operation.create(
        "func.func",
        regions=1,
        ip=ir.InsertionPoint(module.body),
        attributes={
            "sym_name": ir.StringAttr.get("main"),
            "sym_visibility": ir.StringAttr.get("public"),
            "function_type": ir.TypeAttr.get(ir.FunctionType.get([input_type], [output_type])),
            "tf.entry_function": ir.Attribute.parse('{inputs = "input", outputs = "output"}'),
            "tf_saved_model.exported_names": ir.Attribute.parse(f'["{SIGNATURE}"]'),
            "arg_attrs": ir.Attribute.parse('[{tf_saved_model.index_path = ["input"]}]'),
            "res_attrs": ir.Attribute.parse('[{tf_saved_model.index_path = ["output"]}]'),
        },
    )
    block = ir.Block.create_at_start(function.regions[0], [input_type])
    with ir.InsertionPoint(block):
        builder = _Builder(graph, block.arguments[0])
        for node in graph.nodes:
            builder.emit(node)
        ir.Operation.create("func.return", operands=[builder.values[graph.output]])
    module.operation.verify()
    return module


def _nhwc(shape: Sequence[Any]) -> tuple[Any, ...]:
    """Reorder one item an axis from NCHW to NHWC; a vector's stay as they are."""
    return (shape[0], shape[2], shape[3], shape[1]) if len(shape) == 4 else tuple(shape)


def _tensor(shape: Shape, element: ir.Type | None = None) -> ir.Type:
    return ir.RankedTensorType.get(shape, element or ir.F32Type.get())


def _attribute(value: object) -> ir.Attribute:
    if isinstance(value, bool):
        return ir.BoolAttr.get(value)
    if isinstance(value, int):
        return ir.IntegerAttr.get(ir.IntegerType.get_signless(32), value)
    if isinstance(value, float):
        return ir.FloatAttr.get(ir.F32Type.get(), value)
    return ir.StringAttr.get(value)


class _Builder:
    """Emits nodes into the current block; ``values`` are the MLIR values, NHWC, of the nodes' names."""

    def __init__(self, graph: Graph, argument: ir.Value) -> None:
        self.values: dict[str, ir.Value] = {INPUT: argument}
        if graph.pixels:
            self.values[INPUT] = self.op("cast", [argument], _nhwc(graph.input_shape))
        self.shapes = graph.shapes()
        self.fused = _activations_to_fuse(graph)

    def emit(self, node: Node) -> None:
        """Emit the operations of one node."""
        with ir.Location.name(node.name):
            self.values[node.name] = _RULES[node.op](self, node)

    def op(self, name: str, operands: Sequence[ir.Value], shape: Shape, **attributes: object) -> ir.Value:
        """Emit one operation of the tfl dialect with a float32 result of the NHWC ``shape``."""
        return ir.Operation.create(
            f"tfl.{name}",
            results=[_tensor(shape)],
            operands=list(operands),
            attributes={key: _attribute(value) for key, value in attributes.items()},
        ).result

    def constant(self, array: NDArray[Any]) -> ir.Value:
        """Emit a constant, in the layout given."""
        array = np.asarray(array, order="C")
        element = ir.F32Type.get() if array.dtype == np.float32 else ir.IntegerType.get_signless(32)
        value = ir.DenseElementsAttr.get(array, type=element, shape=array.shape)
        # With names of their own, so that those of what operations give do not depend on which constants are equal.
        with ir.Location.name("constant"):
            return ir.Operation.create(
                "arith.constant", results=[_tensor(array.shape, element)], attributes={"value": value}
            ).result

    def numbers(self, *values: int) -> ir.Value:
        """Emit a constant vector of 32-bit integers."""
        return self.constant(np.array(values, np.int32))

    def inputs(self, node: Node) -> list[ir.Value]:
        """Return the node's operands, its constant last."""
        operands = [self.values[name] for name in node.inputs]
        if "constant" in node.weights:
            constant = node.weights["constant"]
            operands.append(self.constant(constant.transpose(0, 2, 3, 1) if constant.ndim == 4 else constant))
        return operands

    def padded(self, node: Node, window: Sequence[int], fill: float) -> tuple[ir.Value, str]:
        """Return the node's input and the padding mode with which a window over it gives what PyTorch's
        padding gives.

        SAME pads as evenly as it can, and more at the end, by what the output's size asks for; where PyTorch
        pads otherwise the input is padded by an operation of its own.
        """
        value, shape = self.values[node.inputs[0]], self.shapes[node.inputs[0]]
        sides, same = [], []
        for axis in (0, 1):
            size, out, step = shape[2 + axis], node.shape[2 + axis], node.attributes["stride"][axis]
            before = node.attributes["padding"][axis]
            # Padding at the end that no window reaches is left away; VALID drops input that none reaches.
            after = max((out - 1) * step + window[axis] - size - before, 0)
            total = max((-(-size // step) - 1) * step + window[axis] - size, 0)
            sides.append((before, after))
            same.append((total // 2, total - total // 2) == (before, after) and out == -(-size // step))
        if sides == [(0, 0), (0, 0)]:
            return value, "VALID"
        if all(same):
            return value, "SAME"
        return self.pad(value, shape, sides, fill), "VALID"

    def pad(self, value: ir.Value, shape: Shape, sides: Sequence[tuple[int, int]], fill: float = 0.0) -> ir.Value:
        """Pad height and width of a value whose NCHW shape is given."""
        (top, bottom), (left, right) = sides
        amounts = self.constant(np.array([(0, 0), (top, bottom), (left, right), (0, 0)], np.int32))
        padded = (shape[0], shape[2] + top + bottom, shape[3] + left + right, shape[1])
        if fill == 0:
            return self.op("pad", [value, amounts], padded)
        return self.op("padv2", [value, amounts, self.constant(np.array(fill, np.float32))], padded)


_FUSED = {"relu": "RELU", "relu6": "RELU6", "hard_sigmoid": "RELU6"}


def _activations_to_fuse(graph: Graph) -> dict[str, str]:
    """Return the activation that each node computes itself, by its name and by that of the activation."""
    consumers = graph.consumers()
    fused: dict[str, str] = {}
    for node in graph.nodes:
        after = graph.only_consumer(consumers, node.name)
        shiftable = node.op in ("conv2d", "linear")
        if after is None or after.op not in _FUSED or not (shiftable or node.op in ("add", "sub", "mul")):
            continue
        if shiftable or after.op != "hard_sigmoid":
            fused[node.name] = fused[after.name] = after.op
    return fused


def _bias_and_activation(to: _Builder, node: Node) -> tuple[ir.Value, str]:
    """Return the bias and the fused activation of a layer; hard sigmoid's +3 goes into the bias."""
    activation = to.fused.get(node.name, "")
    bias = node.weights["bias"]
    if activation == "hard_sigmoid":
        bias = bias + np.float32(3)
    return to.constant(bias), _FUSED.get(activation, "NONE")


def _conv2d(to: _Builder, node: Node) -> ir.Value:
    weight, dilation, groups = node.weights["weight"], node.attributes["dilation"], node.attributes["groups"]
    out, per_group, *kernel = weight.shape
    channels = per_group * groups
    value, mode = to.padded(node, [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)], 0.0)
    bias, activation = _bias_and_activation(to, node)
    attributes = {
        "stride_h": node.attributes["stride"][0],
        "stride_w": node.attributes["stride"][1],
        "dilation_h_factor": dilation[0],
        "dilation_w_factor": dilation[1],
        "padding": mode,
        "fused_activation_function": activation,
    }
    if groups == channels > 1:
        filters = to.constant(weight.transpose(1, 2, 3, 0))
        multiplier = out // channels
        return to.op(
            "depthwise_conv_2d",
            [value, filters, bias],
            _nhwc(node.shape),
            depth_multiplier=multiplier,
            **attributes,
        )
    filters = to.constant(weight.transpose(0, 2, 3, 1))
    return to.op("conv_2d", [value, filters, bias], _nhwc(node.shape), **attributes)


def _linear(to: _Builder, node: Node) -> ir.Value:
    bias, activation = _bias_and_activation(to, node)
    return to.op(
        "fully_connected",
        [*to.inputs(node), to.constant(node.weights["weight"]), bias],
        node.shape,
        fused_activation_function=activation,
        weights_format="DEFAULT",
        keep_num_dims=False,
        asymmetric_quantize_inputs=False,
    )


def _elementwise(name: str, **attributes: object) -> Callable[[_Builder, Node], ir.Value]:
    return lambda to, node: to.op(name, to.inputs(node), _nhwc(node.shape), **attributes)


def _binary(to: _Builder, node: Node) -> ir.Value:
    activation = _FUSED.get(to.fused.get(node.name, ""), "NONE")
    return to.op(node.op, to.inputs(node), _nhwc(node.shape), fused_activation_function=activation)


def _fusible(to: _Builder, node: Node) -> ir.Value:
    if node.name in to.fused:
        return to.values[node.inputs[0]]
    return to.op(node.op, to.inputs(node), _nhwc(node.shape))


def _hard_sigmoid(to: _Builder, node: Node) -> ir.Value:
    shape = _nhwc(node.shape)
    clamped = to.values[node.inputs[0]]
    if node.name not in to.fused:
        three = to.constant(np.array(3, np.float32))
        clamped = to.op("add", [clamped, three], shape, fused_activation_function="RELU6")
    sixth = to.constant(np.array(1 / 6, np.float32))
    return to.op("mul", [clamped, sixth], shape, fused_activation_function="NONE")


def _silu(to: _Builder, node: Node) -> ir.Value:
    value = to.values[node.inputs[0]]
    gate = to.op("logistic", [value], _nhwc(node.shape))
    return to.op("mul", [value, gate], _nhwc(node.shape), fused_activation_function="NONE")


def _gelu(to: _Builder, node: Node) -> ir.Value:
    return to.op("gelu", to.inputs(node), _nhwc(node.shape), approximate=node.attributes["approximate"])


def _leaky_relu(to: _Builder, node: Node) -> ir.Value:
    return to.op("leaky_relu", to.inputs(node), _nhwc(node.shape), alpha=node.attributes["slope"])


def _prelu(to: _Builder, node: Node) -> ir.Value:
    shape = [1] * (len(node.shape) - 2) + [node.shape[1]]
    return to.op("prelu", [*to.inputs(node), to.constant(node.weights["slope"].reshape(shape))], _nhwc(node.shape))


def _concat(to: _Builder, node: Node) -> ir.Value:
    axis = _nhwc(range(len(node.shape))).index(node.attributes["axis"])
    return to.op("concatenation", to.inputs(node), _nhwc(node.shape), axis=axis, fused_activation_function="NONE")


def _slice(to: _Builder, node: Node) -> ir.Value:
    begin, size = to.numbers(*_nhwc(node.attributes["start"])), to.numbers(*_nhwc(node.shape))
    return to.op("slice", [*to.inputs(node), begin, size], _nhwc(node.shape))


def _pool(name: str, fill: float) -> Callable[[_Builder, Node], ir.Value]:
    def rule(to: _Builder, node: Node) -> ir.Value:
        kernel, stride = node.attributes["kernel"], node.attributes["stride"]
        value, mode = to.padded(node, kernel, fill)
        if mode == "SAME" and name == "average_pool_2d":
            # TFLite's SAME leaves the padding out of the mean; here it counts.
            (top, left, bottom, right), shape = node.attributes["padding"], to.shapes[node.inputs[0]]
            value, mode = to.pad(value, shape, [(top, bottom), (left, right)]), "VALID"
        return to.op(
            name,
            [value],
            _nhwc(node.shape),
            filter_height=kernel[0],
            filter_width=kernel[1],
            stride_h=stride[0],
            stride_w=stride[1],
            padding=mode,
            fused_activation_function="NONE",
        )

    return rule


def _global_avg_pool(to: _Builder, node: Node) -> ir.Value:
    operands = [*to.inputs(node), to.numbers(1, 2)]
    return to.op("mean", operands, _nhwc(node.shape), keep_dims=node.attributes["keepdims"])


def _reshape(to: _Builder, node: Node) -> ir.Value:
    """Reshape; where the order of a feature map's axes shows, in PyTorch's order, which takes a TRANSPOSE."""
    (value,), before = to.inputs(node), to.shapes[node.inputs[0]]
    if _order_shows(before):
        value = to.op("transpose", [value, to.numbers(0, 3, 1, 2)], before)
    if not _order_shows(node.shape):
        shape = _nhwc(node.shape)
        return to.op("reshape", [value, to.numbers(*shape)], shape)
    value = to.op("reshape", [value, to.numbers(*node.shape)], node.shape)
    return to.op("transpose", [value, to.numbers(0, 2, 3, 1)], _nhwc(node.shape))


def _order_shows(shape: Shape) -> bool:
    return len(shape) == 4 and shape[1] > 1 and shape[2] * shape[3] > 1


def _pad(to: _Builder, node: Node) -> ir.Value:
    top, left, bottom, right = node.attributes["padding"]
    return to.pad(to.values[node.inputs[0]], to.shapes[node.inputs[0]], [(top, bottom), (left, right)])


def _resize(to: _Builder, node: Node) -> ir.Value:
    bilinear, align = node.attributes["mode"] == "bilinear", node.attributes["align_corners"]
    return to.op(
        "resize_bilinear" if bilinear else "resize_nearest_neighbor",
        [*to.inputs(node), to.numbers(*node.shape[2:])],
        _nhwc(node.shape),
        align_corners=align,
        half_pixel_centers=bilinear and not align,
    )


def _channel_shuffle(to: _Builder, node: Node) -> ir.Value:
    batch, channels, height, width = node.shape
    groups = node.attributes["groups"]
    split = (batch, height, width, groups, channels // groups)
    swapped = (batch, height, width, channels // groups, groups)
    value = to.op("reshape", [*to.inputs(node), to.numbers(*split)], split)
    value = to.op("transpose", [value, to.numbers(0, 1, 2, 4, 3)], swapped)
    return to.op("reshape", [value, to.numbers(*_nhwc(node.shape))], _nhwc(node.shape))


def _softmax(to: _Builder, node: Node) -> ir.Value:
    return to.op("softmax", to.inputs(node), _nhwc(node.shape), beta=1.0)


_RULES: dict[str, Callable[[_Builder, Node], ir.Value]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "add": _binary,
    "mul": _binary,
    "sub": _binary,
    "concat": _concat,
    "slice": _slice,
    "max_pool": _pool("max_pool_2d", float(np.finfo(np.float32).min)),
    "avg_pool": _pool("average_pool_2d", 0.0),
    "global_avg_pool": _global_avg_pool,
    "reshape": _reshape,
    "pad": _pad,
    "resize": _resize,
    "channel_shuffle": _channel_shuffle,
    "softmax": _softmax,
    "relu": _fusible,
    "relu6": _fusible,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": _elementwise("hard_swish"),
    "sigmoid": _elementwise("logistic"),
    "silu": _silu,
    "gelu": _gelu,
    "tanh": _elementwise("tanh"),
    "leaky_relu": _leaky_relu,
    "elu": _elementwise("elu"),
    "prelu": _prelu,
}
