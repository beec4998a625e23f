"""What is trained is what is written: the rounded network beside the int8 files that get its ranges."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.base import format_of, get_format, write, write_new
from fbnet_mobile.formats.correction import correct_biases, equalise, find_ranges, observe_graph, rounding_costs
from fbnet_mobile.formats.int8 import Learned, error, kept_nodes
from fbnet_mobile.formats.verify import export
from fbnet_mobile.graph.lowered import Lowered
from fbnet_mobile.graph.operations import Graph, Node
from fbnet_mobile.graph.pixels import Normalisation
from fbnet_mobile.graph.probabilities import give_probabilities
from fbnet_mobile.graph.rounded import Rounded, round_to
from fbnet_mobile.graph.trace import trace

from .networks import MBConv, SqueezeExcite, mobile_network

SHAPE = (1, 3, 33, 33)


@pytest.fixture(scope="module")
def rounded() -> Rounded:
    """With ranges that no method of post-training quantisation would choose."""
    graph = trace(mobile_network(), SHAPE)
    found = find_ranges(graph, observe_graph(graph, images(16)), "percentile-99.99")
    return Rounded(graph, {name: (0.9 * low, 0.8 * high) for name, (low, high) in found.items()}).eval()


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *SHAPE[1:], generator=torch.Generator().manual_seed(seed))


def test_a_tflite_file_has_the_learned_ranges_and_gives_what_was_trained(rounded: Rounded, tmp_path: Path) -> None:
    report = export(
        rounded,
        tmp_path / "m.tflite",
        format="tflite",
        input_shape=SHAPE,
        inputs=images(64, 1).numpy(),
        precision="int8",
        calibration=images(16).numpy(),
    )
    assert report.quantised is not None
    assert (report.quantised.ranges, report.quantised.kept, report.quantised.corrected) == ("learned", (), False)
    assert report.agreement == 1
    with torch.no_grad():
        differences = np.abs(
            format_of(report.path).load(report.path)(images(64, 1).numpy()) - rounded(images(64, 1)).numpy()
        )
    assert (differences > 1e-4).mean() < 0.02, "a step is more than that"
    interpreter = format_of(report.path).load(report.path).interpreter  # type: ignore[attr-defined]
    scales = {item["name"]: item["quantization"] for item in interpreter.get_tensor_details()}
    compared = 0
    learned = rounded.ranges()
    # What is computed with the layer before has that one's name.
    fused = {node.inputs[0]: learned[node.name] for node in rounded.graph().nodes if node.op == "relu"}
    assert fused
    for name, (low, high) in {**learned, **fused}.items():
        if scales.get(name, (0.0, 0))[0]:
            scale, zero = scales[name]
            assert scale == pytest.approx((high - low) / 255, rel=1e-4), name
            assert zero + 128 == pytest.approx(-low / scale, abs=0.6), name
            compared += 1
    assert compared > 25


class Branches(nn.Module):
    """A value in the range of what it is concatenated to, one that something else reads too, one of a pool with
    padding."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(8, 8, 1) for _ in range(4))
        self.end = nn.Conv2d(32, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        b = F.max_pool2d(F.relu(self.b(a)), 3, 2, 1)
        return self.end(torch.cat((F.max_pool2d(a, 2), b, self.c(b), F.hardswish(self.d(b))), 1))


OPERATIONS = {
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(8, 8, 3, 2, 1, bias=True), nn.ReLU(), nn.Conv2d(8, 8, 5, 1, 2, groups=8), nn.Conv2d(8, 16, 1)
    ),
    "hard swish": lambda: nn.Sequential(nn.Hardswish(), nn.Conv2d(8, 8, 1)),
    "silu": lambda: nn.Sequential(nn.SiLU(), nn.Conv2d(8, 8, 1)),
    "squeeze-excite": lambda: nn.Sequential(SqueezeExcite(8), nn.Conv2d(8, 8, 1), nn.Hardsigmoid(), nn.Conv2d(8, 8, 1)),
    "residual": lambda: MBConv(8, 8, 3, 1),
    "average pool": lambda: nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(8, 8, 1)),
    "concatenation": Branches,
    "vector": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 16)),
}


