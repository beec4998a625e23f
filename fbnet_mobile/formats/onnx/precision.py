"""ONNX in fp16 and int8, by ONNX Runtime's own tools.

See https://onnxruntime.ai/docs/performance/model-optimizations/.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.onnx.run import load, version
from fbnet_mobile.formats.packages import needs, quiet
from fbnet_mobile.graph.probabilities import PROBABILITIES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Images = NDArray[Any]

_RANGE = (-4.0, 4.0)
"""Of every activation of a block to be measured: nearly all of what a normalised feature map holds."""


_OPSET = 21
"""Whose quantised operations ONNX Runtime has had since 1.18."""


def fp16(source: Path, images: Images, target: Path) -> None:
    """Store and compute in 16-bit floats; the input and the output stay float32."""
    with needs("onnxruntime", "fbnet-mobile[onnx]"), quiet():
        from onnxruntime.quantization.onnx_model import ONNXModel
        from onnxruntime.transformers.float16 import convert_float_to_float16

    model = ONNXModel(convert_float_to_float16(onnx.load(source), keep_io_types=True))
    model.topological_sort()  # the conversion puts the cast of the input last
    onnx.checker.check_model(model.model, full_check=True)
    target.write_bytes(model.model.SerializeToString(deterministic=True))


def int8(source: Path, images: Images, target: Path) -> None:
    """Quantise to QDQ form: uint8 activations with the range they had, int8 weights per channel, of 7 bits.

    A processor without VNNI (all of AVX2's) adds products of 8-bit weights and activations in pairs, in 16
    bits, and saturates without a word. Of EfficientNet-Lite0's answers on 300 photographs 83 % stayed the same
    with 8-bit weights and 95 % with 7-bit ones, on such a processor. Activations of int8 and ranges by entropy
    gave what these settings give; ranges by percentile, 1 to 2 points less.
    """
    with needs("onnxruntime", "fbnet-mobile[onnx]"), quiet():
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    model = onnx.load(source)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    # Batch norm is folded and the shapes are known, which is what its pre-processing would do.
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    # It calls what it adds by the tensor's name and an ending, such as _scale, which may be another's name.
    made = {name for node in model.graph.node for name in node.output} - {border.name for border in model.graph.output}
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{name}:0" if name in made else name for name in names]
    with quiet():
        quantize_static(
            model,
            target,
            _Reader(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=[PROBABILITIES],  # 8 bits hold none under 1/256
        )
    quantised = onnx.load(target)
    onnx.helper.set_model_props(quantised, entries)
    target.write_bytes(quantised.SerializeToString(deterministic=True))
    (opset,) = (entry.version for entry in quantised.opset_import if entry.domain == "")
    sizes = [node.name for node in quantised.graph.node if any(entry.name == "axes" for entry in node.attribute)]
    if opset > _OPSET or sizes:
        try:
            load(target)
        except UserError as error:
            # Its optimiser loses the sizes of a quantised resize of which only some axes are stated.
            what, otherwise = (
                (f"in opset {opset}", f"an older one, such as {_OPSET}")
                if opset > _OPSET
                else (f"the resize {sizes[0]} with a dynamic batch", "a batch of one, or resize by whole factors")
            )
            raise UserError(f"ONNX Runtime {version()} cannot run int8 {what}; ask for {otherwise}") from error


class _Reader:
    """What ``quantize_static`` takes its images from."""

    def __init__(self, images: Images) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, Images] | None:
        image = next(self._images, None)
        return None if image is None else {"input": image[None]}


def fp16_for_measuring(content: bytes, first: bool, last: bool) -> bytes:
    """As :func:`fp16`, but what does not begin (``first``) or end (``last``) a network takes or gives 16 bits."""
    with needs("onnxruntime", "fbnet-mobile[onnx]"), quiet():
        from onnxruntime.quantization.onnx_model import ONNXModel
        from onnxruntime.transformers.float16 import convert_float_to_float16

    kept = [*(["input"] if first else []), *(["output"] if last else [])]
    model = ONNXModel(convert_float_to_float16(onnx.load_from_string(content), keep_io_types=kept))
    model.topological_sort()
    return bytes(model.model.SerializeToString())


def int8_for_measuring(content: bytes, first: bool, last: bool) -> bytes:
    """As :func:`int8`, with ranges that are given, as random weights have none that mean anything.

    Inside a network a block gets its input in few bits from the block before it: only what begins (``first``) or
    ends (``last``) one converts from and to float32.
    """
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
