"""The masked form of an ``InvertedResidual``."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fbnet_mobile.blocks.inverted_residual.module import InvertedResidualModule
from fbnet_mobile.blocks.inverted_residual.shape import InvertedResidual
from fbnet_mobile.blocks.layers import ConvBNAct, SqueezeExcite, start_as_identity
from fbnet_mobile.blocks.masks import (
    MaskedSqueezeExcite,
    SuperBlock,
    Weights,
    column_masks,
    convolve,
    copy_conv,
    fit_channels,
    kernel_masks,
    masked_norm,
    mixed_activation,
)
from fbnet_mobile.space import Option, Position


class MaskedInvertedResidual(SuperBlock):
    """An inverted residual at its widest in which width, expansion, kernel, SE, activation and skip are weighted."""

    middle_masks: Tensor
    out_masks: Tensor
    kernel_masks: Tensor
    direct: Tensor

    def __init__(self, position: Position) -> None:
        super().__init__(position)
        assert isinstance(position.in_channels, str)
        assert isinstance(position.out_channels, str)
        self.input, self.output = position.in_channels, position.out_channels
        ratio, kernel, excite = (self.own[name] for name in ("expansion_ratio", "kernel_size", "squeeze_excite"))
        self.ratio, self.kernel = ratio, kernel
        in_widths, out_widths = position.widths(self.input), position.widths(self.output)
        self.activation = self.own["activation"]
        self.activations = position.texts(self.activation)

        shapes = self.blocks(InvertedResidual, self.input, ratio)
        grid = (len(in_widths), len(self.variables[ratio]))
        middles = [block.depthwise_channels for block in shapes.values()]
        widest = max(middles)
        first = next(iter(shapes.values()))
        self.stride, self.padding = first.stride, first.padding
        self.constant("middle_masks", column_masks(middles).reshape(*grid, widest))
        self.constant("out_masks", column_masks(out_widths))
        direct = [float(block.expanded_channels is None) for block in shapes.values()]
        self.constant("direct", torch.tensor(direct).reshape(grid)[0])

        self.expand = nn.Conv2d(max(in_widths), widest, 1, bias=False) if not all(direct) else None
        self.expand_norm = masked_norm(widest, first.batch_norm_eps) if not all(direct) else None
        kernels = position.widths(kernel)
        self.depthwise = nn.Conv2d(
            widest, widest, max(kernels), self.stride, max(kernels) // 2, groups=widest, bias=False
        )
        self.constant("kernel_masks", kernel_masks(kernels))
        self.depthwise_norm = masked_norm(widest, first.batch_norm_eps)

        self.squeeze_excite: MaskedSqueezeExcite | None = None
        if True in self.variables[excite]:
            on = self.variables[excite].index(True)
            every = self.blocks(InvertedResidual, self.input, ratio, excite)
            widths = [block.se_channels or 0 for index, block in every.items() if index[2] == on]
            self.squeeze_excite = MaskedSqueezeExcite(position, widths, widest, grid)
        self.project = nn.Conv2d(widest, max(out_widths), 1, bias=False)
        self.project_norm = masked_norm(max(out_widths), first.batch_norm_eps)
        self.project_activations = (first.project_activation,) if first.project_activation is not None else None
        self.adds = self.stride == 1 and not first.no_residual
        if self.adds:
            self.prepare_residual()
            if self.input == self.output:
                start_as_identity(self.project_norm)

    def forward(self, features: Tensor, weights: Weights) -> Tensor:
        """(N, widest in, H, W), already masked to the input's width, to (N, widest out, H', W')."""
        joint = weights[self.input][:, None] * weights[self.ratio][None, :]
        mask = torch.einsum("ie,iec->c", joint, self.middle_masks)
        activation = weights[self.activation]

        kernel = torch.einsum("k,kyx->yx", weights[self.kernel], self.kernel_masks)
        out = self._depthwise(features, self.depthwise.weight * kernel, weights, activation)
        out = mixed_activation(self.depthwise_norm(out), self.activations, activation)
        if self.squeeze_excite is not None:
            out = self.squeeze_excite(out, mask, joint, weights, (self.activations, activation))
        out = F.conv2d(out, self.project.weight * mask[:, None, None])

        keep: Tensor | float = 1.0
        if self.position.skip is not None:
            keep = weights[self.position.skip][0]
        mask = keep * (weights[self.output] @ self.out_masks)
        if self.project_activations is None:
            out = self.project_norm(out, mask)
        else:
            out = mixed_activation(self.project_norm(out), self.project_activations, out) * mask[:, None, None]
        return self.with_residual(out, features, weights) if self.adds else out

    def _depthwise(self, features: Tensor, kernels: Tensor, weights: Weights, activation: Tensor) -> Tensor:
        """The depthwise convolution of the expanded features, mixed with those of the input itself (expansion 1)."""
        if self.expand is None or self.expand_norm is None:
            return self._convolve(fit_channels(features, len(kernels)), kernels)
        expanded = mixed_activation(self.expand_norm(self.expand(features)), self.activations, activation)
        if not self.direct.any():
            return self._convolve(expanded, kernels)
        # A convolution is linear: its inputs are mixed by mixing weights, which costs no pass over the widest map.
        direct: Tensor = weights[self.ratio] @ self.direct
        out = self._convolve(expanded, kernels * (1 - direct))
        mixed: Tensor = _AddToFirst.apply(out, self._convolve(features, kernels[: features.shape[1]] * direct))
        return mixed

    def _convolve(self, features: Tensor, kernels: Tensor) -> Tensor:
        return convolve(features, kernels, None, self.stride, self.padding, groups=len(kernels))

    def freeze(self, assignment: Mapping[str, Option]) -> nn.Module:
        """See ``SuperBlock``."""
        module = InvertedResidualModule(self.chosen(InvertedResidual, assignment))
        if isinstance(module.expand, ConvBNAct):
            assert self.expand is not None
            assert self.expand_norm is not None
            copy_conv(module.expand, self.expand, self.expand_norm)
        copy_conv(module.depthwise, self.depthwise, self.depthwise_norm)
        if isinstance(module.squeeze_excite, SqueezeExcite):
            assert self.squeeze_excite is not None
            self.squeeze_excite.freeze(module.squeeze_excite)
        copy_conv(module.project, self.project, self.project_norm)
        return module


class _AddToFirst(torch.autograd.Function):
    """Add fewer channels to the first of more, in place; the gradient of both is a view of the output's."""

    @staticmethod
    def forward(context: Any, more: Tensor, fewer: Tensor) -> Tensor:
        """(N, C, H, W) and (N, c, H, W) with c <= C to (N, C, H, W)."""
        context.channels = fewer.shape[1]
        context.mark_dirty(more)
        more[:, : context.channels] += fewer
        return more

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        return gradient, gradient[:, : context.channels]
