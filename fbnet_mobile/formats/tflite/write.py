"""Writes a graph as a TFLite file, through the MLIR dialect of Google's own converter (``litert_converter``).

The file keeps feature maps as height, width, channels (NHWC) from its input to its output, and anything else in
whatever order costs least (:mod:`fbnet_mobile.formats.tflite.layout`): a TRANSPOSE is in it only where an operation
needs numbers in another order, as the product of matrices of an attention does, or flattening a feature map where no
linear layer follows. A channel shuffle holds one, which is that operation itself. Equal graphs and metadata give equal
bytes.
What classifies pictures says so in TFLite's standard metadata, too.

The operations and their attributes are those of ``tensorflow/compiler/mlir/lite/ir/tfl_ops.td``. They are
made with MLIR's generic builder: the graph already knows every shape, so nothing is left to infer, and an
inverted residual block takes a few milliseconds.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.metadata import ModelMetadata
from fbnet_mobile.formats.packages import quiet
from fbnet_mobile.formats.tflite.layout import (
    Layout,
    arranged,
    last,
    permuted,
    plain,
    reshaped,
    same_order,
    usual,
    without,
)
from fbnet_mobile.formats.tflite.metadata import METADATA, SIGNATURE
from fbnet_mobile.formats.tflite.standard import STANDARD, describes, pack
from fbnet_mobile.graph.operations import INPUT, Graph, Node, Shape

with quiet():
    from litert_converter.mlir import ir
    from litert_converter.tools.model_utils import transform


def write(graph: Graph, path: Path, metadata: Mapping[str, str]) -> None:
    """Write ``graph`` with a signature of its inputs and outputs."""
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
    element = ir.IntegerType.get_unsigned(8) if graph.pixels else None
    shapes = graph.shapes()
    input_types = [_tensor(_nhwc(shape), element) for shape in graph.inputs.values()]
    output_types = [_tensor(_nhwc(shapes[node])) for node in graph.outputs.values()]
    names = f'{{inputs = "{",".join(graph.inputs)}", outputs = "{",".join(graph.outputs)}"}}'
    function = ir.Operation.create(
        "func.func",
        regions=1,
        ip=ir.InsertionPoint(module.body),
        attributes={
            "sym_name": ir.StringAttr.get("main"),
            "sym_visibility": ir.StringAttr.get("public"),
            "function_type": ir.TypeAttr.get(ir.FunctionType.get(input_types, output_types)),
            "tf.entry_function": ir.Attribute.parse(names),
            "tf_saved_model.exported_names": ir.Attribute.parse(f'["{SIGNATURE}"]'),
            "arg_attrs": _index_paths(graph.inputs),
            "res_attrs": _index_paths(graph.outputs),
        },
    )
    block = ir.Block.create_at_start(function.regions[0], input_types)
    with ir.InsertionPoint(block):
        builder = _Builder(graph, list(block.arguments))
        for node in graph.nodes:
            builder.emit(node)
        results = []
        for name, made in graph.outputs.items():
            with ir.Location.name(name):
                results.append(builder.value(made, usual(len(shapes[made]))))
        ir.Operation.create("func.return", operands=results)
    module.operation.verify()
    return module


def _index_paths(names: Iterable[str]) -> ir.Attribute:
    """The names of what a signature takes or gives."""
    return ir.Attribute.parse("[" + ", ".join(f'{{tf_saved_model.index_path = ["{name}"]}}' for name in names) + "]")


def _nhwc(shape: Sequence[Any]) -> tuple[Any, ...]:
    """Reorder one item an axis from NCHW to NHWC; those of anything but a feature map stay as they are."""
    return arranged(shape, usual(len(shape)))


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
    """Emits nodes into the current block; ``kept`` are the MLIR values of the nodes' names, with their layouts."""

    def __init__(self, graph: Graph, arguments: Sequence[ir.Value]) -> None:
        self.kept: dict[str, tuple[ir.Value, Layout]] = {
            name: (argument, usual(len(shape)))
            for (name, shape), argument in zip(graph.inputs.items(), arguments, strict=True)
        }
        if graph.pixels:
            cast = self.op("cast", [arguments[0]], _nhwc(graph.input_shape))
            self.kept[INPUT] = (cast, usual(len(graph.input_shape)))
        self.moved: dict[tuple[str, Layout], ir.Value] = {}
        self.constants = {node.name: node.weights["constant"] for node in graph.nodes if node.op == "constant"}
        self.shapes = graph.shapes()
        self.fused = _activations_to_fuse(graph)

    def emit(self, node: Node) -> None:
        """Emit the operations of one node."""
        with ir.Location.name(node.name):
            made = _RULES[node.op](self, node)
        self.kept[node.name] = made if isinstance(made, tuple) else (made, usual(len(node.shape)))

    def layout(self, name: str) -> Layout:
        """Return the order in which a value is kept."""
        return self.kept[name][1]

    def value(self, name: str, wanted: Layout | None = None) -> ir.Value:
        """Return a node's value in a layout: in that in which it is kept unless another is wanted."""
        value, layout = self.kept[name]
        if wanted is None or wanted == layout:
            return value
        if (name, wanted) not in self.moved and name in self.constants:
            self.moved[name, wanted] = self.constant(self.constants[name].transpose(wanted))
        if (name, wanted) not in self.moved:
            self.moved[name, wanted] = self.move(value, self.shapes[name], layout, wanted)
        return self.moved[name, wanted]

    def move(self, value: ir.Value, shape: Shape, layout: Layout, wanted: Layout) -> ir.Value:
        """Return a value of another layout; its shape is given in PyTorch's order."""
        after = arranged(shape, wanted)
        if same_order(shape, layout, wanted):
            return self.op("reshape", [value, self.numbers(*after)], after)
        return self.op("transpose", [value, self.numbers(*(layout.index(axis) for axis in wanted))], after)

    def op(self, name: str, operands: Sequence[ir.Value], shape: Shape, **attributes: object) -> ir.Value:
        """Emit one operation of the tfl dialect with a float32 result of the ``shape``, as it is kept."""
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

    def inputs(self, node: Node, layout: Layout | None = None) -> list[ir.Value]:
        """Return the node's operands in a layout, by default that of a feature map, its constant last."""
        layout = usual(len(self.shapes[node.inputs[0]])) if layout is None else layout
        operands = [self.value(name, layout) for name in node.inputs]
        if "constant" in node.weights:
            operands.append(self.constant(node.weights["constant"].transpose(layout)))
        return operands

    def padded(self, node: Node, window: Sequence[int], fill: float) -> tuple[ir.Value, str]:
        """Return the node's input and the padding mode with which a window over it gives what PyTorch's
        padding gives.

        SAME pads as evenly as it can, and more at the end, by what the output's size asks for; where PyTorch
        pads otherwise the input is padded by an operation of its own.
        """
        (value,), shape = self.inputs(node), self.shapes[node.inputs[0]]
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

    def pad(
        self,
        value: ir.Value,
        shape: Shape,
        sides: Sequence[tuple[int, int]],
        fill: float = 0.0,
        layout: Layout = usual(4),  # noqa: B008 - a tuple
    ) -> ir.Value:
        """Pad height and width of a value, kept in a layout, whose NCHW shape is given."""
        every = [(0, 0), (0, 0), *sides]
        amounts = self.constant(np.array([every[axis] for axis in layout], np.int32))
        padded = arranged([size + sum(more) for size, more in zip(shape, every, strict=True)], layout)
        if fill == 0:
            return self.op("pad", [value, amounts], padded)
        return self.op("padv2", [value, amounts, self.constant(np.array(fill, np.float32))], padded)

    def largest(self, node: Node) -> Layout:
        """Return the layout of the largest of the values that a node reads, the first of those of a size."""
        read = [name for name in node.inputs if name not in self.constants] or list(node.inputs)
        return self.layout(max(read, key=lambda name: math.prod(self.shapes[name])))


