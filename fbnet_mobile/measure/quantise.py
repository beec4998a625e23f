"""Files of fewer bits for measuring: what ``export.precision`` makes, at a small part of what that costs.

A block's weights are random, so its quantised values mean nothing and only their types and shapes matter. The
quantisers of the formats are therefore given the ranges of activations instead of running the model to find them, and
are called without the files and repeated parsing around them. Inside a network a block gets its input in few bits from
the block before it, so it does here: only what ends a network converts from and to float32.
``tests/latency/test_quantise.py`` checks that the same operations on the same types come out.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fbnet_mobile.formats import base as formats
from fbnet_mobile.formats.packages import needs, quiet
from fbnet_mobile.formats.precision import check_precision
from fbnet_mobile.graph.operations import Graph

_RANGE = (-4.0, 4.0)
"""Of every activation: nearly all of what a normalised feature map holds."""


def write(graph: Graph, path: Path, format: str, precision: str, first: bool = True, last: bool = True) -> None:  # noqa: A002
    """Write a graph to be measured; as :func:`fbnet_mobile.formats.base.write_new`, but int8 needs no images.

    Args:
        graph: a block's or a network's.
        path: where nothing is yet, ends in the format's suffix; may be left half written.
        format: of the file.
        precision: of the file.
        first: whether the graph begins a network, so takes float32.
        last: whether it ends one, so gives float32.

    Raises:
        UserError: an unknown format or precision, or a missing package.
        JobError: the file cannot be written, as on a full disk.
    """
    entry = formats.get_format(format)
    convert = _CONVERSIONS.get((format, precision))
    if convert is None:
        check_precision(format, precision, calibrated=False)
        formats.write_new(graph, path, entry, {}, precision, None, {})
        return
    full = path.with_name(f"full-{path.name}")
    formats.write_new(graph, full, entry, {}, "fp32", None, {})
    with formats.writing(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' remarks on their own debugging modes
        path.write_bytes(convert(full.read_bytes(), first, last))
        full.unlink()


def _tflite_int8(content: bytes, first: bool, last: bool) -> bytes:
    with needs("ai_edge_quantizer", "fbnet-mobile[int8]"), quiet():
        from ai_edge_quantizer import quantizer, recipe

    settings = recipe.static_wi8_ai8()
    for border, float32 in (("INPUT", first), ("OUTPUT", last)):
        if float32:
            settings.append({"regex": ".*", "operation": border, "algorithm_key": "no_quantize", "op_config": {}})
    with quiet():
        made = quantizer.Quantizer(content, settings)
        model = made._float_model  # parsed already, which takes longer than quantising does
        ranges: dict[str, Any] = {}
        for tensor in model.subgraphs[0].tensors:
            if model.buffers[tensor.buffer].data is None:
                low, high = (np.full([1] * len(tensor.shape), value, np.float32) for value in _RANGE)
                ranges[tensor.name.decode()] = {"min": low, "max": high}
        result = made.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _onnx_fp16(content: bytes, first: bool, last: bool) -> bytes:
    import onnx

    with needs("onnxruntime", "fbnet-mobile[onnx]"), quiet():
        from onnxruntime.quantization.onnx_model import ONNXModel
        from onnxruntime.transformers.float16 import convert_float_to_float16

    kept = [*(["input"] if first else []), *(["output"] if last else [])]
    model = ONNXModel(convert_float_to_float16(onnx.load_from_string(content), keep_io_types=kept))
    model.topological_sort()
    return bytes(model.model.SerializeToString())


def _onnx_int8(content: bytes, first: bool, last: bool) -> bytes:
    import onnx

    with needs("onnxruntime", "fbnet-mobile[onnx]"), quiet():
        from onnxruntime.quantization import CalibrationMethod, QuantType
        from onnxruntime.quantization.calibrate import TensorData, TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
    low, high = (np.array(value, np.float32) for value in _RANGE)
    tensors = ["input", *(name for node in model.graph.node for name in node.output)]
    ranges = TensorsData(CalibrationMethod.MinMax, {name: TensorData(lowest=low, highest=high) for name in tensors})
    with quiet():
        made = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=True,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=[],
            nodes_to_exclude=[],
            op_types_to_quantize=list({*QLinearOpsRegistry, *QDQRegistry}),
            extra_options={},
        )
        made.quantize_model()
    quantised = made.model.model.graph
    if not first:
        _cut(quantised, quantised.input[0], "QuantizeLinear", onnx.TensorProto.UINT8)
    if not last:
        _cut(quantised, quantised.output[0], "DequantizeLinear", onnx.TensorProto.UINT8)
    return bytes(made.model.model.SerializeToString())


def _cut(graph: Any, border: Any, kind: str, element: int) -> None:
    """Take away the conversion at a border, whose tensor then holds what was converted to or from.

    There is none where the operation at the border, such as HardSwish, is one that is computed in float32.
    """
    ends = [node for node in graph.node if node.op_type == kind and border.name in (node.input[0], node.output[0])]
    if not ends:
        return
    (node,) = ends
    inner = node.output[0] if node.input[0] == border.name else node.input[0]
    graph.node.remove(node)
    for other in graph.node:
        for names in (other.input, other.output):
            names[:] = [border.name if name == inner else name for name in names]
    border.type.tensor_type.elem_type = element


_CONVERSIONS: dict[tuple[str, str], Callable[[bytes, bool, bool], bytes]] = {
    ("tflite", "int8"): _tflite_int8,
    ("onnx", "fp16"): _onnx_fp16,
    ("onnx", "int8"): _onnx_int8,
}
