"""The masked form of a ``Head``."""

from collections.abc import Mapping

from torch import Tensor, nn

from fbnet_mobile.blocks.head.module import HeadModule
from fbnet_mobile.blocks.head.shape import Head
from fbnet_mobile.blocks.layers import BATCH_NORM_EPS
from fbnet_mobile.blocks.masks import (
    MaskedBatchNorm,
    SuperBlock,
    Weights,
    column_masks,
    copy_conv,
    copy_slice,
    mixed_activation,
)
from fbnet_mobile.space import Option, Position


class MaskedHead(SuperBlock):
    """The head with the widths before and after its pool as masks."""

    masks: Tensor
    hidden_masks: Tensor

    def __init__(self, position: Position) -> None:
        super().__init__(position)
        self.width, self.hidden_width = self.own["conv_channels"], self.own.get("hidden_channels")
        names = [name for name in (position.in_channels, self.width, self.hidden_width) if isinstance(name, str)]
        blocks = list(self.blocks(Head, *names).values())
        widest_in, widest = max(block.in_channels for block in blocks), max(block.conv_channels for block in blocks)
        widest_hidden = max(block.hidden_channels or 0 for block in blocks)
        self.stride = 1
        self.conv = nn.Conv2d(widest_in, widest, 1, bias=False)
        self.norm = MaskedBatchNorm(widest, eps=BATCH_NORM_EPS)
        self.activations = (blocks[0].activation,)
        self.constant("masks", column_masks(position.widths(self.width)))
        self.hidden: nn.Conv2d | None = None
        if self.hidden_width is not None:
            self.hidden = nn.Conv2d(widest, widest_hidden, 1, bias=False)
            self.constant("hidden_masks", column_masks(position.widths(self.hidden_width)))
        self.classifier = nn.Linear(widest_hidden or widest, blocks[0].out_channels)

    def forward(self, features: Tensor, weights: Weights) -> Tensor:
        """Features to logits (N, classes)."""
        out = mixed_activation(self.norm(self.conv(features)), self.activations, features)
        out = out.mean((2, 3), keepdim=True) * (weights[self.width] @ self.masks)[:, None, None]
        if self.hidden is not None and self.hidden_width is not None:
            out = mixed_activation(self.hidden(out), self.activations, out)
            out = out * (weights[self.hidden_width] @ self.hidden_masks)[:, None, None]
        logits: Tensor = self.classifier(out.flatten(1))
        return logits

    def freeze(self, assignment: Mapping[str, Option]) -> nn.Module:
        """See ``SuperBlock``."""
        module = HeadModule(self.chosen(Head, assignment))
        copy_conv(module.conv, self.conv, self.norm)
        if self.hidden is not None:
            assert isinstance(module.hidden, nn.Sequential)
            hidden = module.hidden[0]
            assert isinstance(hidden, nn.Conv2d)
            copy_slice(hidden, self.hidden)
        copy_slice(module.classifier, self.classifier)
        return module
