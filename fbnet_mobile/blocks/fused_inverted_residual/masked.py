"""The masked form of a ``FusedInvertedResidual``."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fbnet_mobile.blocks.fused_inverted_residual.module import FusedInvertedResidualModule
from fbnet_mobile.blocks.fused_inverted_residual.shape import FusedInvertedResidual
from fbnet_mobile.blocks.layers import SqueezeExcite, start_as_identity
from fbnet_mobile.blocks.masks import (
    MaskedSqueezeExcite,
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


class MaskedFusedInvertedResidual(SuperBlock):
    """The widest block, in which width, expansion, kernel, squeeze-excite, activation and skip are weighted."""

    middle_masks: Tensor
    out_masks: Tensor
    kernel_masks: Tensor

    def __init__(self, position: Position) -> None:
        super().__init__(position)
        assert isinstance(position.in_channels, str)
        assert isinstance(position.out_channels, str)
        self.input, self.output, self.activation = position.in_channels, position.out_channels, self.own["activation"]
        ratio, kernel, excite = (self.own[name] for name in ("expansion_ratio", "kernel_size", "squeeze_excite"))
        self.ratio, self.kernel, self.activations = ratio, kernel, position.texts(self.activation)
        shapes = self.blocks(FusedInvertedResidual, self.input, ratio)
        first, middles = next(iter(shapes.values())), [block.expanded_channels for block in shapes.values()]
        in_widths, out_widths, sizes = (position.widths(name) for name in (self.input, self.output, kernel))
        grid, widest = (len(in_widths), len(self.variables[ratio])), max(middles)
        self.stride, self.padding = first.stride, first.padding
        self.constant("middle_masks", column_masks(middles).reshape(*grid, widest))
        self.constant("out_masks", column_masks(out_widths))
        self.constant("kernel_masks", kernel_masks(sizes))
        self.expand = nn.Conv2d(max(in_widths), widest, max(sizes), self.stride, bias=False)
        self.expand_norm = masked_norm(widest, first.batch_norm_eps)
        self.squeeze_excite: MaskedSqueezeExcite | None = None
        if True in self.variables[excite]:
            on = self.variables[excite].index(True)
            every = self.blocks(FusedInvertedResidual, self.input, ratio, excite)
            widths = [block.se_channels or 0 for index, block in every.items() if index[2] == on]
            self.squeeze_excite = MaskedSqueezeExcite(position, widths, widest, grid)
        self.project = nn.Conv2d(widest, max(out_widths), 1, bias=False)
        self.project_norm = masked_norm(max(out_widths), first.batch_norm_eps)
        self.adds = self.stride == 1 and not first.no_residual
        if self.adds:
            self.prepare_residual()
            if self.input == self.output:
                start_as_identity(self.project_norm)

    def forward(self, features: Tensor, weights: Weights) -> Tensor:
        """See ``SuperBlock``."""
        joint = weights[self.input][:, None] * weights[self.ratio][None, :]
        mask = torch.einsum("ie,iec->c", joint, self.middle_masks)
        kernel = torch.einsum("k,kyx->yx", weights[self.kernel], self.kernel_masks)
        out = self.expand_norm(convolve(features, self.expand.weight * kernel, None, self.stride, self.padding))
        out = mixed_activation(out, self.activations, weights[self.activation])
        if self.squeeze_excite is not None:
            out = self.squeeze_excite(out, mask, joint, weights, (self.activations, weights[self.activation]))
        out = F.conv2d(out, self.project.weight * mask[:, None, None])
        out = self.project_norm(out, weights[self.output] @ self.out_masks)
        return self.or_skipped(self.with_residual(out, features, weights) if self.adds else out, features, weights)

    def freeze(self, assignment: Mapping[str, Option]) -> nn.Module:
        """See ``SuperBlock``."""
        module = FusedInvertedResidualModule(self.chosen(FusedInvertedResidual, assignment))
        copy_conv(module.expand, self.expand, self.expand_norm)
        if isinstance(module.squeeze_excite, SqueezeExcite):
            assert self.squeeze_excite is not None
            self.squeeze_excite.freeze(module.squeeze_excite)
        copy_conv(module.project, self.project, self.project_norm)
        return module
