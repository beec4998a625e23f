"""Graphs computed by PyTorch, against the modules they were traced from."""

import pytest
import torch
from calibrated import calibrated
from torch import nn

from fbnet_mobile.graph.lowered import Lowered
from fbnet_mobile.graph.rounded import Rounded, points, weight_ends
from fbnet_mobile.graph.trace import trace
from tests.formats.networks import EveryOperation, mobile_network

NETWORKS = {
    "mobile": (mobile_network, (1, 3, 33, 33)),
    "every operation": (lambda: calibrated(EveryOperation(), 8, 12), (1, 8, 12, 12)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_graph_computes_what_its_module_does_for_any_batch(name: str) -> None:
    make, shape = NETWORKS[name]
    network = make().eval()
    lowered = Lowered(trace(network, shape))
    images = torch.randn(3, *shape[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(lowered(images), network(images), rtol=1e-4, atol=1e-4)
        assert trace(lowered, shape).nodes[0].name == lowered.graph().nodes[0].name
        next(lowered.parameters()).mul_(2)
        assert not torch.allclose(Lowered(lowered.graph())(images), network(images))


def test_rounding_and_its_gradients() -> None:
    """By hand: a range from -1 to 4 has the step 5 / 255 and the zero point 51."""
    graph = trace(nn.Sequential(nn.Flatten(), nn.Linear(4, 4)).eval(), (1, 4, 1, 1))
    rounded = Rounded(graph, dict.fromkeys(points(graph), (-1.0, 4.0)))
    step = 5 / 255
    x = torch.tensor([[-3.0, 0.3 * step, 2.6 * step, 9.0]], requires_grad=True)
    y = rounded.given(x, None)
    torch.testing.assert_close(y, torch.tensor([[-1.0, 0.0, 3 * step, 4.0]]))
    y.backward(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 10, 100, 0]]
    place, inside = rounded._places["input"], (10 * -0.3 + 100 * 0.4) / 255
    assert rounded.low.grad is not None
    assert rounded.high.grad is not None
    assert float(rounded.low.grad[place]) == pytest.approx((1 - inside) / 2, rel=1e-4)
    assert float(rounded.high.grad[place]) == pytest.approx((1000 + inside) / 2, rel=1e-4)


def test_ends_of_weights() -> None:
    """Two of the largest that are neighbours where they are summed cost a bit; elsewhere they cost none."""
    weight = torch.zeros(4, 3, 1, 2)
    weight[0, 0, 0, 0] = weight[0, 1, 0, 0] = 127  # in one place of the kernel, and of one sign
    weight[1, 0, 0, 0], weight[1, 1, 0, 0] = 127, -127
    weight[2, 0, 0, 0] = weight[2, 0, 0, 1] = 127  # of one channel
    weight[3, 2, 0, 0], weight[3, 0, 0, 1] = -127, -63.5  # the last channel of a place, and the first of the next
    torch.testing.assert_close(weight_ends(weight), 127 * torch.tensor([2, 1, 1, 1.5]))
    torch.testing.assert_close(weight_ends(weight, in_pairs=False), torch.full((4,), 127.0))
    depthwise = torch.full((4, 1, 3, 3), 127.0)
    torch.testing.assert_close(weight_ends(depthwise, groups=4), torch.full((4,), 127.0))
    torch.testing.assert_close(weight_ends(depthwise, groups=2), torch.full((4,), 254.0))
