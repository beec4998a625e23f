"""Hard swish of 8-bit integers, in operations that XNNPACK has for these."""

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from fbnet_mobile.formats.tflite.flatbuffer import packed, parsed
from fbnet_mobile.graph.kernels import GATE_STEP

_CODE = schema.BuiltinOperator
_LOWEST = -128
"""Of the integers; what stands for 0 of a gate."""
LEAST_STEP, MOST_STEP = 6 * GATE_STEP * 2.0**-9, 6 * GATE_STEP * 2.0**7
"""Of an input, between which it can be added to 3, as XNNPACK adds steps of 2^-10 to 2^8 of the sum's."""
_VERSION = 2
"""Of sums and products of int8."""


def in_parts(content: bytes) -> bytes:
    """Return a TFLite file in which hard swish of int8 is x (relu6(x + 3) / 6), in three operations.

    XNNPACK has hard swish for floats alone. In integers LiteRT computes it by a reference kernel, which takes many
    times as long as the convolution before it. The gate has steps of
    1/255, so that all that is beyond -3 and 3 is exact. A sixth of an integer is that integer, in a step that is a
    sixth.

    Args:
        content: a file of one subgraph. Hard swish in float32 stays what it is, as does that of an input whose steps
            are not between :data:`LEAST_STEP` and :data:`MOST_STEP`.
    """
    model = parsed(content)
    (graph,) = model.subgraphs
    if not any(_is_to_be_parted(model, operator) for operator in graph.operators):
        return content
    operators, graph.operators = graph.operators, []
    parts = _Parts(model)
    for operator in operators:
        if _is_to_be_parted(model, operator):
            parts.add(*operator.inputs, *operator.outputs)
        else:
            graph.operators.append(operator)
    return packed(model)


def _is_to_be_parted(model: schema.ModelT, operator: schema.OperatorT) -> bool:
    if model.operatorCodes[operator.opcodeIndex].builtinCode != _CODE.HARD_SWISH:
        return False
    x = model.subgraphs[0].tensors[operator.inputs[0]]
    if x.type != schema.TensorType.INT8:
        return False
    return LEAST_STEP <= float(x.quantization.scale[0]) <= MOST_STEP


class _Parts:
    """Adds hard swishes to the one subgraph of a model, with constants that they share."""

    def __init__(self, model: schema.ModelT) -> None:
        self._model, (self._graph,) = model, model.subgraphs
        self._three = self._tensor("hard_swish/three", (), 3 / 127, 0, np.array([127], np.int8))
        self._sixth = self._tensor("hard_swish/sixth", (), 1 / 6 / 127, 0, np.array([127], np.int8))

    def add(self, x: int, result: int) -> None:
        """Add the operations that make one tensor of another, by their places."""
        tensor = self._graph.tensors[result]
        name, shape = tensor.name.decode(), tuple(tensor.shape)
        clamped = self._tensor(f"{name}/clamped", shape, 6 * GATE_STEP, _LOWEST)
        gate = self._tensor(f"{name}/gate", shape, GATE_STEP, _LOWEST)
        self._operator(_CODE.ADD, x, self._three, clamped, schema.ActivationFunctionType.RELU6)
        self._operator(_CODE.MUL, clamped, self._sixth, gate)
        self._operator(_CODE.MUL, x, gate, result)

    def _tensor(
        self, name: str, shape: tuple[int, ...], step: float, zero: int, values: NDArray[np.int8] | None = None
    ) -> int:
        buffer = 0  # of what has no constant values
        if values is not None:
            self._model.buffers.append(schema.BufferT(data=values.view(np.uint8)))
            buffer = len(self._model.buffers) - 1
        scale = schema.QuantizationParametersT(scale=[step], zeroPoint=[zero])
        made = schema.TensorT(
            shape=list(shape),
            type=schema.TensorType.INT8,
            buffer=buffer,
            name=name.encode(),
            quantization=scale,
            hasRank=True,
        )
        self._graph.tensors.append(made)
        return len(self._graph.tensors) - 1

    def _operator(
        self, code: int, first: int, second: int, result: int, activation: int = schema.ActivationFunctionType.NONE
    ) -> None:
        kind, options = (
            (schema.BuiltinOptions.AddOptions, schema.AddOptionsT())
            if code == _CODE.ADD
            else (schema.BuiltinOptions.MulOptions, schema.MulOptionsT())
        )
        options.fusedActivationFunction = activation
        self._graph.operators.append(
            schema.OperatorT(
                opcodeIndex=self._code(code),
                inputs=[first, second],
                outputs=[result],
                builtinOptionsType=kind,
                builtinOptions=options,
            )
        )

    def _code(self, code: int) -> int:
        """The place of an operation's code, which is added if it is not there in a version for int8."""
        codes = self._model.operatorCodes
        for place, known in enumerate(codes):
            if known.builtinCode == code and known.version >= _VERSION:
                return place
        codes.append(schema.OperatorCodeT(builtinCode=code, version=_VERSION))
        return len(codes) - 1
