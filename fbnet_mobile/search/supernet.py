"""The supernet: one network at the widest, in which every choice is a mask or a gate.

A choice between widths is one run at the widest times a sum of column masks weighted by Gumbel-softmax (FBNetV2, arXiv
2004.05565, section 3.1). The masks are multiplied into batch norm's scale and shift or into the weights of the next
convolution, so that they cost no pass over a feature map. A 3x3 kernel is the centre of a larger one, squeeze-excite
and skip are gates, and the input resolution subsamples, runs and spreads back (section 3.2).

With one-hot weights the supernet computes exactly what the network of that assignment computes.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fbnet_mobile.arch import Activation, Block, ConvBlock, Head, InvertedResidual
from fbnet_mobile.errors import UserError
from fbnet_mobile.nn import BATCH_NORM_EPS
from fbnet_mobile.nn.blocks import start_as_identity
from fbnet_mobile.nn.network import initialise
from fbnet_mobile.search.choices import Weights
from fbnet_mobile.space import Option, Position, SearchSpace


def column_masks(widths: Sequence[int], widest: int | None = None) -> Tensor:
    """One row for each width: ones for the channels it has, then zeros. Shape (len(widths), max width)."""
    channels = torch.arange(widest or max(widths))
    return (channels[None, :] < torch.tensor(list(widths))[:, None]).float()


class MaskedBatchNorm(nn.BatchNorm2d):
    """Batch norm whose output channels are scaled by a mask, by scaling its own scale and shift.

    The statistics are those of the unmasked input.
    """

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N, C, H, W) and an optional (C,) mask to (N, C, H, W)."""
        scale, shift = (self.weight, self.bias) if mask is None else (self.weight * mask, self.bias * mask)
        return F.batch_norm(
            features,
            self.running_mean,
            self.running_var,
            scale,
            shift,
            self.training,
            cast(float, self.momentum),
            self.eps,
        )


def mixed_activation(features: Tensor, options: Sequence[Option], weights: Tensor) -> Tensor:
    """The weighted sum of the activations in ``options``; a single one costs what it costs alone."""
    functions: dict[Option, Callable[[Tensor], Tensor]] = {"relu": F.relu, "hswish": F.hardswish}
    if len(options) == 1:
        return functions[options[0]](features)
    total = weights[0] * functions[options[0]](features)
    for weight, option in zip(weights[1:], options[1:], strict=True):
        total = total + weight * functions[option](features)
    return total


class SuperBlock(nn.Module):
    """A position of the supernet: (N, widest in, H, W) and weights to (N, widest out, H', W')."""

    def __init__(self, position: Position, space: SearchSpace) -> None:
        super().__init__()
        self.position = position
        self.variables = {name: space.variables[name] for name in position.names}
        self.own = dict(position.own)

    def blocks(self, *names: str) -> dict[tuple[int, ...], Block]:
        """The block for each combination of option numbers of ``names``, all else at the first option."""
        base: dict[str, Option] = {name: options[0] for name, options in self.variables.items()}
        found = {}
        for index in itertools.product(*(range(len(self.variables[name])) for name in names)):
            chosen = {name: self.variables[name][i] for name, i in zip(names, index, strict=True)}
            block = self.position.block({**base, **chosen})
            assert block is not None, "the first option of a skip is to keep the block"
            found[index] = block
        return found

    def forward(self, features: Tensor, weights: Weights) -> Tensor:
        """See the class."""
        raise NotImplementedError


class SuperConv(SuperBlock):
    """The stem with its width as a mask."""

    def __init__(self, position: Position, space: SearchSpace) -> None:
        super().__init__(position, space)
        self.width = cast(str, position.out_channels)
        blocks = cast(list[ConvBlock], list(self.blocks(self.width).values()))
        widest = max(blocks, key=lambda block: block.out_channels)
        self.stride = widest.stride
        self.conv = nn.Conv2d(
            widest.in_channels,
            widest.out_channels,
            widest.kernel_size,
            widest.stride,
            widest.kernel_size // 2,
            bias=widest.bias,
        )
        self.norm = MaskedBatchNorm(widest.out_channels, eps=BATCH_NORM_EPS)
        self.activation: Activation = widest.activation
        self.register_buffer("masks", column_masks([block.out_channels for block in blocks]), persistent=False)
        self.masks: Tensor

    def forward(self, features: Tensor, weights: Weights) -> Tensor:
        """Images to masked features."""
        out = mixed_activation(self.norm(self.conv(features)), [self.activation], features)
        if len(self.masks) == 1:
            return out
        return out * (weights[self.width] @ self.masks)[:, None, None]


