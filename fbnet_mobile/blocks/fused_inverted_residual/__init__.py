"""The inverted residual with expansion and depthwise convolution in one, of EfficientNet-EdgeTPU and EfficientNetV2."""

from fbnet_mobile.blocks.fused_inverted_residual.shape import FusedInvertedResidual

__all__ = ["FusedInvertedResidual"]
