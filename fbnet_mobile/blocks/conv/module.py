"""The module of a ``ConvBlock``."""

from fbnet_mobile.blocks.conv.shape import ConvBlock
from fbnet_mobile.blocks.layers import ConvBNAct


def conv_module(block: ConvBlock) -> ConvBNAct:
    """Freshly initialised: (N, in_channels, H, W) to (N, out_channels, H', W')."""
    return ConvBNAct(
        block.in_channels,
        block.out_channels,
        block.kernel_size,
        block.stride,
        activation=block.activation,
        bias=block.bias,
    )
