from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.verify import export
from fbnet_mobile.graph.operations import OPERATIONS
from fbnet_mobile.graph.trace import trace
from tests.formats.networks import EveryOperation, EveryOtherOperation, calibrated, mobile_network


class Lambda(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> object:
        return self.function(x)


def test_batch_norm_is_folded_by_hand_computed_numbers() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2, eps=1.0)).eval()
    network[0].weight.data = torch.tensor([3.0, 5.0]).view(2, 1, 1, 1)
    network[1].running_mean, network[1].running_var = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 24.0])
    network[1].weight.data, network[1].bias.data = torch.tensor([2.0, 10.0]), torch.tensor([0.5, -1.0])

    (node,) = trace(network, (1, 1, 4, 4)).nodes

    # The scales are 2 / sqrt 4 = 1 and 10 / sqrt 25 = 2; the shifts 0.5 - 1 * 1 and -1 - 2 * 2.
    np.testing.assert_allclose(node.weights["weight"].ravel(), [3, 10])
    np.testing.assert_allclose(node.weights["bias"], [-0.5, -5])


def test_batch_norm_is_not_folded_into_a_convolution_that_is_read_twice() -> None:
    convolution, norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2).eval()
    norm.running_var.fill_(4)
    module = Lambda(lambda x: (y := convolution(x)) + norm(y))
    assert [node.op for node in trace(module, (1, 2, 3, 3)).nodes] == ["conv2d", "mul", "add", "add"]


def test_a_mobile_network_is_made_of_few_operations_with_known_shapes_and_sources() -> None:
    graph = trace(mobile_network(), (1, 3, 33, 33))
    kinds = {node.op for node in graph.nodes}
    assert kinds == {
        "conv2d", "hard_swish", "global_avg_pool", "relu", "hard_sigmoid", "mul", "add", "reshape", "linear"
    }  # fmt: skip
    assert graph.shapes()[graph.output] == (1, 10)
    assert graph.node("4.layers.3.conv2d").shape == (1, 32, 9, 9)
    assert graph.node("4.layers.6.reduce.conv2d").source == "4.layers.6.reduce"


def test_every_operation_is_lowered_and_nothing_undeclared_is() -> None:
    network = calibrated(EveryOperation(), 8, 12)
    kinds = {node.op for node in trace(network, (1, 8, 12, 12)).nodes}
    kinds |= {node.op for node in trace(mobile_network(), (1, 3, 33, 33)).nodes}
    kinds |= {node.op for node in trace(EveryOtherOperation(), (1, 8, 12, 12)).nodes}
    assert kinds == set(OPERATIONS) - {"affine"}


def test_an_operation_in_place_changes_what_other_names_of_its_tensor_hold() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        kept = y
        y += 1
        return kept * 3

    assert [node.op for node in trace(Lambda(forward), (1, 2, 3, 3)).nodes] == ["mul", "add", "mul"]


def test_what_cannot_be_exported_is_named_with_its_place() -> None:
    deep = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.ReLU(), nn.LocalResponseNorm(2)))
    with pytest.raises(UserError, match=r"local_response_norm in '1\.1': no format here has it"):
        trace(deep, (1, 3, 4, 4))
    with pytest.raises(UserError, match="it normalises by the batch"):
        trace(nn.BatchNorm2d(3, track_running_stats=False), (1, 3, 4, 4))
    with pytest.raises(UserError, match="tolist in Lambda: the answer depends on the values"):
        trace(Lambda(lambda x: x * x.tolist()[0][0][0][0]), (1, 3, 4, 4))
    with pytest.raises(UserError, match=r"sum in Lambda: its result has the shape \(\)"):
        trace(Lambda(lambda x: x if x.sum() > 0 else x * 2), (1, 3, 4, 4))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.max_pool2d(x, 3, dilation=2, padding=1),
        lambda x: F.adaptive_max_pool2d(x, 3),
        lambda x: F.interpolate(x, scale_factor=1.3),
        lambda x: F.interpolate(x, (3, 3), mode="bicubic"),
        lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
        lambda x: F.conv_transpose2d(x, torch.ones(4, 1, 3, 3), dilation=2),
        lambda x: torch.einsum("bchw,bchw,bchw->b", x, x, x),
        lambda x: x.norm(p=1),
        lambda x: x**1.5,
        lambda x: x @ torch.ones(4),
        lambda x: x.sum((0, 1, 2, 3)),
        lambda x: (x, x * 2),
        lambda x: x,
        lambda x: torch.ones(1, 2),
    ],
)
def test_an_unsupported_way_to_call_is_an_error_and_no_wrong_graph(function: Callable[..., object]) -> None:
    with pytest.raises(UserError, match="cannot export"):
        trace(Lambda(function), (1, 4, 4, 4))


def test_a_convolution_that_makes_a_weight_is_computed() -> None:
    weight = torch.arange(9.0).reshape(1, 1, 3, 3)
    graph = trace(Lambda(lambda x: F.conv2d(x, F.conv2d(weight, weight, padding=1))), (1, 1, 8, 8))
    (node,) = graph.nodes
    assert node.shape == (1, 1, 6, 6)
    assert np.array_equal(node.weights["weight"], F.conv2d(weight, weight, padding=1).numpy())


