"""Layers that modules of several kinds are made of."""

import torch.nn.functional as F
from torch import Tensor, nn

from fbnet_mobile.arch.fields import ACTIVATIONS, BATCH_NORM_EPS


def activation_module(name: str) -> nn.Module:
    """The module of an activation.

    Raises:
        UserError: there is none of that name; lists those that there are.
    """
    return ACTIVATIONS.get(name)()


def start_as_identity(last_norm: nn.BatchNorm2d) -> None:
    """Make a residual block add nothing at first, by a scale of 0, as the published FBNetV2 networks start."""
    nn.init.zeros_(last_norm.weight)


def pad_same(features: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Pad (N, C, H, W) with zeros as TensorFlow's "same" does, so that a convolution gives ceil(H / stride)."""
    totals = [max((-(-size // stride) - 1) * stride + kernel_size - size, 0) for size in features.shape[2:]]
    (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in totals)
    return F.pad(features, (left, right, top, bottom))


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding at any input size; PyTorch's own has it without a stride only."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as PyTorch calls it
        """(N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        return super().forward(pad_same(input, self.kernel_size[0], self.stride[0]))


class ConvBNAct(nn.Sequential):
    """Convolution, batch norm, and an activation unless it is None; padded by k // 2, or by TensorFlow's "same"."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: str | None = None,
        bias: bool = False,
        padding: str | None = None,
        eps: float | None = None,
    ) -> None:
        kind, sides = (nn.Conv2d, kernel_size // 2) if padding is None else (SameConv2d, 0)
        layers: list[nn.Module] = [
            kind(in_channels, out_channels, kernel_size, stride, sides, groups=groups, bias=bias),
            nn.BatchNorm2d(out_channels, eps=eps or BATCH_NORM_EPS),
        ]
        if activation is not None:
            layers.append(activation_module(activation))
        super().__init__(*layers)

    @property
    def conv(self) -> nn.Conv2d:
        """The convolution."""
        layer = self[0]
        assert isinstance(layer, nn.Conv2d)
        return layer

    @property
    def norm(self) -> nn.BatchNorm2d:
        """The batch norm."""
        layer = self[1]
        assert isinstance(layer, nn.BatchNorm2d)
        return layer


def gate_module(name: str | None) -> nn.Module:
    """What makes a factor from 0 to 1: a hard sigmoid (MobileNetV3, section 5.3), or ``sigmoid`` (arXiv 1709.01507)."""
    return nn.Sigmoid() if name == "sigmoid" else nn.Hardsigmoid()


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate of two 1x1 convolutions on the channel means."""

    def __init__(self, channels: int, squeezed_channels: int, activation: str, gate: str | None = None) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed_channels, 1)
        self.activation = activation_module(activation)
        self.expand = nn.Conv2d(squeezed_channels, channels, 1)
        self.gate = gate_module(gate)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        gate: Tensor = self.gate(self.expand(self.activation(self.reduce(self.pool(features)))))
        return features * gate
