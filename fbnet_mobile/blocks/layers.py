"""The module of each kind of block, and the registry through which a user's own block takes part."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

from fbnet_mobile.arch import Activation, Block, ConvBlock, Head, InvertedResidual
from fbnet_mobile.errors import UserError

BATCH_NORM_EPS = 1e-5

_MODULES: dict[type[Block], Callable[[Any], nn.Module]] = {}
BlockT = TypeVar("BlockT", bound=Block)


def register_block(block: type[BlockT], build: Callable[[BlockT], nn.Module]) -> None:
    """Say how a kind of block becomes a module; a search space can then name it in ``block:``.

    Args:
        block: a subclass of ``Block`` with a ``kind`` of its own.
        build: makes the module for one block: (N, in_channels, H, W) to (N, out_channels, H', W').
    """
    _MODULES[block] = build


def build_block(block: Block) -> nn.Module:
    """The freshly initialised module of a block.

    Raises:
        UserError: the kind of block was never registered.
    """
    if type(block) not in _MODULES:
        raise UserError(f"no module is known for blocks of kind {block.kind!r}; call register_block for it first")
    return _MODULES[type(block)](block)


def activation_module(name: Activation) -> nn.Module:
    """ReLU or hard swish (MobileNetV3, arXiv 1905.02244, section 5.2)."""
    return nn.ReLU() if name == "relu" else nn.Hardswish()


def start_as_identity(last_norm: nn.Module) -> None:
    """Make a residual block add nothing at first, by a scale of 0, as the published FBNetV2 networks start."""
    assert isinstance(last_norm, nn.BatchNorm2d)
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
        activation: Activation | None = None,
        bias: bool = False,
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=bias),
            nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPS),
        ]
        if activation is not None:
            layers.append(activation_module(activation))
        super().__init__(*layers)


class SqueezeExcite(nn.Module):
    """Scale each channel by a hard sigmoid of two 1x1 convolutions on the channel means (MobileNetV3, section 5.3)."""

    def __init__(self, channels: int, squeezed_channels: int, activation: Activation) -> None:
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


class InvertedResidualModule(nn.Module):
    """The module of an ``InvertedResidual``."""

    def __init__(self, block: InvertedResidual) -> None:
        super().__init__()
        width, groups, bias = block.depthwise_channels, block.groups or 1, bool(block.bias)
        self.expand = (
            ConvBNAct(block.in_channels, width, groups=groups, activation=block.activation, bias=bias)
            if block.expanded_channels is not None
            else nn.Identity()
        )
        self.shuffle = nn.ChannelShuffle(groups) if groups > 1 else nn.Identity()
        self.depthwise = ConvBNAct(
            width, width, block.kernel_size, block.stride, groups=width, activation=block.activation, bias=bias
        )
        self.squeeze_excite = (
            SqueezeExcite(width, block.se_channels, block.activation)
            if block.se_channels is not None
            else nn.Identity()
        )
        self.project = ConvBNAct(width, block.out_channels, groups=groups, bias=bias)
        self.residual = block.residual
        if block.residual:
            start_as_identity(self.project[1])

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H', W')."""
        out: Tensor = self.project(self.squeeze_excite(self.depthwise(self.shuffle(self.expand(features)))))
        return features + out if self.residual else out


class HeadModule(nn.Module):
    """The module of a ``Head``."""

    def __init__(self, block: Head) -> None:
        super().__init__()
        bias = bool(block.bias)
        self.conv = ConvBNAct(block.in_channels, block.conv_channels, activation=block.activation, bias=bias)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden = (
            nn.Sequential(
                nn.Conv2d(block.conv_channels, block.hidden_channels, 1, bias=bias),
                activation_module(block.activation),
            )
            if block.hidden_channels is not None
            else nn.Identity()
        )
        self.classifier = nn.Linear(block.hidden_channels or block.conv_channels, block.out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels, H, W) to logits (N, classes)."""
        logits: Tensor = self.classifier(self.hidden(self.pool(self.conv(features))).flatten(1))
        return logits


register_block(
    ConvBlock,
    lambda block: ConvBNAct(
        block.in_channels,
        block.out_channels,
        block.kernel_size,
        block.stride,
        activation=block.activation,
        bias=block.bias,
    ),
)
register_block(InvertedResidual, InvertedResidualModule)
register_block(Head, HeadModule)
