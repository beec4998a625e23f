"""Networks as plain validated data: what a block is, how blocks chain, and what they cost in MACs and parameters."""

from fbnet_mobile.arch.architecture import Architecture
from fbnet_mobile.arch.block import (
    Activation,
    Block,
    ConvBlock,
    Convolution,
    Head,
    InvertedResidual,
    block_class,
    round_channels,
)

__all__ = [
    "Activation",
    "Architecture",
    "Block",
    "ConvBlock",
    "Convolution",
    "Head",
    "InvertedResidual",
    "block_class",
    "round_channels",
]