@pytest.mark.parametrize(("name", "format_"), [*((name, "tflite") for name in OPERATIONS), ("convolutions", "onnx")])
def test_what_is_rounded_is_what_runtimes_compute(name: str, format_: str, tmp_path: Path) -> None:
    """Integer by integer: what is nearest would differ in up to a tenth of them, weights of other steps in more, sums
    that are rounded twice in a few of a million."""
    torch.manual_seed(0)
    graph = trace(OPERATIONS[name]().eval(), (1, 8, 16, 16))
    x = 2 * torch.randn(512, 8, 16, 16)
    found = find_ranges(graph, observe_graph(graph, x[:16]), "percentile-99.9")
    rounded = Rounded(graph, found).eval()
    path, options = tmp_path / f"m.{format_}", {"ranges": Learned(rounded.ranges())}
    write(graph, path, format_, precision="int8", calibration=x[:16].numpy(), options=options)
    with torch.no_grad():
        expected = rounded(x).numpy()
    low, high = rounded.ranges()[graph.output]
    steps = np.abs(format_of(path).load(path)(x.numpy()) - expected) * 255 / (high - low)
    assert len(np.unique(expected)) > 50, "the test would prove nothing"
    assert (steps > 0.5).mean() <= (0 if format_ == "tflite" else 1e-4)
    assert steps.max() < 1.5


@pytest.mark.parametrize(("size", "high"), [(2, 2.0), (8, 8.000008)])
def test_halves_of_a_mean_are_rounded_as_runtimes_do(size: int, high: float, tmp_path: Path) -> None:
    """Where one step is twice another, as histograms give them, half of all means of four are halves; and where it is
    nearly so, of small numbers, the runtime takes for halves what is next to them."""
    graph = trace(nn.AdaptiveAvgPool2d(1).eval(), (1, 64, size, size))
    ranges = {"input": (-0.25 * high, 0.75 * high), graph.output: (-0.25, 0.75)}
    rounded = Rounded(graph, ranges).eval()
    x = torch.randint(-8, 9, (128, 64, size, size), generator=torch.Generator().manual_seed(0)) * (high / 255)
    learned, path = Learned(rounded.ranges()), tmp_path / "m.tflite"
    write(graph, path, "tflite", precision="int8", calibration=x[:4].numpy(), options={"ranges": learned})
    with torch.no_grad():
        expected = rounded(x).numpy()
    assert len(np.unique(expected)) > 10
    assert (np.abs(format_of(path).load(path)(x.numpy()) - expected) > 1e-3).mean() < 1e-3


@pytest.mark.parametrize(("name", "format_"), [*((name, "tflite") for name in OPERATIONS), ("convolutions", "onnx")])
def test_what_is_kept_in_float32_is_so_in_the_file(name: str, format_: str, tmp_path: Path) -> None:
    """Each operation alone, and with what reads it, as those are that post-training quantisation keeps."""
    torch.manual_seed(0)
    graph = trace(OPERATIONS[name]().eval(), (1, 8, 16, 16))
    x = 2 * torch.randn(64, 8, 16, 16)
    found = find_ranges(graph, observe_graph(graph, x[:16]), "percentile-99.9")
    readers, path = graph.consumers(), tmp_path / f"m.{format_}"
    for node in graph.nodes:
        for keep in ({node.name}, {node.name, *(reader.name for reader in readers.get(node.name, ()))}):
            rounded = Rounded(graph, found, keep=keep).eval()
            learned = Learned(rounded.ranges(), rounded.kept)
            chosen = write(
                graph, path, format_, precision="int8", calibration=x[:8].numpy(), options={"ranges": learned}
            )
            assert chosen is not None
            assert kept_nodes(chosen, graph) == {*rounded.kept}
            with torch.no_grad():
                expected = rounded(x).numpy()
            low, high = rounded.ranges()[graph.output]
            steps = np.abs(format_of(path).load(path)(x.numpy()) - expected) * 255 / (high - low)
            assert (steps > 0.01).mean() < 1e-3, keep
            if format_ == "onnx":
                onnx.checker.check_model(path, full_check=True)


