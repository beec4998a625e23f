from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from torch import nn

from fbnet_mobile.formats.base import format_of, write
from fbnet_mobile.formats.tflite.precision import int8_for_measuring
from fbnet_mobile.graph.trace import trace

SHAPE = (1, 3, 16, 16)
NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}


def network() -> nn.Module:
    """Of as many weights as litert-quantizer puts behind the file, not into it."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2), nn.Hardswish(), nn.Conv2d(8, 900, 1), nn.Hardswish(), nn.Conv2d(900, 400, 1)]
    return nn.Sequential(*layers).eval()


def pictures(count: int) -> NDArray[np.float32]:
    return 2 * np.random.default_rng(0).standard_normal((count, *SHAPE[1:]), np.float32)


def written(module: nn.Module, path: Path, images: NDArray[Any] | None = None, **options: Any) -> Path:
    options = {"ranges": "min-max", "keep": (), **options}
    images = pictures(16) if images is None else images
    write(trace(module, SHAPE), path, "tflite", precision="int8", calibration=images, options=options)
    return path


def operations(content: bytes) -> Counter[str]:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    return Counter(NAMES[model.operatorCodes[each.opcodeIndex].builtinCode] for each in model.subgraphs[0].operators)


def test_xnnpack_has_all_of_an_int8_file_with_hard_swish(tmp_path: Path) -> None:
    path = written(network(), tmp_path / "m.tflite")
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    names = [each["op_name"] for each in interpreter._get_ops_details()]
    assert names.count("DELEGATE") == 1, "one part of the file for it, and none between its parts"
    assert operations(path.read_bytes()) == {"QUANTIZE": 1, "CONV_2D": 3, "ADD": 2, "MUL": 4, "DEQUANTIZE": 1}
    images = pictures(8)
    with torch.no_grad():
        expected = network()(torch.from_numpy(images)).numpy()
    found = format_of(path).load(path)(images)
    assert np.abs(found - expected).std() < 0.05 * expected.std()


def test_blocks_that_are_measured_are_such_files(tmp_path: Path) -> None:
    write(trace(network(), SHAPE), tmp_path / "m.tflite", "tflite")
    content = int8_for_measuring((tmp_path / "m.tflite").read_bytes(), first=False, last=False)
    assert operations(content) == {"CONV_2D": 3, "ADD": 2, "MUL": 4}


def test_hard_swish_in_float32_is_one_operation(tmp_path: Path) -> None:
    path = written(network(), tmp_path / "m.tflite", keep=("1.hard_swish",))
    found = operations(path.read_bytes())
    assert (found["HARD_SWISH"], found["ADD"]) == (1, 1)


def test_a_file_of_integers_alone_has_no_value_more_in_memory(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, *SHAPE[1:]), np.uint8)
    path = written(network(), tmp_path / "m.tflite", pixels, integer_input_and_output=("int8", "int8"))
    assert operations(path.read_bytes())["HARD_SWISH"] == 2


@pytest.mark.parametrize(("largest", "left"), [(1e-3, 0), (1e5, 1)])
def test_values_too_small_or_large_to_be_added_to_three(largest: float, left: int, tmp_path: Path) -> None:
    """XNNPACK adds no steps that are further apart than 2^8 or 2^-10; LiteRT would not load such a file. Small ones get
    larger steps, as files of weights that were never trained are full of them, and are measured."""
    layers = [nn.Conv2d(3, 8, 1, bias=False), nn.Hardswish(), nn.Conv2d(8, 8, 1)]
    module = nn.Sequential(*layers).eval()
    images = torch.from_numpy(pictures(16))
    with torch.no_grad():
        layers[0].weight *= largest / layers[0](images).abs().max()
        expected = module[:2](images).numpy()
    path = written(module[:2], tmp_path / "m.tflite")
    assert operations(path.read_bytes())["HARD_SWISH"] == left
    difference = np.abs(format_of(path).load(path)(images.numpy()) - expected).max()
    assert difference < 0.05 * np.abs(expected).max()
