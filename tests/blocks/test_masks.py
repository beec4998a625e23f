"""What masked forms are made of, against sums worked out by hand."""

import pytest
import torch
from torch import nn

from fbnet_mobile.arch.fields import ACTIVATIONS
from fbnet_mobile.blocks.layers import activation_module
from fbnet_mobile.blocks.masks import MaskedBatchNorm, column_masks, kernel_masks, mixed_activation
from fbnet_mobile.errors import UserError


def test_mask_is_the_weighted_sum_of_column_masks_outside_batch_norm() -> None:
    features, weights = torch.randn(4, 6, 5, 5), torch.tensor([0.2, 0.3, 0.5])
    norm = MaskedBatchNorm(6)
    nn.init.uniform_(norm.bias)
    mask = weights @ column_masks([2, 4, 6])
    torch.testing.assert_close(mask, torch.tensor([1.0, 1.0, 0.8, 0.8, 0.5, 0.5]))
    masked = norm(features, mask)
    plain = nn.BatchNorm2d(6)
    plain.load_state_dict({**norm.state_dict(), **plain.state_dict(), "bias": norm.bias})
    torch.testing.assert_close(masked, plain(features) * mask[:, None, None])
    torch.testing.assert_close(norm.running_var, plain.running_var)


def test_kernel_masks_are_centres_of_the_largest() -> None:
    masks = kernel_masks([1, 5, 3])
    assert masks.shape == (3, 5, 5)
    assert masks.sum((1, 2)).tolist() == [1, 25, 9]
    assert masks[0, 2, 2] == 1
    assert masks[2, 1:4, 1:4].all()


def test_mixed_activations_are_the_weighted_sum_with_its_gradients() -> None:
    features = (8 * torch.rand(3, 4, dtype=torch.double) - 4).requires_grad_()
    for options in (["relu", "hswish"], ["hswish", "relu"]):
        weights = torch.tensor([0.3, 0.7], dtype=torch.double, requires_grad=True)
        by_hand = {"relu": features.relu(), "hswish": features * (features + 3).clamp(0, 6) / 6}
        expected = sum((w * by_hand[option] for w, option in zip(weights, options, strict=True)), torch.zeros(()))
        found = mixed_activation(features, options, weights)
        torch.testing.assert_close(found, expected)
        weigh = torch.rand(3, 4, dtype=torch.double)
        one, other = (torch.autograd.grad((out * weigh).sum(), (features, weights)) for out in (found, expected))
        torch.testing.assert_close(one[0], other[0])
        # Weights add up to 1: only the difference of their gradients says anything.
        torch.testing.assert_close(one[1][0] - one[1][1], other[1][0] - other[1][1])


def test_an_activation_is_one_line_of_a_table_and_is_mixed_with_any_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ACTIVATIONS, "_entries", {**ACTIVATIONS._entries, "silu": nn.SiLU})
    features = torch.linspace(-4, 4, 17, dtype=torch.double)
    by_hand = {
        "relu": features.clamp(min=0),
        "hswish": features * (features + 3).clamp(0, 6) / 6,
        "silu": features * features.sigmoid(),
    }
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.double)
    for names in (["silu"], ["relu", "silu"], ["silu", "hswish", "relu"]):
        given = weights[: len(names)] if len(names) > 1 else torch.ones(1, dtype=torch.double)
        expected = sum((w * by_hand[name] for w, name in zip(given, names, strict=True)), torch.zeros(()))
        torch.testing.assert_close(mixed_activation(features, names, given), expected)


@pytest.mark.parametrize("names", [["gelu"], ["relu", "gelu"]])
def test_an_unknown_activation_is_refused_in_the_supernet_and_in_a_network(names: list[str]) -> None:
    with pytest.raises(UserError, match=r"unknown activation 'gelu'; .*choose one of relu, hswish"):
        mixed_activation(torch.zeros(3), names, torch.full((len(names),), 1 / len(names)))
    with pytest.raises(UserError, match="unknown activation 'gelu'"):
        activation_module("gelu")
