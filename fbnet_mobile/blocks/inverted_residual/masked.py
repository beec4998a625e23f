"""The masked form of an ``InvertedResidual``."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fbnet_mobile.blocks.inverted_residual.module import InvertedResidualModule
from fbnet_mobile.blocks.inverted_residual.shape import InvertedResidual
from fbnet_mobile.blocks.layers import BATCH_NORM_EPS, ConvBNAct, SqueezeExcite, start_as_identity
from fbnet_mobile.blocks.masks import (
    MaskedBatchNorm,
    SuperBlock,
    Weights,
    column_masks,
    copy_conv,
    copy_slice,
    fit_channels,
    kernel_masks,
    mixed_activation,
)
from fbnet_mobile.space import Option, Position


class MaskedInvertedResidual(SuperBlock):
    """An inverted residual at its widest in which width, expansion, kernel, SE, activation and skip are weighted."""

    middle_masks: Tensor
    out_masks: Tensor
    kernel_masks: Tensor
    squeeze_masks: Tensor
    excite_on: Tensor
    direct: Tensor
    same_width: Tensor

    def __init__(self, position: Position) -> None:
        super().__init__(position)
        assert isinstance(position.in_channels, str)
        assert isinstance(position.out_channels, str)
        self.input, self.output = position.in_channels, position.out_channels
        ratio, kernel, excite = (self.own[name] for name in ("expansion_ratio", "kernel_size", "squeeze_excite"))
        self.ratio, self.kernel, self.excite = ratio, kernel, excite
        in_widths, out_widths = position.widths(self.input), position.widths(self.output)
        self.activation = self.own["activation"]
        self.activations = position.texts(self.activation)

        shapes = self.blocks(InvertedResidual, self.input, ratio)
        grid = (len(in_widths), len(self.variables[ratio]))
        middles = [block.depthwise_channels for block in shapes.values()]
        widest = max(middles)
        self.stride = next(iter(shapes.values())).stride
        self.constant("middle_masks", column_masks(middles).reshape(*grid, widest))
        self.constant("out_masks", column_masks(out_widths))
        direct = [float(block.expanded_channels is None) for block in shapes.values()]
        self.constant("direct", torch.tensor(direct).reshape(grid)[0])

        self.expand = nn.Conv2d(max(in_widths), widest, 1, bias=False) if not all(direct) else None
        self.expand_norm = MaskedBatchNorm(widest, eps=BATCH_NORM_EPS) if not all(direct) else None
        kernels = position.widths(kernel)
        self.depthwise = nn.Conv2d(
            widest, widest, max(kernels), self.stride, max(kernels) // 2, groups=widest, bias=False
        )
        self.constant("kernel_masks", kernel_masks(kernels))
        self.depthwise_norm = MaskedBatchNorm(widest, eps=BATCH_NORM_EPS)

        excite_options = self.variables[excite]
        self.constant("excite_on", torch.tensor([float(option) for option in excite_options]))
        self.squeeze: nn.Conv2d | None = None
        if any(excite_options):
            on = excite_options.index(True)
            every = self.blocks(InvertedResidual, self.input, ratio, excite)
            widths = [block.se_channels or 0 for index, block in every.items() if index[2] == on]
            self.squeeze = nn.Conv2d(widest, max(widths), 1)
            self.unsqueeze = nn.Conv2d(max(widths), widest, 1)
            self.constant("squeeze_masks", column_masks(widths).reshape(*grid, max(widths)))
        self.project = nn.Conv2d(widest, max(out_widths), 1, bias=False)
        self.project_norm = MaskedBatchNorm(max(out_widths), eps=BATCH_NORM_EPS)
        if self.input == self.output:
            start_as_identity(self.project_norm)
        same = [[float(i == o) for o in out_widths] for i in in_widths]
        self.constant("same_width", torch.tensor(same))

    def forward(self, features: Tensor, weights: Weights) -> Tensor:
        """(N, widest in, H, W), already masked to the input's width, to (N, widest out, H', W')."""
        joint = weights[self.input][:, None] * weights[self.ratio][None, :]
        mask = torch.einsum("ie,iec->c", joint, self.middle_masks)
        activation = weights[self.activation]

        kernel = torch.einsum("k,kyx->yx", weights[self.kernel], self.kernel_masks)
        out = self._depthwise(features, self.depthwise.weight * kernel, weights, activation)
        out = mixed_activation(self.depthwise_norm(out), self.activations, activation)
        if self.squeeze is not None:
            out = out * self._gate(out, mask, joint, weights, activation)
        out = F.conv2d(out, self.project.weight * mask[:, None, None])

        keep: Tensor | float = 1.0
        if self.position.skip is not None:
            keep = weights[self.position.skip][0]
        out = self.project_norm(out, keep * (weights[self.output] @ self.out_masks))
        return self._with_residual(out, features, weights)

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
        return F.conv2d(features, kernels, None, self.stride, self.depthwise.padding, groups=len(kernels))

    def _gate(self, out: Tensor, mask: Tensor, joint: Tensor, weights: Weights, activation: Tensor) -> Tensor:
        assert self.squeeze is not None
        pooled = out.mean((2, 3), keepdim=True) * mask[:, None, None]
        hidden = mixed_activation(self.squeeze(pooled), self.activations, activation)
        hidden = hidden * torch.einsum("ie,iec->c", joint, self.squeeze_masks)[:, None, None]
        gate = F.hardsigmoid(self.unsqueeze(hidden))
        excited: Tensor = weights[self.excite] @ self.excite_on
        return 1 + excited * (gate - 1)

    def _with_residual(self, out: Tensor, features: Tensor, weights: Weights) -> Tensor:
        if self.stride != 1 or not self.same_width.any():
            return out
        if self.input == self.output:
            return out + features
        same: Tensor = weights[self.input] @ self.same_width @ weights[self.output]
        return out + same * fit_channels(features, out.shape[1])

    def freeze(self, assignment: Mapping[str, Option]) -> nn.Module:
        """See ``SuperBlock``."""
        module = InvertedResidualModule(self.chosen(InvertedResidual, assignment))
        if isinstance(module.expand, ConvBNAct):
            assert self.expand is not None
            assert self.expand_norm is not None
            copy_conv(module.expand, self.expand, self.expand_norm)
        copy_conv(module.depthwise, self.depthwise, self.depthwise_norm)
        if isinstance(module.squeeze_excite, SqueezeExcite):
            assert self.squeeze is not None
            copy_slice(module.squeeze_excite.reduce, self.squeeze)
            copy_slice(module.squeeze_excite.expand, self.unsqueeze)
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
