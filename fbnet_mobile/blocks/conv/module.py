"""The module of a ``ConvBlock``."""

from torch import Tensor

from fbnet_mobile.blocks.conv.shape import ConvBlock
from fbnet_mobile.blocks.layers import ConvBNAct


class ConvModule(ConvBNAct):
    """The module of a ``ConvBlock``."""

    def __init__(self, block: ConvBlock) -> None:
        super().__init__(
            block.in_channels,
            block.out_channels,
            block.kernel_size,
            block.stride,
            activation=block.activation,
            bias=block.bias,
            padding=block.padding,
            eps=block.batch_norm_eps,
        )
        self.residual = bool(block.residual)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as PyTorch calls it
        """(N, in_channels, H, W) to (N, out_channels, H', W')."""
        out = input
        for layer in self:
            out = layer(out)
        return input + out if self.residual else out