Made = Any
"""What a rule returns: an MLIR value in the usual layout, or one and the layout that it is kept in."""

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


def _linear(to: _Builder, node: Node) -> Made:
    bias, activation = _bias_and_activation(to, node)
    layout = last(to.layout(node.inputs[0]), len(node.shape) - 1)
    value = to.op(
        "fully_connected",
        [*to.inputs(node, layout), to.constant(node.weights["weight"]), bias],
        arranged(node.shape, layout),
        fused_activation_function=activation,
        weights_format="DEFAULT",
        keep_num_dims=len(node.shape) > 2,
        asymmetric_quantize_inputs=False,
    )
    return value, layout


def _matmul(to: _Builder, node: Node) -> Made:
    first, second = node.inputs
    rank = len(node.shape)
    swapped = (*range(rank - 2), rank - 1, rank - 2)
    as_it_is = same_order(to.shapes[second], to.layout(second), swapped) and second not in to.constants
    operands = [to.value(first, plain(rank)), to.value(second, swapped if as_it_is else plain(rank))]
    attributes = {"adj_x": False, "adj_y": as_it_is, "asymmetric_quantize_inputs": False}
    return to.op("batch_matmul", operands, node.shape, **attributes), plain(rank)


def _elementwise(name: str, **attributes: object) -> Callable[[_Builder, Node], Made]:
    def rule(to: _Builder, node: Node) -> Made:
        layout = to.largest(node)
        return to.op(name, to.inputs(node, layout), arranged(node.shape, layout), **attributes), layout

    return rule


