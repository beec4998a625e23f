"""The universal inverted residual of MobileNetV4."""

from fbnet_mobile.blocks.universal_inverted_residual.shape import UniversalInvertedResidual

__all__ = ["UniversalInvertedResidual"]
