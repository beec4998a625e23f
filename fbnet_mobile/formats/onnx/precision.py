"""ONNX in fp16 and int8, by ONNX Runtime's own tools.

See https://onnxruntime.ai/docs/performance/model-optimizations/.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.base import Session
from fbnet_mobile.formats.int8 import Quantised, Quantiser, quantise
from fbnet_mobile.formats.onnx.run import load, version
from fbnet_mobile.formats.packages import needs, quiet
from fbnet_mobile.formats.ranges import Ranges
from fbnet_mobile.graph.probabilities import PROBABILITIES
from fbnet_mobile.graph.rounded import WEIGHT_LEVELS, weight_ends

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Images = NDArray[Any]
    Array = NDArray[np.float32]

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


def int8(source: Path, images: Images, target: Path, **options: Any) -> Quantised:
    """Quantise to QDQ form: uint8 activations, int8 weights per channel, which no processor saturates.

    See :func:`fbnet_mobile.formats.int8.quantise` and :func:`fbnet_mobile.graph.rounded.weight_ends`.
    """
    return quantise(OnnxQuantiser(source), images, target, **options)


class OnnxQuantiser(Quantiser):
    """A float32 file. Its layers are its nodes."""

    suffix = ".onnx"
    in_pairs = True

    def __init__(self, source: Path) -> None:
        self._source = source
        self._model = onnx.load(source)
        self._weights: Weights = {}
        self._reads: dict[str, tuple[str, ...]] = {}
        made = {name for node in self._model.graph.node for name in node.output}
        for node in self._model.graph.node:
            self._reads[node.output[0]] = tuple(name for name in node.input if name in made or name == "input")

    def reads(self) -> Mapping[str, tuple[str, ...]]:
        """See :meth:`Quantiser.reads`."""
        return self._reads

    def session(self, quantised: Path | None = None) -> Session:
        """See :meth:`Quantiser.session`."""
        if quantised is None:
            return load(self._source)
        try:
            return load(quantised)
        except UserError as error:
            raise self._explained(error) from error

    def values(self, images: Images, quantised: Path | None = None) -> Iterator[Mapping[str, Array]]:
        """See :meth:`Quantiser.values`."""
        model = onnx.shape_inference.infer_shapes(onnx.load(quantised or self._source))
        types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
        named = {_dequantised(name): name for name in ("input", *self._reads)} if quantised else {}
        shown = {border.name: border.name for border in model.graph.output}
        for name in (name for node in model.graph.node for name in node.output):
            if types.get(name) == onnx.TensorProto.FLOAT and (quantised is None or name in named):
                model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
                shown[name] = named.get(name, name)
        with needs("onnxruntime", "fbnet-mobile[onnx]"), quiet():
            import onnxruntime

            settings = onnxruntime.SessionOptions()
            settings.intra_op_num_threads = settings.inter_op_num_threads = 1
            settings.log_severity_level = 4
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
            )
        for image in images:
            found = session.run(list(shown), {"input": image[None]})
            yield {"input": np.asarray(image[None], np.float32), **dict(zip(shown.values(), found, strict=True))}

    def write(self, ranges: Ranges, keep: Collection[str], target: Path, source: Path | None = None) -> None:
        """See :meth:`Quantiser.write`."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model if source is None else onnx.load(source))
        # The quantiser calls what it adds by the tensor's name and an ending, such as _scale, which may be another's.
        borders = {border.name for border in model.graph.output}
        made = {name for node in model.graph.node for name in node.output} - borders
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [_renamed(name) if name in made else name for name in names]
        found = {_renamed(name) if name in made else name: entry for name, entry in ranges.items()}
        excluded = [node.name for node in self._model.graph.node if node.output[0] in keep]
        quantised = _quantised(model, found, excluded, self._weights)
        onnx.helper.set_model_props(quantised, {entry.key: entry.value for entry in self._model.metadata_props})
        target.write_bytes(quantised.SerializeToString(deterministic=True))

    def _explained(self, error: UserError) -> UserError:
        """Why ONNX Runtime cannot load a quantised file, if it is one of the known reasons."""
        (opset,) = (entry.version for entry in self._model.opset_import if entry.domain == "")
        sizes = [node.name for node in self._model.graph.node if any(entry.name == "axes" for entry in node.attribute)]
        if opset <= _OPSET and not sizes:
            return error
        # Its optimiser loses the sizes of a quantised resize of which only some axes are stated.
        what, otherwise = (
            (f"in opset {opset}", f"an older one, such as {_OPSET}")
            if opset > _OPSET
            else (f"the resize {sizes[0]} with a dynamic batch", "a batch of one, or resize by whole factors")
        )
        return UserError(f"ONNX Runtime {version()} cannot run int8 {what}; ask for {otherwise}")


def _renamed(name: str) -> str:
    return f"{name}:0"


def _dequantised(name: str) -> str:
    return f"{name}:0_DequantizeLinear_Output"


Weights = dict[Any, Any]
"""What weights became, by what they were; see :func:`_remembered`."""


