from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fbnet_mobile.data.augment import normalise
from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.base import format_of, get_format
from fbnet_mobile.formats.verify import export
from fbnet_mobile.graph.pixels import Normalisation, take_pixels
from fbnet_mobile.graph.trace import trace
from tests.formats.networks import EveryOperation, calibrated, mobile_network

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
EIGHT = Normalisation([0.3 + 0.05 * channel for channel in range(8)], [0.2 + 0.02 * channel for channel in range(8)])


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize(
    ("name", "precision"),
    [("coreml", "fp32"), *((name, precision) for name in ("tflite", "onnx") for precision in ("fp32", "fp16", "int8"))],
)  # test_coreml.py has the others
def test_a_file_that_takes_pixels_gives_what_pytorch_gives_for_normalised_ones(
    name: str, precision: str, tmp_path: Path
) -> None:
    path, network, pixels = tmp_path / f"m{get_format(name).suffix}", mobile_network(), images(16, 3, 33, 33)
    report = export(
        network,
        path,
        format=name,
        input_shape=(1, 3, 33, 33),
        precision=precision,
        calibration=pixels,
        pixels=IMAGENET,
        min_agreement=0.0,  # random weights: the answers are close to one another
    )
    assert report.relative_difference < {"fp32": 1e-5, "fp16": 1e-2, "int8": 0.3}[precision]

    session = format_of(path).load(path)
    assert session.takes_pixels
    with torch.no_grad():
        expected = network(normalise(torch.from_numpy(pixels), *IMAGENET)).numpy()
    assert np.abs(expected - expected[0]).max() > 0.1, "the test would prove nothing"
    np.testing.assert_allclose(session(pixels), expected, atol=np.abs(expected).max() * report.relative_difference * 3)
    with pytest.raises(UserError, match="takes uint8 pixels, not float32"):
        session(pixels.astype(np.float32))


class Read(nn.Module):
    """Reads its input twice: by a convolution, and as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + x


@pytest.mark.parametrize("name", ["tflite", "onnx"])
@pytest.mark.parametrize(
    ("module", "added"),
    [
        (nn.Conv2d(8, 12, 3, stride=2, groups=4), []),
        (nn.Conv2d(8, 12, 3, padding=1, groups=2), ["sub"]),
        (nn.Conv2d(8, 8, 3, padding=(0, 2), groups=8), ["sub"]),
        (Read(), ["sub", "mul"]),
        (nn.Sequential(nn.ReLU(), nn.Conv2d(8, 2, 1)), ["sub", "mul"]),
    ],
)
def test_only_what_cannot_go_into_the_first_convolution_is_computed(
    module: nn.Module, added: list[str], name: str, tmp_path: Path
) -> None:
    graph = trace(module, (1, 8, 6, 7))
    kinds = [node.op for node in take_pixels(graph, EIGHT).nodes]
    assert kinds == added + [node.op for node in graph.nodes]
    path = tmp_path / f"m{get_format(name).suffix}"
    inputs = images(3, 8, 6, 7)
    inputs[0] = 0  # black up to the border: a padding of black pixels would show
    export(module, path, format=name, input_shape=(1, 8, 6, 7), inputs=inputs, pixels=EIGHT, tolerance=1e-5)


@pytest.mark.parametrize("name", ["tflite", "onnx"])
def test_every_operation_of_pixels(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = calibrated(EveryOperation(), 8, 12)
    path = tmp_path / f"m{get_format(name).suffix}"
    export(network, path, format=name, input_shape=(1, 8, 12, 12), pixels=EIGHT, tolerance=1e-4)


def test_wrong_requests(tmp_path: Path) -> None:
    layer, shape = nn.Conv2d(3, 4, 1), (1, 3, 2, 2)
    for wrong in (EIGHT, Normalisation((0, 0, 0), (1, 0, 1))):
        with pytest.raises(UserError, match="one mean, and one std above 0, for each"):
            export(layer, tmp_path / "m.onnx", format="onnx", input_shape=shape, pixels=wrong)
    eight = nn.Conv2d(8, 4, 1)
    with pytest.raises(UserError, match="pixels of 8 channels to Core ML, whose images have 1 or 3"):
        export(eight, tmp_path / "m.mlpackage", format="coreml", input_shape=(1, 8, 2, 2), pixels=EIGHT)
    floats = np.zeros(shape, np.float32)
    with pytest.raises(UserError, match="are float32, the file takes uint8"):
        export(layer, tmp_path / "m.onnx", format="onnx", input_shape=shape, inputs=floats, pixels=IMAGENET)
    assert not list(tmp_path.iterdir())
