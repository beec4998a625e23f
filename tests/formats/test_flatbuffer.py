from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import nn

from fbnet_mobile.formats.base import format_of, write
from fbnet_mobile.graph.trace import trace

SHAPE = (1, 3, 16, 16)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Hardswish])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_reader_finds_weights_and_operations(precision: str, activation: type[nn.Module], tmp_path: Path) -> None:
    """litert-quantizer puts weights of more than 256 KiB behind the file, and TFLite Micro's interpreter then computes
    with zeros; the old codes of operations that it adds are that of an addition, which OpenVINO then sees."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 900, 3, 2), activation(), nn.Conv2d(900, 400, 1)).eval()
    images, path = torch.randn(16, *SHAPE[1:]), tmp_path / "m.tflite"
    options = {"ranges": "min-max", "keep": ()} if precision == "int8" else {}
    write(trace(network, SHAPE), path, "tflite", precision=precision, calibration=images.numpy(), options=options)
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    assert {buffer.offset for buffer in model.buffers} == {0}
    assert max(len(buffer.data) for buffer in model.buffers if buffer.data is not None) >= 900 * 400
    assert all(code.deprecatedBuiltinCode == min(code.builtinCode, 127) for code in model.operatorCodes)
    with torch.no_grad():
        expected = network(images).numpy()
    assert np.abs(format_of(path).load(path)(images.numpy()) - expected).std() < 0.05 * expected.std()
