"""The module of a ``Head``."""

from torch import Tensor, nn

from fbnet_mobile.blocks.head.shape import Head
from fbnet_mobile.blocks.layers import ConvBNAct, activation_module


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
