"""Fewer than 32 bits: makes of a float32 file, as an emitter wrote it, one of 16-bit floats or 8-bit integers.

What is stored and computed:

========  =====================================  ==========================================================
format    fp16                                   int8
========  =====================================  ==========================================================
TFLite    weights of layers in fp16, computed    weights per channel and activations, computed in integers;
          as the runtime likes                   what the quantiser has no integers for stays float32
ONNX      weights and computation                weights per channel (7 bits) and activations of the
                                                 operations that ONNX Runtime has integers for
Core ML   weights and computation                weights per channel; computed in fp16. Integer activations
                                                 need Core ML to calibrate, so a Mac
========  =====================================  ==========================================================

Inputs and outputs stay what they are in all, so a file is fed as its float32 twin is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.packages import needs, quiet

if TYPE_CHECKING:  # choosing a precision should not wait for numpy
    from numpy.typing import NDArray

    Images = NDArray[Any]

PRECISIONS = ("fp32", "fp16", "int8")
"""As users write them."""


@dataclass(frozen=True)
class Conversion:
    """How one format gets to one precision.

    Attributes:
        run: writes the file (third argument) from the float32 one (first) and images of shape (N, channels,
            height, width), as the file takes them.
        calibrates: whether it looks at the images.
    """

    run: Callable[[Path, Images, Path], None]
    calibrates: bool = False


def calibrates(format: str, precision: str) -> bool:  # noqa: A002
    """Whether ``format`` needs images to get to ``precision``; UserError for an unknown precision."""
    if precision not in PRECISIONS:
        raise UserError(f"unknown precision '{precision}'; choose one of {', '.join(PRECISIONS)}")
    return (format, precision) in _CONVERSIONS and _CONVERSIONS[format, precision].calibrates


def check_precision(format: str, precision: str, calibrated: bool) -> None:  # noqa: A002
    """Check that ``format`` can be had in ``precision``, with images to calibrate on or without.

    Raises:
        UserError: an unknown precision, or images are needed and there are none.
    """
    if calibrates(format, precision) and not calibrated:
        raise UserError(
            f"{precision} for {format} needs images to calibrate its activations on; give --calibration-data or --data "
            "(from Python: calibration=...)"
        )


def convert(source: Path, target: Path, format: str, precision: str, calibration: Images | None = None) -> None:  # noqa: A002
    """Write ``target``, of the same format and metadata as the float32 file ``source``.

    Args:
        source: written by the format's emitter.
        target: is not there yet.
        format: of both.
        precision: "fp16" or "int8".
        calibration: (N, channels, height, width) images, as the file takes them: normalised, or uint8 pixels; a
            few hundred serve. Only int8 looks at them.

    Raises:
        UserError: as :func:`check_precision`, or a package is missing.
    """
    check_precision(format, precision, calibration is not None)
    import numpy as np

    images: Images = np.zeros((0,), np.float32) if calibration is None else calibration
    images = np.ascontiguousarray(images, np.uint8 if images.dtype == np.uint8 else np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' remarks on their own debugging modes
        _CONVERSIONS[format, precision].run(source, images, target)


# TFLite, by Google's quantiser of TFLite files (https://github.com/google-ai-edge/ai-edge-quantizer).


def _tflite_fp16(source: Path, images: Images, target: Path) -> None:
    with _tflite_quantiser():
        from ai_edge_quantizer import quantizer, recipe_manager

    recipe = recipe_manager.RecipeManager()
    recipe.add_weight_only_config(".*", "*", 16, algorithm_key="float_casting")
    made = quantizer.Quantizer(str(source), recipe.get_quantization_recipe())
    with quiet():
        target.write_bytes(made.quantize(enable_progress_bar=False, enable_progress_report=False).quantized_model)


def _tflite_int8(source: Path, images: Images, target: Path) -> None:
    with _tflite_quantiser():
        from ai_edge_quantizer import calibrator, quantizer, recipe, recipe_manager

        from fbnet_mobile.formats.tflite.write import SIGNATURE

    settings = recipe.static_wi8_ai8()
    for border in ("INPUT", "OUTPUT"):
        settings.append({"regex": ".*", "operation": border, "algorithm_key": "no_quantize", "op_config": {}})
    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(settings)
    channels_last = [image[None].transpose(0, 2, 3, 1) for image in images]
    with quiet():
        # Not the quantiser's own moving average, which cuts off the largest logits: on EfficientNet-Lite0 the
        # largest difference of a logit was 0.36 of the largest with it, and 0.08 with the whole range.
        calibration = calibrator.Calibrator(str(source), num_threads=1, qsv_update_func=_widened)
        calibration.calibrate({SIGNATURE: [{"input": image} for image in channels_last]}, manager)
        ranges = calibration.get_model_qsvs()
        _widen_for_dead_channels(source.read_bytes(), ranges)
        made = quantizer.Quantizer(str(source), settings)
        result = made.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    target.write_bytes(result.quantized_model)


@contextmanager
def _tflite_quantiser() -> Iterator[None]:
    with needs("ai_edge_quantizer", "fbnet-mobile[int8]"), quiet():
        yield


def _widened(before: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return the range ("min" and "max", arrays of one number) that holds two."""
    import numpy as np

    if not before:
        return new
    return {"min": np.minimum(before["min"], new["min"]), "max": np.maximum(before["max"], new["max"])}