def _quantised(
    model: onnx.ModelProto, ranges: Ranges, excluded: list[str], known: Weights | None = None
) -> onnx.ModelProto:
    """Return the model in QDQ form, what it says of itself included; nodes are excluded by their names.

    Weights that are ``known`` are not quantised again, and others are added to them.
    """
    with needs("onnxruntime", "fbnet-mobile[onnx]"), quiet():
        from onnxruntime.quantization import CalibrationMethod, QuantType
        from onnxruntime.quantization.calibrate import TensorData, TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    entries = {
        name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
        for name, (low, high) in ranges.items()
    }
    with quiet(), _remembered({} if known is None else known):
        # What quantize_static does once it has ranges.
        made = QDQQuantizer(
            onnx.shape_inference.infer_shapes(model),
            per_channel=True,
            reduce_range=True,  # of weights that are read in another way than those of layers
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, entries),
            nodes_to_quantize=[],
            nodes_to_exclude=[*excluded, PROBABILITIES],  # 8 bits hold none under 1/256
            op_types_to_quantize=list({*QLinearOpsRegistry, *QDQRegistry}),
            extra_options={"TensorQuantOverrides": _weight_steps(model)},
        )
        made.quantize_model()
    _keep_in_float32(made.model.model, excluded)
    made.model.topological_sort()  # what is added comes last, and a file that is not in order is none
    result: onnx.ModelProto = made.model.model
    return result


def _keep_in_float32(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Keep ONNX Runtime from rounding the weights of some nodes, in place.

    Between activations of 8 bits it rounds, when it loads a file, a layer that is in float32, to one scale for all
    channels (its WeightBiasQuantization, since 1.21), unless the bias is no constant: here it is a sign times a
    scale, which is exact.
    """
    biases = {entry.name: entry for entry in model.graph.initializer}
    dequantised = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    for node in list(model.graph.node):
        if node.name not in names or node.op_type not in ("Conv", "Gemm") or node.input[0] not in dequantised:
            continue
        name = node.input[2]  # each layer of a graph has a bias of its own
        bias = onnx.numpy_helper.to_array(biases[name])
        sizes = onnx.numpy_helper.from_array(np.where(bias == 0, np.float32(1), np.abs(bias)), f"{name}_scale")
        biases[name].CopyFrom(onnx.numpy_helper.from_array(np.sign(bias).astype(np.int32), name))
        model.graph.initializer.append(sizes)
        node.input[2] = f"{name}_DequantizeLinear_Output"
        made = onnx.helper.make_node("DequantizeLinear", [name, sizes.name], [node.input[2]], node.input[2], axis=0)
        model.graph.node.append(made)


def _weight_steps(model: onnx.ModelProto) -> dict[str, list[dict[str, Any]]]:
    """The scale of each output channel of the weights of layers, in the form of ONNX Runtime's overrides."""
    weights = {entry.name: entry for entry in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in weights:
            continue
        attributes = {entry.name: entry.i for entry in node.attribute}
        weight = torch.from_numpy(onnx.numpy_helper.to_array(weights[node.input[1]]).copy())
        outputs_first = node.op_type == "Conv" or attributes.get("transB", 0)
        if weight.ndim < 2 or (weight.ndim > 2 and node.op_type != "Conv"):
            continue
        ends = weight_ends(weight if outputs_first else weight.T, attributes.get("group", 1))
        found[node.input[1]] = [{"scale": step, "zero_point": 0} for step in (ends / WEIGHT_LEVELS).tolist()]
        found[node.input[1]][0]["axis"] = 0 if outputs_first else 1
    return found


@contextmanager
def _remembered(known: Weights) -> Iterator[None]:
    """Let ONNX Runtime's quantiser, within, not do again for weights what is ``known``.

    It goes through them channel by channel, which is most of its work, and they are the same whatever the ranges are.
    """
    from onnxruntime.quantization import qdq_quantizer as module

    scales, integers = module.QDQQuantizer._calc_initializer_quant_params, module.quantize_onnx_initializer

    def scales_once(self: Any) -> dict[str, Any]:
        keys = {weight.name: _content(weight) for weight in self.model.initializer()}
        every = self.tensors_to_quantize
        self.tensors_to_quantize = {name: each for name, each in every.items() if keys.get(name, name) not in known}
        known.update({keys[name]: found for name, found in scales(self).items()})
        self.tensors_to_quantize = every
        # Copies, as what a bias needs is changed in them.
        return {name: copy.deepcopy(known[keys[name]]) for name in every if keys.get(name) in known}

    def integers_once(weight: Any, kind: Any, zero: Any, scale: Any, axis: Any = None, **more: Any) -> Any:
        key = (_content(weight), kind, zero.tobytes(), scale.tobytes(), axis, *more.items())
        if key not in known:
            known[key] = integers(weight, kind, zero, scale, axis, **more)
        return known[key]

    module.QDQQuantizer._calc_initializer_quant_params = scales_once
    module.quantize_onnx_initializer = integers_once
    try:
        yield
    finally:
        module.QDQQuantizer._calc_initializer_quant_params = scales
        module.quantize_onnx_initializer = integers


def _content(weight: Any) -> tuple[str, str]:
    return weight.name, hashlib.sha256(weight.SerializeToString()).hexdigest()


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
    model = onnx.load_from_string(content)
    tensors = ["input", *(name for node in model.graph.node for name in node.output)]
    made = _quantised(model, dict.fromkeys(tensors, _RANGE), [])
    quantised = made.graph
    if not first:
        _cut(quantised, quantised.input[0], "QuantizeLinear", onnx.TensorProto.UINT8)
    if not last:
        _cut(quantised, quantised.output[0], "DequantizeLinear", onnx.TensorProto.UINT8)
    return bytes(made.SerializeToString())


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
