"""Files of int8 for measuring: what ``export.precision`` makes, at a small part of what that costs.

A block's weights are random, so its quantised values mean nothing and only their types and shapes matter. The
quantisers of the formats are therefore given the ranges of activations instead of running the model to find them, and
are called without the files and repeated parsing around them. ``tests/latency/test_quantise.py`` checks that the same
operations on the same types come out.
"""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fbnet_mobile.export import formats
from fbnet_mobile.export.graph import Graph
from fbnet_mobile.files import write_whole
from fbnet_mobile.runtimes.packages import needs, quiet

_RANGE = (-4.0, 4.0)
"""Of every activation: nearly all of what a normalised feature map holds."""


def write(graph: Graph, path: Path, format: str, precision: str) -> None:  # noqa: A002
    """Write a graph to be measured; as :func:`fbnet_mobile.export.formats.write`, but int8 needs no images.

    Raises:
        UserError: an unknown format or precision, or a missing package.
    """
    if precision != "int8":
        formats.write(graph, path, format, precision=precision)
        return
    if format not in _INT8:
        images = np.random.default_rng(0).standard_normal(graph.input_shape).astype(np.float32)
        formats.write(graph, path, format, precision=precision, calibration=images)
        return
    with write_whole(path) as partial, tempfile.TemporaryDirectory() as folder:
        full = Path(folder) / path.name
        formats.get_format(format).emitter().write(graph, full, {})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries' remarks on their own debugging modes
            partial.write_bytes(_INT8[format](full.read_bytes()))


def _tflite_int8(content: bytes) -> bytes:
    with needs("ai_edge_quantizer", "fbnet-mobile[int8]"), quiet():
        from ai_edge_quantizer import quantizer, recipe

    settings = recipe.static_wi8_ai8()
    for border in ("INPUT", "OUTPUT"):
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


def _onnx_int8(content: bytes) -> bytes:
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
    return made.model.model.SerializeToString()


_INT8: dict[str, Callable[[bytes], bytes]] = {"tflite": _tflite_int8, "onnx": _onnx_int8}
