"""Time and memory of a run, estimated by a trial step."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fbnet_mobile.engine.forecast import duration, forecast


def test_a_trial_step_counts_what_is_kept_and_leaves_the_network_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fbnet_mobile.engine.forecast.memory_used", lambda: None)
    network = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    def loss(images: int) -> torch.Tensor:
        value: torch.Tensor = network(torch.randn(images, 3, 64, 64)).mean()
        return value

    small, large = (forecast(network, [(1.0, loss)], batch, steps=10) for batch in (64, 256))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    # Per image: the input, and the feature map that batch norm reads and the one that ReLU does.
    image = 4 * 64 * 64 * (3 + 32 + 32)
    assert 0.9 < (large.memory - small.memory) / (192 * image) < 1.1
    assert small.seconds > 0


def test_passes_count_by_their_share_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fbnet_mobile.engine.forecast.memory_used", lambda: None)
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    network = nn.Conv2d(3, 4, 1)

    def taking(seconds: float, pixels: int) -> Callable[[int], torch.Tensor]:
        def loss(images: int) -> torch.Tensor:
            clock[0] += seconds
            value: torch.Tensor = network(torch.ones(images, 3, pixels, pixels)).square().mean()
            return value

        return loss

    fast, slow = taking(1.0, 8), taking(3.0, 16)
    found = forecast(network, [(0.25, fast), (0.75, slow)], batch_size=32, steps=10)
    assert found.seconds == (0.25 * 1 + 0.75 * 3) * 2 * 10, "twice as many images as in the trial"
    assert found.memory == forecast(network, [(1.0, slow)], batch_size=32, steps=10).memory, "of the largest"


def test_lengths_of_time_have_two_units_at_most() -> None:
    assert [duration(seconds) for seconds in (42.4, 89.9, 600, 5000, 7200)] == [
        "42 s",
        "90 s",
        "10 min",
        "83 min",
        "2 h 00 min",
    ]