def test_all_that_an_operation_is_made_by_is_kept_with_it(tmp_path: Path) -> None:
    graph = trace(OPERATIONS["silu"]().eval(), (1, 8, 16, 16))
    x = images(8).repeat(1, 3, 1, 1)[:, :8, :16, :16]
    ranges = find_ranges(graph, observe_graph(graph, x), "min-max")
    how = {"precision": "int8", "calibration": x.numpy(), "options": {"ranges": Learned(ranges, ("0.silu",))}}
    kept = [write(graph, tmp_path / f"m{get_format(name).suffix}", name, **how).kept for name in ("tflite", "onnx")]  # type: ignore[arg-type, union-attr]
    assert [len(names) for names in kept] == [2, 2], "a sigmoid and a product"


def test_an_onnx_file_has_them_too_and_a_float32_file_has_no_rounding(rounded: Rounded, tmp_path: Path) -> None:
    where = {"input_shape": SHAPE, "inputs": images(64, 1).numpy()}
    report = export(
        rounded, tmp_path / "m.onnx", format="onnx", precision="int8", calibration=images(16).numpy(), **where
    )  # type: ignore[arg-type]
    assert report.quantised is not None
    assert report.quantised.ranges == "learned"
    assert report.agreement is not None
    assert report.agreement > 0.9
    assert export(rounded, tmp_path / "f.onnx", format="onnx", **where).relative_difference < 1e-4  # type: ignore[arg-type]


def test_channels_between_layers_use_the_same_bits() -> None:
    """What was a twentieth of another is as large, and the graph computes what it did."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 1),
        nn.Hardswish(),
    ]
    network = nn.Sequential(*layers, nn.Conv2d(6, 4, 1)).eval()
    large = torch.logspace(0.1, 1.3, 7)
    with torch.no_grad():
        for layer, factors in ((network[0], 1 / large), (network[2], large)):
            layer.weight[1:] *= factors[:, None, None, None]
        network[0].bias[1:] /= large
        graph, x = trace(network, SHAPE), images(16)
        equal = equalise(graph, x.numpy())
        values = {node.name: value for node, value in Lowered(equal).values(x) if node is not None}
        torch.testing.assert_close(values[graph.output], Lowered(graph)(x), rtol=1e-3, atol=1e-4)
        largest = values["1.relu"].amax((0, 2, 3))
        torch.testing.assert_close(largest, largest.max().expand(8), rtol=1e-4, atol=0)
        # Before a layer whose channels share a range: as large as the weights that read them.
        parts, read = values["3.relu"].amax((0, 2, 3)), equal.node("4.conv2d").weights["weight"]
        weights = torch.from_numpy(read).abs().amax((0, 2, 3))
        torch.testing.assert_close(parts / parts.max(), weights / weights.max(), rtol=1e-3, atol=0)
        # Hard swish passes on no factor.
        np.testing.assert_array_equal(equal.node("6.conv2d").weights["weight"], network[6].weight.numpy())
        errors = []
        for each in (graph, equal):
            rounded = Rounded(each, find_ranges(each, observe_graph(each, x), "min-max"))
            found = {node.name: value for node, value in rounded.values(x) if node is not None}["4.conv2d"]
            errors.append(float((found - values["4.conv2d"]).norm()))
    assert errors[1] < 0.7 * errors[0]


def test_biases_are_corrected_for_what_rounding_does_to_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few levels of weights shift means; without a shift of the output's it is not that which was corrected."""
    graph = trace(mobile_network(), SHAPE)
    found = find_ranges(graph, observe_graph(graph, images(16)), "min-max")
    with torch.no_grad():
        exact = Lowered(graph)(images(16)).mean(0)
        monkeypatch.setattr("fbnet_mobile.graph.rounded.WEIGHT_LEVELS", 7)
        before = Rounded(graph, found)(images(16)).mean(0)
        corrected = correct_biases(graph, images(16).numpy(), found, in_pairs=True)
        after = Rounded(corrected, found)(images(16)).mean(0)
    assert float((after - exact).norm()) < 0.5 * float((before - exact).norm())


