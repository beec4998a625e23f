"""The inverted residual of MobileNetV2 and V3."""

from fbnet_mobile.blocks.inverted_residual.shape import InvertedResidual

__all__ = ["InvertedResidual"]