def _binary(to: _Builder, node: Node) -> Made:
    return _elementwise(node.op, fused_activation_function=_FUSED.get(to.fused.get(node.name, ""), "NONE"))(to, node)


def _fusible(to: _Builder, node: Node) -> Made:
    return to.kept[node.inputs[0]] if node.name in to.fused else _elementwise(node.op)(to, node)


def _hard_sigmoid(to: _Builder, node: Node) -> Made:
    clamped, layout = to.kept[node.inputs[0]]
    shape = arranged(node.shape, layout)
    if node.name not in to.fused:
        three = to.constant(np.array(3, np.float32))
        clamped = to.op("add", [clamped, three], shape, fused_activation_function="RELU6")
    sixth = to.constant(np.array(1 / 6, np.float32))
    return to.op("mul", [clamped, sixth], shape, fused_activation_function="NONE"), layout


def _silu(to: _Builder, node: Node) -> Made:
    value, layout = to.kept[node.inputs[0]]
    shape = arranged(node.shape, layout)
    gate = to.op("logistic", [value], shape)
    return to.op("mul", [value, gate], shape, fused_activation_function="NONE"), layout


def _softplus(to: _Builder, node: Node) -> Made:
    """max(x, 0) + log(1 + exp(-|x|)), whose exponential is never too large."""
    value, layout = to.kept[node.inputs[0]]
    shape = arranged(node.shape, layout)
    small = to.op("exp", [to.op("neg", [to.op("abs", [value], shape)], shape)], shape)
    more = to.op("add", [small, to.constant(np.array(1, np.float32))], shape, fused_activation_function="NONE")
    sums = [to.op("relu", [value], shape), to.op("log", [more], shape)]
    return to.op("add", sums, shape, fused_activation_function="NONE"), layout


def _gelu(to: _Builder, node: Node) -> Made:
    return _elementwise("gelu", approximate=node.attributes["approximate"])(to, node)


def _leaky_relu(to: _Builder, node: Node) -> Made:
    return _elementwise("leaky_relu", alpha=node.attributes["slope"])(to, node)


def _layer_norm(to: _Builder, node: Node) -> Made:
    """Its definition, operation by operation: TFLite has none of its own."""
    value, layout = to.kept[node.inputs[0]]
    axes = node.attributes["axes"]
    shape = arranged(node.shape, layout)
    one_each = tuple(1 if axis in axes else size for axis, size in enumerate(node.shape))
    places = to.numbers(*(layout.index(axis) for axis in axes))

    def calculate(op: str, first: ir.Value, second: ir.Value, shape: Shape) -> ir.Value:
        return to.op(op, [first, second], shape, fused_activation_function="NONE")

    few = arranged(one_each, layout)
    apart = calculate("sub", value, to.op("mean", [value, places], few, keep_dims=True), shape)
    variance = to.op("mean", [to.op("square", [apart], shape), places], few, keep_dims=True)
    finite = calculate("add", variance, to.constant(np.array(node.attributes["eps"], np.float32)), few)
    value = calculate("mul", apart, to.op("rsqrt", [finite], few), shape)
    for role, op in (("scale", "mul"), ("shift", "add")):
        if role in node.weights:
            of_axes = [size if axis in axes else 1 for axis, size in enumerate(node.shape)]
            value = calculate(op, value, to.constant(node.weights[role].reshape(of_axes).transpose(layout)), shape)
    return value, layout


def _prelu(to: _Builder, node: Node) -> ir.Value:
    shape = [1] * (len(node.shape) - 2) + [node.shape[1]]
    return to.op("prelu", [*to.inputs(node), to.constant(node.weights["slope"].reshape(shape))], _nhwc(node.shape))


def _concat(to: _Builder, node: Node) -> Made:
    layout = to.largest(node)
    axis = layout.index(node.attributes["axis"])
    operands = to.inputs(node, layout)
    shape = arranged(node.shape, layout)
    return to.op("concatenation", operands, shape, axis=axis, fused_activation_function="NONE"), layout


def _slice(to: _Builder, node: Node) -> Made:
    value, layout = to.kept[node.inputs[0]]
    shape = arranged(node.shape, layout)
    start, stop, step = (arranged(node.attributes[role], layout) for role in ("start", "stop", "step"))
    if set(step) == {1}:
        return to.op("slice", [value, to.numbers(*start), to.numbers(*shape)], shape), layout
    masks = dict.fromkeys(("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask"), 0)
    operands = [value, *(to.numbers(*bounds) for bounds in (start, stop, step))]
    return to.op("strided_slice", operands, shape, offset=False, **masks), layout


