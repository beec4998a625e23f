"""PyTorch modules of the blocks, and the network that an architecture describes."""

from fbnet_mobile.blocks.layers import (
    BATCH_NORM_EPS,
    ConvBNAct,
    HeadModule,
    InvertedResidualModule,
    SqueezeExcite,
    activation_module,
    build_block,
    register_block,
)
from fbnet_mobile.blocks.network import Network, build, calibrate_batch_norm, restore

__all__ = [
    "BATCH_NORM_EPS",
    "ConvBNAct",
    "HeadModule",
    "InvertedResidualModule",
    "Network",
    "SqueezeExcite",
    "activation_module",
    "build",
    "build_block",
    "calibrate_batch_norm",
    "register_block",
    "restore",
]
