"""TFLite in fp16 and int8, by Google's quantiser of TFLite files.

See https://github.com/google-ai-edge/litert-quantizer.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.base import Session
from fbnet_mobile.formats.int8 import Quantised, Quantiser, quantise
from fbnet_mobile.formats.packages import needs, quiet
from fbnet_mobile.formats.ranges import Ranges
from fbnet_mobile.formats.tflite.hard_swish import LEAST_STEP, in_parts
from fbnet_mobile.formats.tflite.run import as_reals, as_taken, load
from fbnet_mobile.graph.rounded import WEIGHT_LEVELS, weight_ends

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Images = NDArray[Any]
    Array = NDArray[np.float32]

_RANGE = (-4.0, 4.0)
"""Of every activation of a block to be measured: nearly all of what a normalised feature map holds."""


def fp16(source: Path, images: Images, target: Path) -> None:
    """Keep the weights of layers as 16-bit floats."""
    with _quantiser():
        from litert_quantizer import quantizer, recipe_manager

    recipe = recipe_manager.RecipeManager()
    recipe.add_weight_only_config(".*", "*", 16, algorithm_key="float_casting")
    made = quantizer.Quantizer(source.read_bytes(), recipe.get_quantization_recipe())
    with quiet():
        target.write_bytes(made.quantize(enable_progress_bar=False, enable_progress_report=False).quantized_model)


def int8(
    source: Path, images: Images, target: Path, integer_input_and_output: tuple[str, str] | None = None, **options: Any
) -> Quantised:
    """Quantise weights, per channel, and activations; see :func:`fbnet_mobile.formats.int8.quantise`.

    Args:
        source: the float32 file; for integers one that takes pixels as floats, from 0 to 255.
        images: to calibrate on.
        target: is not there yet.
        integer_input_and_output: "int8" or "uint8" each, with no floats between; None for floats, and pixels if the
            source takes such.
        options: of ``quantise``.

    Raises:
        UserError: an operation cannot be had in integers, or layers are to stay in float32.
    """
    borders = integer_input_and_output
    quantiser = TFLiteQuantiser(source, borders)
    if borders is not None:
        if options.get("keep"):
            raise UserError(f"a file of integers has no layers in float32; leave out {', '.join(options['keep'])}")
        options["keep"] = ()
    found = quantise(quantiser, images, target, **options)
    return found if borders is None else replace(found, memory=_check_integers(target))


def _check_integers(path: Path) -> int:
    """Refuse a file that computes with floats anywhere; return the most bytes of values that are there at once."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    (graph,) = model.subgraphs
    floats = {index for index, tensor in enumerate(graph.tensors) if tensor.type == schema.TensorType.FLOAT32}
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    left = sorted(
        {
            names[model.operatorCodes[operator.opcodeIndex].builtinCode]
            for operator in graph.operators
            if floats & {*operator.inputs, *operator.outputs}
        }
        - {"QUANTIZE", "DEQUANTIZE"}
    )
    if floats:
        raise UserError(
            f"the quantiser has no integers for {', '.join(left)}, so the file would hold floats; use other operations "
            "in the network, or let the file take and give float32"
        )
    made = {index: place for place, operator in enumerate(graph.operators) for index in operator.outputs}
    made |= dict.fromkeys(graph.inputs, 0)
    last = {index: place for place, operator in enumerate(graph.operators) for index in operator.inputs}
    last |= dict.fromkeys(graph.outputs, len(graph.operators))
    sizes = {index: _ALIGNED * -(-int(np.prod(graph.tensors[index].shape)) // _ALIGNED) for index in made}
    return max(
        sum(size for index, size in sizes.items() if made[index] <= place <= last.get(index, made[index]))
        for place in range(len(graph.operators))
    )


class TFLiteQuantiser(Quantiser):
    """A float32 file of one subgraph. Its layers are its operators."""

    suffix = ".tflite"
    in_pairs = False

    def __init__(self, source: Path, borders: tuple[str, str] | None = None) -> None:
        with _quantiser():
            from litert_quantizer import quantizer, recipe
        self._borders = borders
        self._quantizer, self._recipe = quantizer, recipe
        self._source, self._content = source, source.read_bytes()
        model = schema.ModelT.InitFromPackedBuf(self._content, 0)
        (graph,) = model.subgraphs
        tensors = graph.tensors
        constant = {index for index, tensor in enumerate(tensors) if model.buffers[tensor.buffer].data is not None}
        self._reads = {
            tensors[operator.outputs[0]].name.decode(): tuple(
                tensors[index].name.decode() for index in operator.inputs if index >= 0 and index not in constant
            )
            for operator in graph.operators
        }
        self._names = {
            tensor.name.decode(): len(tensor.shape)
            for index, tensor in enumerate(tensors)
            if index not in constant and tensor.type == schema.TensorType.FLOAT32
        }

    def reads(self) -> Mapping[str, tuple[str, ...]]:
        """See :meth:`Quantiser.reads`."""
        return self._reads

    def session(self, quantised: Path | None = None) -> Session:
        """See :meth:`Quantiser.session`."""
        return load(quantised or self._source)

    def values(self, images: Images, quantised: Path | None = None) -> Iterator[Mapping[str, Array]]:
        """See :meth:`Quantiser.values`."""
        with quiet():
            interpreter = Interpreter(
                model_content=(quantised or self._source).read_bytes(),
                num_threads=1,
                # A delegate's tensors cannot be looked at.
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                experimental_preserve_all_tensors=True,
            )
            interpreter.allocate_tensors()
        (entry,) = interpreter.get_input_details()
        images = as_taken(images, entry)
        details = [item for item in interpreter.get_tensor_details() if item["name"] in self._names]
        for image in images:
            interpreter.set_tensor(
                entry["index"], image[None].transpose(0, 2, 3, 1) if image.ndim == 3 else image[None]
            )
            interpreter.invoke()
            yield {item["name"]: _real(interpreter.get_tensor(item["index"]), item) for item in details}

    def write(self, ranges: Ranges, keep: Collection[str], target: Path, source: Path | None = None) -> None:
        """See :meth:`Quantiser.write`."""
        content = self._content if source is None else source.read_bytes()
        settings = self._recipe.static_wi8_ai8()
        for border, kind in zip(("INPUT", "OUTPUT"), self._borders or ("", ""), strict=True):
            if not kind:
                settings.append(_unquantised(".*", border))
            elif kind == "uint8":
                settings.append(_unsigned(border, settings[0]))
        if not self._borders:
            # 8 bits hold no probability under 1/256, of which a thousand classes have hardly any other.
            settings.append(_unquantised("^output;?$", "SOFTMAX"))
            # A divisor that is small beside others, as some of a linear attention's are, would be zero.
            settings.append(_unquantised(".*", "DIV"))
            # Nine roundings where other formats have one; and no slower, as LiteRT squares in floats anyway.
            settings.append(_unquantised(_LAYER_NORM, "*"))
        if keep:
            # What it calls an operator is the names of what that gives, each with a semicolon.
            settings.append(_unquantised(f"^(?:{'|'.join(map(re.escape, sorted(keep)))});", "*"))
        entries = {name: _entry(self._names[name], *found) for name, found in ranges.items() if name in self._names}
        if self._borders:
            entries["input"] = _entry(self._names["input"], 0, 255)  # each step a pixel's
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        _clamp_as_the_gate(model, entries)
        _widen_for_parts(model, entries)
        _set_weight_ranges(model, entries, self.in_pairs)
        with quiet(), _large_weights():
            made = self._quantizer.Quantizer(content, settings)
            result = made.quantize(entries, enable_progress_bar=False, enable_progress_report=False)
        # Files of integers alone are for other runtimes, and a part more is a feature map more in memory.
        content = bytes(result.quantized_model)
        target.write_bytes(content if self._borders else in_parts(content))


def _entry(axes: int, low: float, high: float) -> dict[str, Any]:
    return {name: np.full([1] * axes, end, np.float32) for name, end in (("min", low), ("max", high))}


def _unquantised(names: str, operation: str) -> dict[str, Any]:
    return {"regex": names, "operation": operation, "algorithm_key": "no_quantize", "op_config": {}}


_LAYER_NORM = r"^(?:[^;]*\.)?layer_norm(?:_\d+)?\d*;$"
"""What the operations of a layer norm give, by the names that :mod:`fbnet_mobile.formats.tflite.write` gives them."""
_ALIGNED = 16
"""Bytes that a value in an arena of TFLite Micro takes some times of."""


def _unsigned(border: str, signed: Mapping[str, Any]) -> dict[str, Any]:
    """A border in uint8, in the form of a setting for all operations in int8."""
    config = copy.deepcopy(dict(signed["op_config"]))
    config["activation_tensor_config"]["dtype"] = "UINT"
    return {**signed, "regex": ".*", "operation": border, "op_config": config}


def _real(values: Any, item: Mapping[str, Any]) -> Array:
    return np.moveaxis(as_reals(values, item), -1, 1)


@contextmanager
def _quantiser() -> Iterator[None]:
    with needs("litert_quantizer", "fbnet-mobile[int8]"), quiet():
        yield


@contextmanager
def _large_weights() -> Iterator[None]:
    """Let litert-quantizer have a convolution's weights in parts small enough for it.

    Of more than 32 MB, as AlexNet's and VGG's first linear layer, it makes a matrix whose rows it then has no scales
    for, and fails (0.11).
    """
    from litert_quantizer.algorithms.uniform_quantize import uniform_quantize_tensor as module

    whole = module.uniform_quantize

    def in_parts(weights: NDArray[Any], how: Any, blocks: bool = False) -> Any:
        if weights.ndim <= 2 or weights.nbytes <= _AT_A_TIME or how.quantized_dimension != 0:
            return whole(weights, how, blocks)
        rows = max(_AT_A_TIME // weights[0].nbytes, 1)
        parts = [slice(start, start + rows) for start in range(0, len(weights), rows)]
        return np.concatenate(
            [
                whole(weights[part], replace(how, scale=how.scale[part], zero_point=how.zero_point[part]), blocks)
                for part in parts
            ]
        )

    module.uniform_quantize = in_parts
    try:
        yield
    finally:
        module.uniform_quantize = whole


_AT_A_TIME = 32 << 20
"""Bytes."""


def _clamp_as_the_gate(model: schema.ModelT, ranges: MutableMapping[str, Any]) -> None:
    """Give, in place, what a hard sigmoid clamps to 0 to 6 the range of what it gives, times 6.

    So that the sixth of an integer is that integer, and nothing is rounded twice.
    """
    (graph,) = model.subgraphs
    clamps, tensors = schema.ActivationFunctionType.RELU6, graph.tensors
    clamped = {operator.outputs[0] for operator in graph.operators if _activation(operator) == clamps}
    for operator in graph.operators:
        if model.operatorCodes[operator.opcodeIndex].builtinCode != schema.BuiltinOperator.MUL:
            continue
        before, by = operator.inputs
        constant = model.buffers[tensors[by].buffer].data
        if before not in clamped or constant is None or constant.view(np.float32).tolist() != [np.float32(1 / 6)]:
            continue
        after = ranges[tensors[operator.outputs[0]].name.decode()]
        ranges[tensors[before].name.decode()] = {end: 6 * value for end, value in after.items()}


def _widen_for_parts(model: schema.ModelT, ranges: MutableMapping[str, Any]) -> None:
    """Widen, in place, the range of what a hard swish reads until :func:`in_parts` can have it.

    Weights that were never trained give many feature maps next to zero, and such files are measured.
    """
    (graph,) = model.subgraphs
    for operator in graph.operators:
        if model.operatorCodes[operator.opcodeIndex].builtinCode == schema.BuiltinOperator.HARD_SWISH:
            entry = ranges[graph.tensors[operator.inputs[0]].name.decode()]
            if _step(entry) < LEAST_STEP:
                entry["max"] = np.maximum(entry["max"], 0) + np.float32(256 * LEAST_STEP)


def _activation(operator: schema.OperatorT) -> int:
    return int(getattr(operator.builtinOptions, "fusedActivationFunction", schema.ActivationFunctionType.NONE))


def _set_weight_ranges(model: schema.ModelT, ranges: MutableMapping[str, Any], in_pairs: bool) -> None:
    """Give weights ranges, in place, as :func:`fbnet_mobile.graph.rounded.weight_ends` has them, and widen what is
    next to zero.

    Training, and blocks that start as the identity, leave many. A bias is an int32 in steps of the input's times
    the channel's weights'; where that step is next to nothing the bias does not fit, and litert-quantizer 0.11
    writes the most negative one. And LiteRT does not load a layer whose step of sums is less than 2^-32, or more
    than 256, of the step of its result, nor, and then it ends the process, a sum whose terms' steps are that far off.
    """
    for entry in ranges.values():
        if "min" in entry and entry["max"].max() - entry["min"].min() < _NOTHING:
            entry["max"] = entry["min"] + np.ones_like(entry["max"])
    (graph,) = model.subgraphs
    for operator in graph.operators:
        if model.operatorCodes[operator.opcodeIndex].builtinCode in _SUMS:
            _widen_sum(
                *(ranges.get(graph.tensors[index].name.decode()) for index in (*operator.outputs, *operator.inputs))
            )
    depthwise = schema.BuiltinOperator.DEPTHWISE_CONV_2D
    layers = {schema.BuiltinOperator.CONV_2D, depthwise, schema.BuiltinOperator.FULLY_CONNECTED}
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex].builtinCode
        if code not in layers:
            continue
        x, weight, bias, result = (graph.tensors[index] for index in (*operator.inputs, *operator.outputs))
        values, biases = (model.buffers[tensor.buffer].data.view(np.float32) for tensor in (weight, bias))
        array = values.reshape(weight.shape)
        if code == depthwise:
            array = array.transpose(3, 0, 1, 2)
        elif array.ndim == 4:
            array = array.transpose(0, 3, 1, 2)
        ends = weight_ends(torch.from_numpy(array.copy()), x.shape[-1] // array.shape[1], in_pairs).numpy()
        before, after = (_step(ranges[tensor.name.decode()]) for tensor in (x, result))
        needed = WEIGHT_LEVELS * np.maximum(np.abs(biases), after) / (before * 2**28)
        needed = np.maximum(needed.astype(np.float32), ends)
        axes = [-1 if index == (3 if code == depthwise else 0) else 1 for index in range(array.ndim)]
        ranges[weight.name.decode()] = {"min": -needed.reshape(axes), "max": needed.reshape(axes)}
        # Of a sum's own step: nothing is lost by no finer one.
        finest = before * float(needed.max()) / WEIGHT_LEVELS / 128
        if after < finest:
            entry = ranges[result.name.decode()]
            entry["max"] = np.maximum(entry["max"], 0) + np.float32(255 * finest)


def _widen_sum(result: Any, *terms: Any) -> None:
    """Widen ranges in place until the steps of the terms are between 2^-10 and 2^8 of the sum's."""
    for term in terms:
        if result is not None and term is not None:
            for entry, least in ((result, _step(term) / 2**7), (term, _step(result) / 2**9)):
                if _step(entry) < least:
                    entry["max"] = np.maximum(entry["max"], 0) + np.float32(255 * least)


_SUMS = {schema.BuiltinOperator.ADD, schema.BuiltinOperator.SUB}
_NOTHING = 1e-9
"""A feature map of a smaller range is zero: litert-quantizer gives none a smaller one."""


def _step(entry: Mapping[str, Any]) -> float:
    """Return what one step of an 8-bit integer stands for; a range always holds zero."""
    return float(max(entry["max"].max(), 0) - min(entry["min"].min(), 0)) / 255


def int8_for_measuring(content: bytes, first: bool, last: bool) -> bytes:
    """Quantise to ranges that are given, as random weights have none that mean anything.

    Inside a network a block gets its input in few bits from the block before it: only what begins (``first``) or
    ends (``last``) one converts from and to float32.
    """
    with _quantiser():
        from litert_quantizer import quantizer, recipe

    settings = recipe.static_wi8_ai8()
    for border, float32 in (("INPUT", first), ("OUTPUT", last)):
        if float32:
            settings.append(_unquantised(".*", border))
    with quiet():
        made = quantizer.Quantizer(content, settings)
        model = made._float_model  # parsed already, which takes longer than quantising does
        ranges: dict[str, Any] = {}
        for tensor in model.subgraphs[0].tensors:
            if model.buffers[tensor.buffer].data is None:
                ranges[tensor.name.decode()] = _entry(len(tensor.shape), *_RANGE)
        result = made.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return in_parts(bytes(result.quantized_model))