def _widen_for_dead_channels(content: bytes, ranges: MutableMapping[str, Any]) -> None:
    """Widen, in place, the ranges of weights and of feature maps that are next to zero.

    Training, and blocks that start as the identity, leave many. A bias is an int32 in steps of the input's times
    the channel's weights'; where that step is next to nothing the bias does not fit, and ai-edge-quantizer 0.10
    writes the most negative one. And LiteRT does not load a layer whose step of sums is less than 2^-32, or more
    than 256, of the step of its result.
    """
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    for entry in ranges.values():
        if "min" in entry and entry["max"].max() - entry["min"].min() < _NOTHING:
            entry["max"] = entry["min"] + np.ones_like(entry["max"])
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (graph,) = model.subgraphs
    depthwise = schema.BuiltinOperator.DEPTHWISE_CONV_2D
    layers = {schema.BuiltinOperator.CONV_2D, depthwise, schema.BuiltinOperator.FULLY_CONNECTED}
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex].builtinCode
        if code not in layers:
            continue
        x, weight, bias, result = (graph.tensors[index] for index in (*operator.inputs, *operator.outputs))
        values, biases = (model.buffers[tensor.buffer].data.view(np.float32) for tensor in (weight, bias))
        axis = 3 if code == depthwise else 0
        across = tuple(index for index in range(len(weight.shape)) if index != axis)
        largest = np.abs(values.reshape(weight.shape)).max(across, keepdims=True)
        before, after = (_step(ranges[tensor.name.decode()]) for tensor in (x, result))
        needed = 127 * np.maximum(np.abs(biases), after) / (before * 2**28)
        needed = np.maximum(needed.reshape(largest.shape), largest).astype(np.float32)
        if (needed > largest).any():
            ranges[weight.name.decode()] = {"min": -needed, "max": needed}
        finest = before * float(needed.max()) / 127 / 128  # of a sum's own step: nothing is lost by no finer one
        if after < finest:
            entry = ranges[result.name.decode()]
            entry["max"] = np.maximum(entry["max"], 0) + np.float32(255 * finest)


_NOTHING = 1e-9
"""A feature map of a smaller range is zero: ai-edge-quantizer gives none a smaller one."""


def _step(entry: Mapping[str, Any]) -> float:
    """Return what one step of an 8-bit integer stands for; a range always holds zero."""
    return float(max(entry["max"].max(), 0) - min(entry["min"].min(), 0)) / 255


# ONNX, by ONNX Runtime's own tools (https://onnxruntime.ai/docs/performance/model-optimizations/).


def _onnx_fp16(source: Path, images: Images, target: Path) -> None:
    import onnx

    with needs("onnxruntime", "fbnet-mobile[onnx]"), quiet():
        from onnxruntime.quantization.onnx_model import ONNXModel
        from onnxruntime.transformers.float16 import convert_float_to_float16

    model = ONNXModel(convert_float_to_float16(onnx.load(source), keep_io_types=True))
    model.topological_sort()  # the conversion puts the cast of the input last
    onnx.checker.check_model(model.model, full_check=True)
    target.write_bytes(model.model.SerializeToString(deterministic=True))


def _onnx_int8(source: Path, images: Images, target: Path) -> None:
    """Quantise to QDQ form: uint8 activations with the range they had, int8 weights per channel, of 7 bits.

    A processor without VNNI (all of AVX2's) adds products of 8-bit weights and activations in pairs, in 16
    bits, and saturates without a word. Of EfficientNet-Lite0's answers on 300 photographs 83 % stayed the same
    with 8-bit weights and 95 % with 7-bit ones, on such a processor. Activations of int8 and ranges by entropy
    gave what these settings give; ranges by percentile, 1 to 2 points less.
    """
    import onnx

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
        )
    quantised = onnx.load(target)
    onnx.helper.set_model_props(quantised, entries)
    target.write_bytes(quantised.SerializeToString(deterministic=True))


class _Reader:
    """What ``quantize_static`` takes its images from."""

    def __init__(self, images: Images) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, Images] | None:
        image = next(self._images, None)
        return None if image is None else {"input": image[None]}


# Core ML, by coremltools (https://apple.github.io/coremltools/docs-guides/source/opt-quantization-api.html).


def _coreml_fp16(source: Path, images: Images, target: Path) -> None:
    with needs("coremltools", "fbnet-mobile[coreml]"):
        from fbnet_mobile.formats.coreml.write import half, save

    save(half(source), target)


def _coreml_int8(source: Path, images: Images, target: Path) -> None:
    """Quantise the weights alone. The file is for iOS 16 and later, which is where Core ML reads such weights."""
    with needs("coremltools", "fbnet-mobile[coreml]"), quiet():
        from coremltools.optimize import coreml as optimize

        from fbnet_mobile.formats.coreml.write import half, save

    # Every weight, however small: the default leaves those of fewer than 2048 numbers alone.
    weights = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", granularity="per_channel", weight_threshold=0)
    settings = optimize.OptimizationConfig(global_config=weights)
    save(half(source, lambda package: optimize.linear_quantize_weights(package, settings)), target)


_CONVERSIONS: dict[tuple[str, str], Conversion] = {
    ("tflite", "fp16"): Conversion(_tflite_fp16),
    ("tflite", "int8"): Conversion(_tflite_int8, calibrates=True),
    ("onnx", "fp16"): Conversion(_onnx_fp16),
    ("onnx", "int8"): Conversion(_onnx_int8, calibrates=True),
    ("coreml", "fp16"): Conversion(_coreml_fp16),
    ("coreml", "int8"): Conversion(_coreml_int8),
}