class _RoundsOne(Lowered):
    """Rounds one value, and nothing else."""

    def __init__(self, graph: Graph, name: str, ends: tuple[float, float]) -> None:
        super().__init__(graph)
        self._name, self._low, self._high = name, *map(torch.tensor, ends)

    def given(self, value: torch.Tensor, node: Node | None, inputs: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        return value if node is None or node.name != self._name else round_to(value, self._low, self._high)


@pytest.mark.parametrize("method", ["min-max", "percentile-99.9"])
def test_what_it_costs_to_round_a_value_alone_is_foretold(method: str) -> None:
    graph = trace(mobile_network(), SHAPE)
    ranges = find_ranges(graph, observe_graph(graph, images(32)), method)
    with torch.inference_mode():  # as the caller may be
        costs = rounding_costs(graph, images(256, 1).numpy(), {method: ranges})
        exact = Lowered(graph)(images(256, 1)).numpy()
        measured = {
            name: error(exact, _RoundsOne(graph, name, ranges[name])(images(256, 1)).numpy())
            for name in costs.keys() & graph.by_name().keys()
        }
    most = sorted(measured, key=lambda name: -measured[name])[:8]
    for name in most:
        assert 0.5 < costs[name][method] / measured[name] < 2, (name, costs[name][method], measured[name])


def test_what_it_costs_to_round_is_the_same_of_probabilities() -> None:
    graph = trace(mobile_network(), SHAPE)
    ranges = find_ranges(graph, observe_graph(graph, images(32)), "mse")
    both = give_probabilities(graph)
    taken = find_ranges(both, observe_graph(both, images(32)), "mse") | ranges
    costs, of_probabilities = (rounding_costs(each, images(32, 1).numpy(), {"mse": taken}) for each in (graph, both))
    assert {name: each["mse"] for name, each in of_probabilities.items()} == pytest.approx(
        {name: each["mse"] for name, each in costs.items()}, rel=0.01
    )


@pytest.mark.parametrize(("taken", "given"), [("int8", "int8"), ("uint8", "uint8")])
def test_a_file_of_integers_holds_no_floats_and_takes_pixels(taken: str, given: str, tmp_path: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    pixels = np.random.default_rng(0).integers(0, 256, (224, *SHAPE[1:]), np.uint8)
    network = mobile_network()
    report = export(
        network,
        tmp_path / "m.tflite",
        format="tflite",
        input_shape=SHAPE,
        inputs=pixels[24:],
        precision="int8",
        calibration=pixels[:24],
        pixels=Normalisation((0.5, 0.4, 0.6), (0.25, 0.2, 0.3)),
        options={"integer_input_and_output": (taken, given), "ranges": "min-max"},
    )
    assert report.agreement is not None
    assert report.agreement > 0.9
    model = schema.ModelT.InitFromPackedBuf(report.path.read_bytes(), 0)
    (graph,) = model.subgraphs
    assert schema.TensorType.FLOAT32 not in {tensor.type for tensor in graph.tensors}
    kinds = {"int8": schema.TensorType.INT8, "uint8": schema.TensorType.UINT8}
    ends = [graph.tensors[index] for index in (*graph.inputs, *graph.outputs)]
    assert [tensor.type for tensor in ends] == [kinds[taken], kinds[given]]
    assert float(ends[0].quantization.scale[0]) == pytest.approx(1)


def test_a_file_of_integers_is_refused_where_an_operation_has_none(tmp_path: Path) -> None:
    graph = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ELU()).eval(), (1, 3, 8, 8))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8), np.uint8)
    with pytest.raises(UserError, match="no integers for ELU"):
        write_new(
            graph,
            tmp_path / "m.tflite",
            get_format("tflite"),
            {},
            "int8",
            pixels,
            {"integer_input_and_output": ("int8", "int8"), "ranges": "min-max"},
        )