class SuperInvertedResidual(SuperBlock):
    """An inverted residual at its widest in which width, expansion, kernel, SE, activation and skip are weighted."""

    def __init__(self, position: Position, space: SearchSpace) -> None:
        super().__init__(position, space)
        self.input, self.output = cast(str, position.in_channels), cast(str, position.out_channels)
        ratio, kernel, excite = (self.own[name] for name in ("expansion_ratio", "kernel_size", "squeeze_excite"))
        self.ratio, self.kernel, self.excite = ratio, kernel, excite
        self.in_widths = cast(tuple[int, ...], self.variables[self.input])
        self.out_widths = cast(tuple[int, ...], self.variables[self.output])
        self.activations = self.variables[self.own["activation"]]
        widest_in, widest_out = max(self.in_widths), max(self.out_widths)

        shapes = cast(dict[tuple[int, ...], InvertedResidual], self.blocks(self.input, ratio))
        grid = (len(self.in_widths), len(self.variables[ratio]))
        middles = [block.depthwise_channels for block in shapes.values()]
        widest = max(middles)
        self.stride = next(iter(shapes.values())).stride
        self._constant("middle_masks", column_masks(middles).reshape(*grid, widest))
        self._constant("out_masks", column_masks(self.out_widths))
        direct = [float(block.expanded_channels is None) for block in shapes.values()]
        self._constant("direct", torch.tensor(direct).reshape(grid)[0])

        self.expand = nn.Conv2d(widest_in, widest, 1, bias=False) if not all(direct) else None
        self.expand_norm = MaskedBatchNorm(widest, eps=BATCH_NORM_EPS) if not all(direct) else None
        kernels = cast(tuple[int, ...], self.variables[kernel])
        self.depthwise = nn.Conv2d(
            widest, widest, max(kernels), self.stride, max(kernels) // 2, groups=widest, bias=False
        )
        self._constant("kernel_masks", torch.stack([_centre(size, max(kernels)) for size in kernels]))
        self.depthwise_norm = MaskedBatchNorm(widest, eps=BATCH_NORM_EPS)

        excite_options = self.variables[excite]
        self._constant("excite_on", torch.tensor([float(option) for option in excite_options]))
        self.squeeze: nn.Conv2d | None = None
        if any(excite_options):
            on = excite_options.index(True)
            squeezed = cast(
                list[InvertedResidual],
                [block for index, block in self.blocks(self.input, ratio, excite).items() if index[2] == on],
            )
            widths = [cast(int, block.se_channels) for block in squeezed]
            self.squeeze = nn.Conv2d(widest, max(widths), 1)
            self.unsqueeze = nn.Conv2d(max(widths), widest, 1)
            self._constant("squeeze_masks", column_masks(widths).reshape(*grid, max(widths)))
        self.project = nn.Conv2d(widest, widest_out, 1, bias=False)
        self.project_norm = MaskedBatchNorm(widest_out, eps=BATCH_NORM_EPS)
        if self.input == self.output:
            start_as_identity(self.project_norm)
        same = [[float(i == o) for o in self.out_widths] for i in self.in_widths]
        self._constant("same_width", torch.tensor(same))

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    def __getattr__(self, name: str) -> Any:  # buffers are tensors, which nn.Module's own signature does not say
        return super().__getattr__(name)

    def forward(self, features: Tensor, weights: Weights) -> Tensor:
        """(N, widest in, H, W), already masked to the input's width, to (N, widest out, H', W')."""
        joint = weights[self.input][:, None] * weights[self.ratio][None, :]
        mask = torch.einsum("ie,iec->c", joint, self.middle_masks)
        activation = weights[self.own["activation"]]

        out = self._expanded(features, weights, activation)
        kernel = torch.einsum("k,kyx->yx", weights[self.kernel], self.kernel_masks)
        out = F.conv2d(
            out,
            self.depthwise.weight * kernel,
            None,
            self.stride,
            self.depthwise.padding,
            groups=self.depthwise.groups,
        )
        out = mixed_activation(self.depthwise_norm(out), self.activations, activation)
        if self.squeeze is not None:
            out = out * self._gate(out, mask, joint, weights, activation)
        out = F.conv2d(out, self.project.weight * mask[:, None, None])

        keep: Tensor | float = 1.0
        if self.position.skip is not None:
            keep = weights[self.position.skip][0]
        out = self.project_norm(out, keep * (weights[self.output] @ self.out_masks))
        return self._with_residual(out, features, weights)

    def _expanded(self, features: Tensor, weights: Weights, activation: Tensor) -> Tensor:
        widest = self.depthwise.in_channels
        if self.expand is None or self.expand_norm is None:
            return _fit_channels(features, widest)
        out = mixed_activation(self.expand_norm(self.expand(features)), self.activations, activation)
        if not self.direct.any():
            return out
        direct: Tensor = weights[self.ratio] @ self.direct
        return (1 - direct) * out + direct * _fit_channels(features, widest)

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
        return out + same * _fit_channels(features, out.shape[1])


