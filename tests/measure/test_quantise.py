from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema

from fbnet_mobile.arch import Block
from fbnet_mobile.devices import HostDevice
from fbnet_mobile.formats import base as formats
from fbnet_mobile.formats.base import format_of
from fbnet_mobile.measure.build import graph_of
from fbnet_mobile.measure.jobs import Failure, run_models
from fbnet_mobile.measure.plan import MeasuringPlan
from fbnet_mobile.measure.quantise import write
from fbnet_mobile.space import load_space
from fbnet_mobile.zoo import load_network

BuiltinOperator = schema.BuiltinOperator
Operations = Callable[[Path], Counter[tuple[object, ...]]]
BLOCKS = (
    "conv in_channels=3 out_channels=16 resolution=32 stride=2 kernel_size=3 activation=hswish bias=False",
    "inverted_residual in_channels=16 out_channels=16 resolution=14 stride=1 kernel_size=3 activation=relu",
    "inverted_residual in_channels=16 out_channels=24 resolution=14 stride=2 expanded_channels=40 kernel_size=5 "
    "se_channels=16 activation=hswish",
    "inverted_residual in_channels=24 out_channels=24 resolution=14 stride=1 expanded_channels=40 kernel_size=5 "
    "se_channels=16 activation=relu",
    "head in_channels=24 out_channels=10 resolution=7 stride=1 conv_channels=64 activation=hswish",
)
CHAINS = {
    **{key.split(" resolution")[0]: (Block.parse_key(key),) for key in BLOCKS},
    "small": load_space("small").architecture(load_space("small").first()).blocks,
    "fbnetv2-f1": load_network("fbnetv2-f1").blocks,
}


def tflite_operations(path: Path) -> Counter[tuple[object, ...]]:
    """Each operator with the type and shape of what it reads and writes, and along what axis that is quantised."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    (graph,) = model.subgraphs

    def described(index: int) -> object:
        tensor = graph.tensors[index]
        scales = tensor.quantization.scale if tensor.quantization is not None else None
        return tensor.type, tuple(tensor.shape), len(scales) if scales is not None else 0

    return Counter(
        (model.operatorCodes[operator.opcodeIndex].builtinCode, *map(described, (*operator.inputs, *operator.outputs)))
        for operator in graph.operators
    )


def onnx_operations(path: Path) -> Counter[tuple[object, ...]]:
    """Each operation with its attributes and the types and shapes of its constants."""
    model = onnx.load(path)
    constants = {constant.name: (constant.data_type, tuple(constant.dims)) for constant in model.graph.initializer}
    return Counter(
        (
            node.op_type,
            tuple(sorted(str(attribute) for attribute in node.attribute)),
            tuple(constants.get(name) for name in node.input),
        )
        for node in model.graph.node
    )


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize(
    ("file_format", "suffix", "operations"),
    [("tflite", ".tflite", tflite_operations), ("onnx", ".onnx", onnx_operations)],
)
def test_int8_for_measuring_holds_the_operations_of_int8_as_exported(
    tmp_path: Path, chain: str, file_format: str, suffix: str, operations: Operations
) -> None:
    graph = graph_of(CHAINS[chain])
    images = np.random.default_rng(0).standard_normal((4, *graph.input_shape[1:])).astype(np.float32)
    exported, measured = tmp_path / f"exported{suffix}", tmp_path / f"measured{suffix}"
    # The answers of random weights mean nothing, so that no layer is worth float32.
    options = {"keep": ()}
    formats.write(graph, exported, file_format, precision="int8", calibration=images, options=options)
    write(graph, measured, file_format, "int8")
    assert operations(measured) == operations(exported)


@pytest.mark.parametrize(
    ("file_format", "suffix", "operations", "conversions"),
    [
        ("tflite", ".tflite", tflite_operations, {BuiltinOperator.QUANTIZE, BuiltinOperator.DEQUANTIZE}),
        ("onnx", ".onnx", onnx_operations, {"QuantizeLinear", "DequantizeLinear"}),
    ],
)
def test_a_block_within_a_network_differs_only_by_the_conversions_at_its_ends(
    tmp_path: Path, file_format: str, suffix: str, operations: Operations, conversions: set[object]
) -> None:
    graph = graph_of((Block.parse_key(BLOCKS[3]),))
    whole, inner = tmp_path / f"whole{suffix}", tmp_path / f"inner{suffix}"
    write(graph, whole, file_format, "int8")
    write(graph, inner, file_format, "int8", first=False, last=False)
    more, fewer = operations(whole), operations(inner)
    assert {operation[0] for operation in (more - fewer)} == conversions
    assert (more - fewer).total() == 2
    assert not fewer - more
    plan = MeasuringPlan(warmup_ms=0, min_ms=0.1)
    ((_, sample),) = run_models(HostDevice(), format_of(inner).runtime.name, 1, [inner], plan)
    assert not isinstance(sample, Failure)
    assert sample.min_us > 0
