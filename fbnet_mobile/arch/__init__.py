"""Networks as plain validated data: what a block is, how blocks chain, and what they cost in MACs and parameters."""

from fbnet_mobile.arch.architecture import Architecture
from fbnet_mobile.arch.block import BLOCKS, Block, Convolution, round_channels

__all__ = ["BLOCKS", "Architecture", "Block", "Convolution", "round_channels"]
