import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fbnet_mobile.blocks.network import build
from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.base import all_runtimes, get_runtime, write
from fbnet_mobile.formats.openvino import loader
from fbnet_mobile.graph.trace import trace
from fbnet_mobile.measure.by_block import shared_out, time_by_block
from fbnet_mobile.space import load_space

PROFILERS = [name for name, runtime in all_runtimes().items() if runtime.operation_times_us]
SPACE = load_space("small")
NETWORK = SPACE.architecture(SPACE.draw(random.Random(1)))


def test_times_go_to_the_blocks_that_operations_are_named_after() -> None:
    times = {"1.expand.0.conv2d": 2.0, "0.0.conv2d": 1.0, "1.project.0.conv2d_nchwc": 4.0}
    others = {"ReorderOutput_token_3": 8.0, "2.linear": 16.0, "input_0.0.conv2d": 32.0}
    found = shared_out(times | others, 2)
    assert (found.blocks_us, found.between_us) == ((1.0, 6.0), 56.0)


@pytest.mark.parametrize(("precision", "batch"), [("fp32", 1), ("fp32", 2), ("int8", 1)])
@pytest.mark.parametrize("name", PROFILERS)
def test_profilers_know_every_block_of_a_file(name: str, precision: str, batch: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = (batch, 3, NETWORK.resolution, NETWORK.resolution)
    images = np.random.default_rng(0).standard_normal((8, *shape[1:]), np.float32) if precision == "int8" else None
    path = tmp_path / "m.onnx"
    write(trace(build(NETWORK).eval(), shape), path, "onnx", precision=precision, calibration=images)
    times = get_runtime(name).operation_times_us
    assert times is not None
    named = {operation.partition(".")[0] for operation in times(path, 1, 0, 2)}
    assert {str(number) for number in range(len(NETWORK.blocks))} <= named


def test_openvino_times_one_image_where_the_batch_is_open(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    write(trace(nn.Conv2d(3, 4, 1), (1, 3, 5, 6)), path, "onnx", options={"dynamic_batch": True})
    made = loader.request(str(path), 1)
    made.infer()
    assert [tensor.data.shape for tensor in (*made.input_tensors, *made.output_tensors)] == [(1, 3, 5, 6), (1, 4, 5, 6)]


def test_names_that_say_nothing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    write(trace(build(NETWORK).eval(), (1, 3, NETWORK.resolution, NETWORK.resolution)), path, "tflite")
    with pytest.raises(UserError, match=r"openvino names no operation of \S+ after a block"):
        time_by_block(path, get_runtime("openvino"), 1, NETWORK.blocks)
