"""The masked form of a ``ConvBlock``."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fbnet_mobile.blocks.conv.module import ConvModule
from fbnet_mobile.blocks.conv.shape import ConvBlock
from fbnet_mobile.blocks.masks import (
    SuperBlock,
    Weights,
    column_masks,
    convolve,
    copy_conv,
    kernel_masks,
    masked_norm,
    mixed_activation,
)
from fbnet_mobile.space import Option, Position


class MaskedConv(SuperBlock):
    """A convolution with its width as a mask, the kernel as its centre, and mixed activations."""

    masks: Tensor
    kernel_masks: Tensor

    def __init__(self, position: Position) -> None:
        super().__init__(position)
        assert isinstance(position.out_channels, str)
        self.width, self.kernel = position.out_channels, self.own.get("kernel_size")
        names = [name for name in (position.in_channels, self.width, self.kernel) if isinstance(name, str)]
        blocks = list(self.blocks(ConvBlock, *dict.fromkeys(names)).values())
        widest_in, widest = max(block.in_channels for block in blocks), max(block.out_channels for block in blocks)
        size = max(block.kernel_size for block in blocks)
        self.stride, self.padding = blocks[0].stride, blocks[0].padding
        self.conv = nn.Conv2d(widest_in, widest, size, self.stride, size // 2, bias=blocks[0].bias)
        self.norm = masked_norm(widest, blocks[0].batch_norm_eps)
        self.activation = self.own.get("activation")
        self.activations = position.texts(self.activation) if self.activation else (blocks[0].activation,)
        self.constant("masks", column_masks(position.widths(self.width)))
        self.adds = bool(self.position.only("residual")) and self.stride == 1
        if self.adds:
            self.prepare_residual()
        if self.kernel is not None:
            self.constant("kernel_masks", kernel_masks(position.widths(self.kernel)))

    def forward(self, features: Tensor, weights: Weights) -> Tensor:
        """See ``SuperBlock``."""
        weight = self.conv.weight
        if self.kernel is not None:
            weight = weight * torch.einsum("k,kyx->yx", weights[self.kernel], self.kernel_masks)
        out = convolve(features, weight, self.conv.bias, self.stride, self.padding)
        mask = weights[self.width] @ self.masks if len(self.masks) > 1 else None
        out = mixed_activation(self.norm(out), self.activations, weights[self.activation] if self.activation else out)
        if mask is not None:
            out = out * mask[:, None, None]
        if self.adds:
            out = self.with_residual(out, features, weights)
        return self.or_skipped(out, features, weights)

    def freeze(self, assignment: Mapping[str, Option]) -> nn.Module:
        """See ``SuperBlock``."""
        module = ConvModule(self.chosen(ConvBlock, assignment))
        copy_conv(module, self.conv, self.norm)
        return module
