"""TFLite in fp16 and int8, by Google's quantiser of TFLite files.

See https://github.com/google-ai-edge/ai-edge-quantizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from fbnet_mobile.formats.packages import needs, quiet
from fbnet_mobile.formats.tflite.metadata import SIGNATURE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Images = NDArray[Any]

_RANGE = (-4.0, 4.0)
"""Of every activation of a block to be measured: nearly all of what a normalised feature map holds."""


def fp16(source: Path, images: Images, target: Path) -> None:
    """Keep the weights of layers as 16-bit floats."""
    with _quantiser():
        from ai_edge_quantizer import quantizer, recipe_manager

    recipe = recipe_manager.RecipeManager()
    recipe.add_weight_only_config(".*", "*", 16, algorithm_key="float_casting")
    made = quantizer.Quantizer(source.read_bytes(), recipe.get_quantization_recipe())
    with quiet():
        target.write_bytes(made.quantize(enable_progress_bar=False, enable_progress_report=False).quantized_model)


def int8(source: Path, images: Images, target: Path) -> None:
    """Quantise weights, per channel, and activations to the ranges that they have on the images."""
    with _quantiser():
        from ai_edge_quantizer import calibrator, quantizer, recipe, recipe_manager

    settings = recipe.static_wi8_ai8()
    for border in ("INPUT", "OUTPUT"):
        settings.append({"regex": ".*", "operation": border, "algorithm_key": "no_quantize", "op_config": {}})
    # 8 bits hold no probability under 1/256, of which a thousand classes have hardly any other.
    settings.append({"regex": "^output;?$", "operation": "SOFTMAX", "algorithm_key": "no_quantize", "op_config": {}})
    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(settings)
    content = source.read_bytes()  # of a path it keeps the file open for good
    channels_last = [image[None].transpose(0, 2, 3, 1) for image in images]
    with quiet():
        # Not the quantiser's own moving average, which cuts off the largest logits: on EfficientNet-Lite0 the
        # largest difference of a logit was 0.36 of the largest with it, and 0.08 with the whole range.
        calibration = calibrator.Calibrator(content, num_threads=1, qsv_update_func=_widened)
        calibration.calibrate({SIGNATURE: [{"input": image} for image in channels_last]}, manager)
        ranges = calibration.get_model_qsvs()
        _widen_for_dead_channels(content, ranges)
        made = quantizer.Quantizer(content, settings)
        result = made.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    target.write_bytes(result.quantized_model)


@contextmanager
def _quantiser() -> Iterator[None]:
    with needs("ai_edge_quantizer", "fbnet-mobile[int8]"), quiet():
        yield


def _widened(before: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return the range ("min" and "max", arrays of one number) that holds two."""
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


def int8_for_measuring(content: bytes, first: bool, last: bool) -> bytes:
    """Quantise to ranges that are given, as random weights have none that mean anything.

    Inside a network a block gets its input in few bits from the block before it: only what begins (``first``) or
    ends (``last``) one converts from and to float32.
    """
    with _quantiser():
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