class SuperHead(SuperBlock):
    """The head with the width before its pool as a mask."""

    def __init__(self, position: Position, space: SearchSpace) -> None:
        super().__init__(position, space)
        width_in, self.width = cast(str, position.in_channels), self.own["conv_channels"]
        blocks = cast(dict[tuple[int, ...], Head], self.blocks(width_in, self.width))
        widest = max(blocks.values(), key=lambda block: (block.in_channels, block.conv_channels))
        self.conv = nn.Conv2d(widest.in_channels, widest.conv_channels, 1, bias=False)
        self.norm = MaskedBatchNorm(widest.conv_channels, eps=BATCH_NORM_EPS)
        self.activation: Activation = widest.activation
        self.hidden = (
            nn.Conv2d(widest.conv_channels, widest.hidden_channels, 1, bias=False) if widest.hidden_channels else None
        )
        self.classifier = nn.Linear(widest.hidden_channels or widest.conv_channels, widest.out_channels)
        self.register_buffer("masks", column_masks(cast(Sequence[int], self.variables[self.width])), persistent=False)
        self.masks: Tensor

    def forward(self, features: Tensor, weights: Weights) -> Tensor:
        """Features to logits (N, classes)."""
        out = mixed_activation(self.norm(self.conv(features)), [self.activation], features)
        out = out.mean((2, 3), keepdim=True) * (weights[self.width] @ self.masks)[:, None, None]
        if self.hidden is not None:
            out = mixed_activation(self.hidden(out), [self.activation], out)
        logits: Tensor = self.classifier(out.flatten(1))
        return logits


_SUPERBLOCKS: dict[type[Block], type[SuperBlock]] = {
    ConvBlock: SuperConv,
    InvertedResidual: SuperInvertedResidual,
    Head: SuperHead,
}


class Supernet(nn.Module):
    """Every network of a space at once: images and weights to logits.

    Raises:
        UserError: the space has a kind of block for which there is no masked form.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        first = space.first()
        parts = []
        for position in space.positions:
            block = position.block(first)
            assert block is not None, "the first option of a skip is to keep the block"
            if type(block) not in _SUPERBLOCKS:
                raise UserError(f"space {space.name}: blocks of kind {block.kind!r} cannot be searched")
            parts.append(_SUPERBLOCKS[type(block)](position, space))
        self.parts = nn.ModuleList(parts)
        initialise(self)

    def forward(self, images: Tensor, weights: Weights) -> Tensor:
        """(N, 3, R, R) at the largest resolution, and one weight for each option, to (N, classes).

        For each input resolution the features are subsampled by nearest neighbour, run through the block and spread
        back over the large grid with zeros between. A resolution whose weight is exactly zero is not run.
        """
        resolutions = self.space.resolution
        if len(resolutions) == 1:
            features = images
            for part in self.parts:
                features = part(features, weights)
            return features
        running = [i for i, weight in enumerate(weights["resolution"].tolist()) if weight != 0]
        features = images
        grids = dict.fromkeys(running, images.shape[-1])  # the size of the small map before the current block
        for i in running:
            grids[i] = resolutions[i]
        for part in self.parts:
            total: Tensor | None = None
            large = features.shape[-1]
            for i in running:
                small = features[..., _nearest(grids[i], large), :][..., _nearest(grids[i], large)]
                out = part(small, weights)
                if out.dim() == 4:
                    grids[i] = out.shape[-1]
                    out = _spread(out, -(-large // cast(int, part.stride)))
                out = weights["resolution"][i] * out
                total = out if total is None else total + out
            assert total is not None
            features = total
        return features


def _nearest(small: int, large: int) -> Tensor:
    """Indices into ``large`` of the ``small`` samples that nearest-neighbour subsampling keeps."""
    return torch.div(torch.arange(small) * large, small, rounding_mode="floor")


def _spread(features: Tensor, large: int) -> Tensor:
    """Put each value back at the place ``_nearest`` took it from, zeros elsewhere."""
    index = _nearest(features.shape[-1], large).to(features.device)
    out = features.new_zeros(*features.shape[:2], large, large)
    out[..., index[:, None], index[None, :]] = features
    return out


def _fit_channels(features: Tensor, channels: int) -> Tensor:
    """Cut or zero-pad the channels of (N, C, H, W)."""
    if features.shape[1] >= channels:
        return features[:, :channels]
    return F.pad(features, (0, 0, 0, 0, 0, channels - features.shape[1]))


def _centre(size: int, largest: int) -> Tensor:
    """A (largest, largest) mask of ones on the centre ``size`` x ``size``."""
    mask, edge = torch.zeros(largest, largest), (largest - size) // 2
    mask[edge : largest - edge, edge : largest - edge] = 1
    return mask
