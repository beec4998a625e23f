"""The masked form of a ``Head``."""

from collections.abc import Mapping

from torch import Tensor, nn

from fbnet_mobile.blocks.head.module import HeadModule
from fbnet_mobile.blocks.head.shape import Head
from fbnet_mobile.blocks.layers import ConvBNAct
from fbnet_mobile.blocks.masks import (
    MaskedBatchNorm,
    SuperBlock,
    Weights,
    column_masks,
    copy_conv,
    copy_norm,
    copy_slice,
    masked_norm,
    mixed_activation,
)
from fbnet_mobile.space import Option, Position


class MaskedHead(SuperBlock):
    """The head with the widths before and after its pool as masks."""

    masks: Tensor
    hidden_masks: Tensor
    norm: MaskedBatchNorm

    def __init__(self, position: Position) -> None:
        super().__init__(position)
        self.width, self.hidden_width = self.own.get("conv_channels"), self.own.get("hidden_channels")
        names = [name for name in (position.in_channels, self.width, self.hidden_width) if isinstance(name, str)]
        blocks = list(self.blocks(Head, *names).values())
        first, widest = blocks[0], max(block.pooled_channels for block in blocks)
        widest_hidden = max(block.hidden_channels or 0 for block in blocks)
        self.stride = 1
        self.conv: nn.Conv2d | None = None
        if self.width is not None:
            self.conv = nn.Conv2d(max(block.in_channels for block in blocks), widest, 1, bias=bool(first.bias))
            self.norm = masked_norm(widest, first.batch_norm_eps)
            self.constant("masks", column_masks(position.widths(self.width)))
        self.activations = (first.activation,)
        self.hidden: nn.Conv2d | None = None
        self.hidden_norm: MaskedBatchNorm | None = None
        if self.hidden_width is not None:
            self.hidden = nn.Conv2d(widest, widest_hidden, 1, bias=bool(first.bias or first.hidden_bias))
            if first.hidden_norm:
                self.hidden_norm = masked_norm(widest_hidden, first.batch_norm_eps)
            self.constant("hidden_masks", column_masks(position.widths(self.hidden_width)))
        self.classifier = nn.Linear(widest_hidden or widest, first.out_channels)

    def forward(self, features: Tensor, weights: Weights) -> Tensor:
        """Features to logits (N, classes)."""
        out = features
        if self.conv is not None:
            out = mixed_activation(self.norm(self.conv(out)), self.activations, out)
        out = out.mean((2, 3), keepdim=True)
        if self.width is not None:
            out = out * (weights[self.width] @ self.masks)[:, None, None]
        if self.hidden is not None and self.hidden_width is not None:
            out = self.hidden(out)
            if self.hidden_norm is not None:
                out = self.hidden_norm(out)
            out = mixed_activation(out, self.activations, out)
            out = out * (weights[self.hidden_width] @ self.hidden_masks)[:, None, None]
        logits: Tensor = self.classifier(out.flatten(1))
        return logits

    def freeze(self, assignment: Mapping[str, Option]) -> nn.Module:
        """See ``SuperBlock``."""
        module = HeadModule(self.chosen(Head, assignment))
        if self.conv is not None:
            assert isinstance(module.conv, ConvBNAct)
            copy_conv(module.conv, self.conv, self.norm)
        if self.hidden is not None:
            assert isinstance(module.hidden, nn.Sequential)
            layer, *rest = module.hidden
            assert isinstance(layer, nn.Conv2d)
            copy_slice(layer, self.hidden)
            if self.hidden_norm is not None:
                assert isinstance(rest[0], nn.BatchNorm2d)
                copy_norm(rest[0], self.hidden_norm)
        copy_slice(module.classifier, self.classifier)
        return module
