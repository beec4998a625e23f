"""Inputs of any size, batches, and networks of several inputs and results, in every format."""

from pathlib import Path

import numpy as np
import pytest
import torch
from calibrated import calibrated
from torch import nn

from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.formats import verify
from fbnet_mobile.formats.base import all_runtimes, format_of, get_format, get_runtime
from fbnet_mobile.formats.verify import export
from fbnet_mobile.graph.trace import trace

from .each import EACH, TOGETHER
from .networks import EveryOtherOperation, mobile_network


class Detector(nn.Module):
    """Two feature maps and scores, of a picture and of what was seen before."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.deep = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.state, self.head = nn.Linear(4, 8), nn.Linear(12, 5)

    def forward(self, picture: torch.Tensor, state: torch.Tensor) -> dict[str, torch.Tensor]:
        fine = torch.relu(self.stem(picture)) + self.state(state)[:, :, None, None]
        coarse = torch.relu(self.deep(fine))
        return {"fine": fine, "coarse": coarse, "scores": self.head(coarse.mean((2, 3)))}


SHAPES = {"picture": (2, 3, 10, 14), "memory": (2, 4)}


@pytest.mark.parametrize(
    ("name", "runtime", "precision"),
    [
        (entry.name, runtime.name, half)
        for entry in TOGETHER
        for runtime in all_runtimes().values()
        for half in ("fp32", "fp16")
        if entry.name in runtime.formats and half in entry.precisions
    ],
)
def test_several_inputs_and_results_have_their_names_in_the_file(
    name: str, runtime: str, precision: str, tmp_path: Path
) -> None:
    path = tmp_path / f"m{get_format(name).suffix}"
    network = Detector()
    report = export(network, path, format=name, input_shape=SHAPES, precision=precision, runtime=runtime)
    assert list(report.outputs) == ["fine", "coarse", "scores"]
    session = get_runtime(runtime).load(path)
    assert dict(session.input_shapes) == SHAPES
    rng = np.random.default_rng(1)
    given = {key: rng.standard_normal((4, *shape[1:]), np.float32) for key, shape in SHAPES.items()}
    with torch.no_grad():
        expected = network(*map(torch.from_numpy, given.values()))
    for key, result in session.run(given).items():
        np.testing.assert_allclose(result, expected[key].numpy(), atol=1e-5 if precision == "fp32" else 1e-2)
    with pytest.raises(UserError, match="gives fine, coarse, scores, none of which is its one answer"):
        session(given)
    with pytest.raises(UserError, match="takes picture, memory, not picture"):
        session.run(given["picture"])


@pytest.mark.parametrize("name", [entry.name for entry in TOGETHER])
def test_each_result_is_compared_by_itself(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in a result of small numbers does not hide behind another's large ones."""

    def faulty(graph, path, metadata):  # type: ignore[no-untyped-def]
        node = next(node for node in graph.nodes if node.op == "linear" and node.shape[1] == 5)
        node.weights["bias"][:] += 0.01
        return write(graph, path, metadata)

    class Large(Detector):
        def forward(self, picture: torch.Tensor, state: torch.Tensor) -> dict[str, torch.Tensor]:
            found = super().forward(picture, state)
            return {**found, "fine": found["fine"] * 1000}

    entry = get_format(name)
    write = entry.write
    monkeypatch.setattr(verify, "check_suffix", lambda path, format_: entry)
    object.__setattr__(entry, "write", faulty)
    try:
        with pytest.raises(JobError, match="gives results as scores that differ"):
            export(Large(), tmp_path / f"m{entry.suffix}", format=name, input_shape=SHAPES)
    finally:
        object.__setattr__(entry, "write", write)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", EACH)
def test_a_batch_and_a_picture_that_is_not_square(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{get_format(name).suffix}"
    export(mobile_network(), path, format=name, input_shape=(3, 3, 17, 40), tolerance=1e-4)
    assert format_of(path).load(path).input_shape == (3, 3, 17, 40)
    export(EveryOtherOperation(), path, format=name, input_shape=(2, 8, 12, 12), tolerance=1e-4)
    torch.manual_seed(0)
    few = calibrated(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 3 * 4, 2)), 1, (5, 6))
    export(few, path, format=name, input_shape=(2, 1, 5, 6), tolerance=1e-5)


def test_results_without_names_are_numbered_and_names_that_formats_have_not_are_refused() -> None:
    class Parts(nn.Module):
        def __init__(self, wrap: object) -> None:
            super().__init__()
            self.wrap = wrap

        def forward(self, x: torch.Tensor) -> object:
            return self.wrap(x * 2, x + 1)  # type: ignore[operator]

    shape = (1, 2, 3, 3)
    assert list(trace(Parts(lambda *parts: parts), shape).outputs) == ["output_0", "output_1"]
    for wrap, message in (
        (lambda a, b: {"a.b": a}, r"cannot call an input or a result 'a\.b'"),
        (lambda a, b: {}, "without a result"),
        (lambda a, b: (a, a), "its result 'output_1' is another one, too"),
        (lambda a, b: {"mul": a, "b": b}, "its result 'mul' is another one, too, or is called as"),
        (lambda a, b: (a, None), "it must return tensors"),
    ):
        with pytest.raises(UserError, match=message):
            trace(Parts(wrap), shape)


@pytest.mark.parametrize("name", ["tflite", "onnx"])
def test_int8_of_several_results_or_inputs_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{get_format(name).suffix}"

    class Both(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x * 2, x + 1

    for network, shape, message in (
        (Both(), (1, 2, 3, 3), "int8 for .* is judged by one result, and the network gives several; take fp16"),
        (mobile_network(), (2, 3, 9, 9), "int8 for .* is calibrated on one input, an image at a time; take fp16"),
    ):
        images = np.zeros((4, *shape[1:]), np.float32)
        with pytest.raises(UserError, match=message):
            export(network, path, format=name, input_shape=shape, precision="int8", calibration=images)
    assert not list(tmp_path.iterdir())


def test_a_name_that_core_ml_changes_is_refused(tmp_path: Path) -> None:
    class Named(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"state": x * 2}

    with pytest.raises(UserError, match="Core ML does not have the name state; call it otherwise"):
        export(Named(), tmp_path / "m.mlpackage", format="coreml", input_shape=(1, 2, 3, 3))
