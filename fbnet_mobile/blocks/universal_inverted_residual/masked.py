"""The masked form of a ``UniversalInvertedResidual``."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fbnet_mobile.blocks.layers import ConvBNAct, start_as_identity
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
from fbnet_mobile.blocks.universal_inverted_residual.module import UniversalInvertedResidualModule
from fbnet_mobile.blocks.universal_inverted_residual.shape import UniversalInvertedResidual
from fbnet_mobile.space import Option, Position


class _Depthwise(nn.Module):
    """A depthwise convolution and batch norm that may be any of some kernel sizes, or, for a size of 0, not there."""

    kernel_masks: Tensor
    there: Tensor

    def __init__(
        self, channels: int, sizes: Sequence[int], stride: int, padding: str | None, eps: float | None
    ) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        self.always = 0 not in sizes
        masks = kernel_masks([max(size, 1) for size in sizes])
        there = torch.tensor([float(size > 0) for size in sizes])
        self.register_buffer("kernel_masks", masks * there[:, None, None], persistent=False)
        self.register_buffer("there", there, persistent=False)
        self.conv = nn.Conv2d(channels, channels, max(sizes), stride, groups=channels, bias=False)
        self.norm = masked_norm(channels, eps)

    def forward(
        self, features: Tensor, weights: Tensor, mask: Tensor | None, activations: tuple[Sequence[str], Tensor] | None
    ) -> Tensor:
        """(N, C, H, W), a weight for each size, a mask of the channels, and activations with their weights."""
        kernels = self.conv.weight * torch.einsum("k,kyx->yx", weights, self.kernel_masks)
        out = convolve(features, kernels, None, self.stride, self.padding, groups=len(kernels))
        out = self.norm(out, mask)
        if activations is not None:
            out = mixed_activation(out, *activations)
        if self.always:
            return out
        there: Tensor = weights @ self.there
        return there * out + (1 - there) * features

    def freeze(self, into: nn.Module) -> None:
        """Give a stand-alone one, if it is there, these weights."""
        if isinstance(into, ConvBNAct):
            copy_conv(into, self.conv, self.norm)


class MaskedUniversalInvertedResidual(SuperBlock):
    """The widest block, in which width, expansion, kernels, activation and skip are weighted."""

    middle_masks: Tensor
    in_masks: Tensor
    out_masks: Tensor

    def __init__(self, position: Position) -> None:
        super().__init__(position)
        assert isinstance(position.in_channels, str)
        assert isinstance(position.out_channels, str)
        self.input, self.output, self.activation = position.in_channels, position.out_channels, self.own["activation"]
        self.ratio, self.activations = self.own["expansion_ratio"], position.texts(self.activation)
        shapes = self.blocks(UniversalInvertedResidual, self.input, self.ratio)
        first, middles = next(iter(shapes.values())), [block.expanded_channels for block in shapes.values()]
        in_widths, out_widths = position.widths(self.input), position.widths(self.output)
        self.stride, eps = first.stride, first.batch_norm_eps
        self.constant(
            "middle_masks", column_masks(middles).reshape(len(in_widths), len(self.variables[self.ratio]), max(middles))
        )
        self.constant("in_masks", column_masks(in_widths))
        self.constant("out_masks", column_masks(out_widths))

        def depthwise(choice: str, channels: int, stride: int = 1) -> _Depthwise | None:
            sizes = position.widths(self.own[choice]) if choice in self.own else (0,)
            padding = first.padding if stride != 1 else None
            return _Depthwise(channels, sizes, stride, padding, eps) if any(sizes) else None

        self.start = depthwise("start_kernel_size", max(in_widths))
        self.expand = nn.Conv2d(max(in_widths), max(middles), 1, bias=False)
        self.expand_norm = masked_norm(max(middles), eps)
        self.middle = depthwise("middle_kernel_size", max(middles), self.stride)
        self.project = nn.Conv2d(max(middles), max(out_widths), 1, bias=False)
        self.project_norm = masked_norm(max(out_widths), eps)
        self.end = depthwise("end_kernel_size", max(out_widths))
        self.adds = self.stride == 1 and not first.no_residual
        if self.adds:
            self.prepare_residual()
            if self.input == self.output:
                start_as_identity(self.end.norm if self.end is not None and self.end.always else self.project_norm)

    def forward(self, features: Tensor, weights: Weights) -> Tensor:
        """See ``SuperBlock``."""
        joint = weights[self.input][:, None] * weights[self.ratio][None, :]
        mask = torch.einsum("ie,iec->c", joint, self.middle_masks)
        out_mask = weights[self.output] @ self.out_masks
        activations = (self.activations, weights[self.activation])
        out = features
        if self.start is not None:
            in_mask = weights[self.input] @ self.in_masks
            out = self.start(out, weights[self.own["start_kernel_size"]], in_mask, None)
        out = mixed_activation(self.expand_norm(self.expand(out)), *activations)
        if self.middle is not None:
            out = self.middle(out, weights[self.own["middle_kernel_size"]], None, activations)
        out = self.project_norm(F.conv2d(out, self.project.weight * mask[:, None, None]), out_mask)
        if self.end is not None:
            out = self.end(out, weights[self.own["end_kernel_size"]], out_mask, None)
        return self.or_skipped(self.with_residual(out, features, weights) if self.adds else out, features, weights)

    def freeze(self, assignment: Mapping[str, Option]) -> nn.Module:
        """See ``SuperBlock``."""
        module = UniversalInvertedResidualModule(self.chosen(UniversalInvertedResidual, assignment))
        for depthwise, into in ((self.start, module.start), (self.middle, module.middle), (self.end, module.end)):
            if depthwise is not None:
                depthwise.freeze(into)
        copy_conv(module.expand, self.expand, self.expand_norm)
        copy_conv(module.project, self.project, self.project_norm)
        return module