def test_an_input_that_the_network_does_not_accept() -> None:
    with pytest.raises(UserError, match=r"cannot run '1' on an input of shape \(1, 3, 4, 4\): RuntimeError"):
        trace(nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1)), (1, 3, 4, 4))
    with pytest.raises(UserError, match="give \\(1, channels"):
        trace(nn.Conv2d(3, 4, 1), (0, 3, 4, 4))


def chunk_in_place(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, 1)
    first.relu_()
    return torch.cat((second, first), 1)


@pytest.mark.parametrize(
    ("function", "kinds"),
    [
        (chunk_in_place, ["slice", "slice", "relu", "concat"]),
        (lambda x: (x * 2).flatten(1).add_(1), ["mul", "reshape", "add"]),
        (lambda x: x.relu_() + x, ["relu", "add"]),
        (lambda x: x.data.relu_(), ["relu"]),
        (lambda x: x[..., 1:, 1:], ["slice"]),
        (lambda x: x[:, :, 0, 0], ["slice", "reshape"]),
        (lambda x: x[:, :, -1, 1][..., 1:3], ["slice", "reshape", "slice"]),
        (lambda x: x[:, None, :, 1, 1:][:, 0, :, :, None], ["slice", "reshape", "reshape"]),
        (lambda x: x[:, [2, 1, 0]], ["gather"]),
        (lambda x: x[:, torch.tensor([3, -1])], ["gather"]),
        (lambda x: x[:, ::2, 1:3], ["slice"]),
        (lambda x: x.flatten(1)[:, :, None, None], ["reshape", "reshape"]),
        (lambda x: x.to(torch.float32)[0:1], []),
    ],
)
def test_indices_and_operations_in_place_give_what_pytorch_gives(
    function: Callable[..., torch.Tensor], kinds: list[str], tmp_path: Path
) -> None:
    module = Lambda(lambda x: function(x * 1) - 0.5)
    assert [node.op for node in trace(module, (1, 4, 3, 5)).nodes] == ["mul", *kinds, "add"]
    export(module, tmp_path / "m.tflite", format="tflite", input_shape=(1, 4, 3, 5), tolerance=1e-6)


def view_after(change: Callable[[torch.Tensor], object]) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        change(y)
        return y + 1

    return forward


def buffer(x: torch.Tensor) -> torch.Tensor:
    whole = torch.zeros(1, 4, 3, 5)
    whole[:, 1:].add_(x[:, 1:])
    return x + whole


class Deep(nn.Module):
    """The change, two modules down."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 1), Lambda(function))

    def forward(self, x: torch.Tensor) -> object:
        return self.inner(x)


def write_part(x: torch.Tensor) -> torch.Tensor:
    x[:, :4] = 0
    return x


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[:, [2, 1], [0, 1]], r"__getitem__ in 'inner\.1': its index holds two lists"),
        (lambda x: x[:, torch.tensor([[3, 2]])], r"__getitem__ in 'inner\.1': its index holds a Tensor"),
        (lambda x: x[True], r"__getitem__ in 'inner\.1': its index holds a bool"),
        (lambda x: x[:, 4:], r"__getitem__ in 'inner\.1': its result has the shape \(1, 0, 3, 5\); only"),
        (write_part, r"__setitem__ in 'inner\.1': it writes into a part"),
        (
            view_after(lambda y: y.flatten(1).add_(1)),
            r"add_ in 'inner\.1': it changes in place .* by add in 'inner\.1'",
        ),
        (view_after(lambda y: y[:, :2].relu_()), r"relu_ in 'inner\.1': it changes in place"),
        (view_after(lambda y: y.chunk(2, 1)[1].relu_()), r"relu_ in 'inner\.1': it changes in place"),
        (view_after(lambda y: y.data.mul_(2)), r"mul_ in 'inner\.1': it changes in place"),
        (view_after(lambda y: F.relu(y.detach(), inplace=True)), r"relu in 'inner\.1': it changes in place"),
        (buffer, r"add_ in 'inner\.1': it changes in place"),
        (lambda x: (x.flatten(1).add_(1), x)[1], r"add_ in 'inner\.1': it changes in place .* by the result"),
        (lambda x: x.to(torch.int32).float(), r"to in 'inner\.1': its result is torch\.int32; only floats"),
        (lambda x: F.dropout(x, 0.5), r"dropout in 'inner\.1': it is random even in evaluation"),
    ],
)
def test_a_change_of_values_that_a_graph_does_not_hold_is_refused_by_operation_and_module(
    function: Callable[..., object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        trace(Deep(function), (1, 4, 3, 5))


def test_a_program_that_cannot_be_watched_is_refused_with_the_reason() -> None:
    module, shape = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()).eval(), (1, 3, 2, 2)
    exported = torch.export.export(module, (torch.ones(shape),)).module()
    for program, maker in (
        (exported, r"torch\.export"),
        (torch.jit.script(module), r"torch\.jit"),
        (torch.jit.freeze(torch.jit.script(module)), r"torch\.jit"),
        (torch.jit.trace(module, torch.ones(shape)), r"torch\.jit"),
    ):
        with pytest.raises(UserError, match=rf"^cannot export \w+: it was made by {maker}.*export the module that"):
            trace(program, shape)
        with pytest.raises(UserError, match=rf"cannot export '1': it was made by {maker}"):
            trace(nn.Sequential(nn.ReLU(), program), shape)
    assert [node.op for node in trace(torch.fx.symbolic_trace(module), shape).nodes] == ["conv2d", "relu"]
