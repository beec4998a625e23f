"""Convolution, batch norm and activation."""

from fbnet_mobile.blocks.conv.shape import ConvBlock

__all__ = ["ConvBlock"]
