"""The module of a ``Head``."""

from torch import Tensor, nn

from fbnet_mobile.blocks.head.shape import Head
from fbnet_mobile.blocks.layers import ConvBNAct, activation_module


class HeadModule(nn.Module):
    """The module of a ``Head``."""

    def __init__(self, block: Head) -> None:
        super().__init__()
        bias, eps, width = bool(block.bias), block.batch_norm_eps, block.pooled_channels
        self.conv = (
            ConvBNAct(block.in_channels, width, activation=block.activation, bias=bias, eps=eps)
            if block.conv_channels is not None
            else nn.Identity()
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden = (
            hidden_layer(width, block.hidden_channels, block) if block.hidden_channels is not None else nn.Identity()
        )
        self.classifier = nn.Linear(block.hidden_channels or width, block.out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels, H, W) to logits (N, classes)."""
        logits: Tensor = self.classifier(self.hidden(self.pool(self.conv(features))).flatten(1))
        return logits


def hidden_layer(width: int, hidden_channels: int, block: Head) -> nn.Sequential:
    """The layer between pool and classifier: (N, width, 1, 1) to (N, hidden_channels, 1, 1)."""
    bias = bool(block.bias or block.hidden_bias)
    if block.hidden_norm:
        return ConvBNAct(width, hidden_channels, activation=block.activation, bias=bias, eps=block.batch_norm_eps)
    return nn.Sequential(nn.Conv2d(width, hidden_channels, 1, bias=bias), activation_module(block.activation))