def _gather(to: _Builder, node: Node) -> Made:
    value, layout = to.kept[node.inputs[0]]
    operands = [value, to.numbers(*node.attributes["indices"])]
    axis = layout.index(node.attributes["axis"])
    return to.op("gather", operands, arranged(node.shape, layout), axis=axis, batch_dims=0), layout


def _conv_transpose2d(to: _Builder, node: Node) -> Made:
    """All that the kernels cover, less what is cut away."""
    if node.attributes["groups"] != 1:
        raise UserError(
            f"cannot write {node.name} (in '{node.source}') to TFLite: it has no transposed convolution of groups; use "
            "another format"
        )
    weight, stride = node.weights["weight"], node.attributes["stride"]
    (value,), (batch, _, *sizes) = to.inputs(node), to.shapes[node.inputs[0]]
    (top, left, bottom, right), more = node.attributes["padding"], node.attributes["output_padding"]
    if any(extra > cut for extra, cut in zip(more, (bottom, right), strict=True)):
        value = to.pad(value, to.shapes[node.inputs[0]], [(0, 1), (0, 1)])  # beyond the last kernel nothing is covered
        sizes = [size + 1 for size in sizes]
    whole = [(size - 1) * step + kernel for size, step, kernel in zip(sizes, stride, weight.shape[2:], strict=True)]
    shape = (batch, *whole, weight.shape[1])
    made = to.op(
        "transpose_conv",
        [
            to.numbers(*shape),
            to.constant(weight.transpose(1, 2, 3, 0)),
            value,
            to.constant(node.weights["bias"]),
        ],
        shape,
        padding="VALID",
        stride_h=stride[0],
        stride_w=stride[1],
        fused_activation_function="NONE",
    )
    after = _nhwc(node.shape)
    return made if shape == after else to.op("slice", [made, to.numbers(0, top, left, 0), to.numbers(*after)], after)


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


def _reduce(name: str) -> Callable[[_Builder, Node], Made]:
    def rule(to: _Builder, node: Node) -> Made:
        value, layout = to.kept[node.inputs[0]]
        axes, keep = node.attributes.get("axes", (2, 3)), node.attributes["keepdims"]
        places = to.numbers(*(layout.index(axis) for axis in axes))
        left = layout if keep else without(layout, axes)
        return to.op(name, [value, places], arranged(node.shape, left), keep_dims=keep), left

    return rule


def _reshape(to: _Builder, node: Node) -> Made:
    """Reshape; numbers that do not lie in PyTorch's order, as far as it shows, are put in it first."""
    (name,) = node.inputs
    needed, layout = reshaped(to.shapes[name], to.layout(name), node.shape)
    shape = arranged(node.shape, layout)
    return to.op("reshape", [to.value(name, needed), to.numbers(*shape)], shape), layout


def _permute(to: _Builder, node: Node) -> Made:
    """The same numbers where they are, under another layout."""
    value, layout = to.kept[node.inputs[0]]
    return value, permuted(layout, node.attributes["axes"])


def _pad(to: _Builder, node: Node) -> Made:
    (top, left, bottom, right), (value, layout) = node.attributes["padding"], to.kept[node.inputs[0]]
    return to.pad(value, to.shapes[node.inputs[0]], [(top, bottom), (left, right)], layout=layout), layout


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


def _softmax(to: _Builder, node: Node) -> Made:
    layout = last(to.layout(node.inputs[0]), node.attributes["axis"])
    return to.op("softmax", to.inputs(node, layout), arranged(node.shape, layout), beta=1.0), layout


def _constant(to: _Builder, node: Node) -> Made:
    return to.constant(node.weights["constant"]), plain(len(node.shape))


_RULES: dict[str, Callable[[_Builder, Node], Made]] = {
    "constant": _constant,
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "linear": _linear,
    "matmul": _matmul,
    "layer_norm": _layer_norm,
    "add": _binary,
    "mul": _binary,
    "sub": _binary,
    "div": _binary,
    "minimum": _elementwise("minimum"),
    "maximum": _elementwise("maximum"),
    "concat": _concat,
    "slice": _slice,
    "gather": _gather,
    "max_pool": _pool("max_pool_2d", float(np.finfo(np.float32).min)),
    "avg_pool": _pool("average_pool_2d", 0.0),
    "global_avg_pool": _reduce("mean"),
    "mean": _reduce("mean"),
    "sum": _reduce("sum"),
    "max": _reduce("reduce_max"),
    "permute": _permute,
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
    "exp": _elementwise("exp"),
    "sqrt": _elementwise("sqrt"),
    "softplus": _softplus,
    "abs": _elementwise("abs"),
}
