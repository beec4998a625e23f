"""Layers that modules of several kinds are made of."""

from torch import Tensor, nn

from fbnet_mobile.arch.fields import ACTIVATIONS

BATCH_NORM_EPS = 1e-5


def activation_module(name: str) -> nn.Module:
    """The module of an activation.

    Raises:
        UserError: there is none of that name; lists those that there are.
    """
    return ACTIVATIONS.get(name)()


def start_as_identity(last_norm: nn.BatchNorm2d) -> None:
    """Make a residual block add nothing at first, by a scale of 0, as the published FBNetV2 networks start."""
    nn.init.zeros_(last_norm.weight)


class ConvBNAct(nn.Sequential):
    """Convolution padded by k // 2, batch norm, and an activation unless it is None."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: str | None = None,
        bias: bool = False,
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=bias),
            nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPS),
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


class SqueezeExcite(nn.Module):
    """Scale each channel by a hard sigmoid of two 1x1 convolutions on the channel means (MobileNetV3, section 5.3)."""

    def __init__(self, channels: int, squeezed_channels: int, activation: str) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed_channels, 1)
        self.activation = activation_module(activation)
        self.expand = nn.Conv2d(squeezed_channels, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        gate: Tensor = self.gate(self.expand(self.activation(self.reduce(self.pool(features)))))
        return features * gate
