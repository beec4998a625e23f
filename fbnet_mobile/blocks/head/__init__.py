"""The end of a network: pool and classifier."""

from fbnet_mobile.blocks.head.shape import Head

__all__ = ["Head"]
