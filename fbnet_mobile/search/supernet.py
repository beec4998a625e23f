"""The supernet: every network of a space at once, with a weight for each option of each choice.

A choice between widths is one run at the widest times a sum of column masks weighted by Gumbel-softmax (FBNetV2, arXiv
2004.05565, section 3.1). The masks are multiplied into batch norm's scale and shift or into the weights of the next
convolution, so that they cost no pass over a feature map. The input resolution subsamples, runs and spreads back
(section 3.2). For all other choices of a block there are two modes. ``shared``: one block, in which a 3x3 kernel is the
centre of a larger one, activations are mixed, and squeeze-excite is a gate. ``candidates``: as in the paper, one block
of the widest for each combination of them, in parallel.

A kind of block without a masked form runs as ``Paths`` in both modes: a module for each block that it may become.

With one-hot weights the supernet computes exactly what the network of that assignment computes.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from fbnet_mobile.arch import Activation, Block, ConvBlock, Head, InvertedResidual
from fbnet_mobile.blocks import BATCH_NORM_EPS, build_block
from fbnet_mobile.blocks.layers import start_as_identity
from fbnet_mobile.blocks.network import initialise
from fbnet_mobile.search.choices import Weights
from fbnet_mobile.search.recipe import Mode
from fbnet_mobile.space import CANDIDATE, RESOLUTION, Option, Position, SearchSpace


def column_masks(widths: Sequence[int], widest: int | None = None) -> Tensor:
    """One row for each width: ones for the channels it has, then zeros. Shape (len(widths), max width)."""
    channels = torch.arange(widest or max(widths))
    return (channels[None, :] < torch.tensor(list(widths))[:, None]).float()


class _Summed(torch.autograd.Function):
    """The sum of a tensor over all processes, differentiable."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        """Sum the values."""
        value = value.clone()
        distributed.all_reduce(value)
        return value

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        """Sum the gradients: the values of every process went into the sums of all."""
        gradient = gradient.contiguous().clone()
        distributed.all_reduce(gradient)
        return gradient


class MaskedBatchNorm(nn.BatchNorm2d):
    """Batch norm whose output channels are scaled by a mask, by scaling its own scale and shift.

    The statistics are those of the unmasked input, over the images of all processes: PyTorch's own synchronised batch
    norm needs a GPU, and knows no mask.
    """

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """(N, C, H, W) and an optional (C,) mask to (N, C, H, W)."""
        scale, shift = (self.weight, self.bias) if mask is None else (self.weight * mask, self.bias * mask)
        if self.training and distributed.is_initialized() and distributed.get_world_size() > 1:
            return self._synchronised(features, scale, shift)
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

    def _synchronised(self, features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        world, count = distributed.get_world_size(), features.numel() // features.shape[1]
        values = features.float()
        mean = cast(Tensor, _Summed.apply(values.mean((0, 2, 3)))) / world
        # In two passes: the mean of squares less the square of the mean loses digits.
        variance = cast(Tensor, _Summed.apply((values - mean[:, None, None]).square().mean((0, 2, 3)))) / world
        with torch.no_grad():
            total = count * world
            cast(Tensor, self.running_mean).lerp_(mean, cast(float, self.momentum))
            cast(Tensor, self.running_var).lerp_(variance * (total / (total - 1)), cast(float, self.momentum))
        scale = scale * (variance + self.eps).rsqrt()
        return ((values - mean[:, None, None]) * scale[:, None, None] + shift[:, None, None]).to(features.dtype)


def _synchronisable(module: nn.Module) -> nn.Module:
    """The module with each batch norm in it replaced by one whose statistics are those of all processes."""
    if type(module) is nn.BatchNorm2d:
        norm = MaskedBatchNorm(module.num_features, eps=module.eps, momentum=module.momentum)
        norm.load_state_dict(module.state_dict())
        return norm
    for name, child in module.named_children():
        setattr(module, name, _synchronisable(child))
    return module


class _Mixed(torch.autograd.Function):
    """(1 - w) relu(x) + w hswish(x), which keeps x alone for the backward pass, as hard swish by itself does."""

    @staticmethod
    def forward(context: Any, features: Tensor, weight: Tensor) -> Tensor:
        """(N, ...) features, a scalar weight."""
        context.save_for_backward(features, weight)
        mixed, share = torch.empty_like(features), weight.to(features.dtype)
        for part, out in zip(_pieces(features), _pieces(mixed), strict=True):
            torch.clamp_min(part, 0, out=out)
            out.lerp_(F.hardswish(part), share)
        return mixed

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        """The derivatives of both, mixed; for the weight, the difference of the two functions."""
        features, weight = context.saved_tensors
        aten, mixed, share = torch.ops.aten, torch.empty_like(features), weight.to(features.dtype)
        for part, above, out in zip(_pieces(features), _pieces(gradient), _pieces(mixed), strict=True):
            relu, hswish = aten.threshold_backward(above, part, 0), aten.hardswish_backward(above, part)
            torch.lerp(relu, hswish, share, out=out)
        of_weight = None
        if context.needs_input_grad[1]:
            difference = F.hardswish(features).sub_(F.relu(features))
            of_weight = (gradient * difference).sum().to(weight.dtype)
        return mixed, of_weight


def _pieces(features: Tensor) -> tuple[Tensor, ...]:
    """On a CPU, images that fit into its cache together, so that several operations read and write memory once."""
    if features.device.type != "cpu":
        return (features,)
    return torch.split(features, max(1, 2**18 * len(features) // features.numel()))


def mixed_activation(features: Tensor, options: Sequence[Option], weights: Tensor) -> Tensor:
    """The sum of the activations in ``options`` by weights that add up to 1; a single one costs what it costs alone."""
    if len(options) == 1:
        return F.relu(features) if options[0] == "relu" else F.hardswish(features)
    return cast(Tensor, _Mixed.apply(features, weights[options.index("hswish")]))


class SuperBlock(nn.Module):
    """A position of the supernet: (N, widest in, H, W) and weights to (N, widest out, H', W')."""

    stride: int

    def __init__(self, position: Position) -> None:
        super().__init__()
        self.position = position
        self.variables = position.variables
        self.own = position.own

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

    def constant(self, name: str, value: Tensor) -> None:
        """Keep a tensor that follows from the space, so is no part of the state."""
        self.register_buffer(name, value, persistent=False)

    def __getattr__(self, name: str) -> Any:  # buffers are tensors, which nn.Module's own signature does not say
        return super().__getattr__(name)

    def or_skipped(self, out: Tensor, features: Tensor, weights: Weights) -> Tensor:
        """The output, or instead of it the input, as far as the block is skipped."""
        if self.position.skip is None:
            return out
        keep = weights[self.position.skip]
        return keep[0] * out + keep[1] * _fit_channels(features, out.shape[1])

    def forward(self, features: Tensor, weights: Weights) -> Tensor:
        """See the class."""
        raise NotImplementedError


class SuperConv(SuperBlock):
    """A convolution with its width as a mask, the kernel as its centre, and mixed activations."""

    def __init__(self, position: Position) -> None:
        super().__init__(position)
        self.width, self.kernel = cast(str, position.out_channels), self.own.get("kernel_size")
        names = [name for name in (position.in_channels, self.width, self.kernel) if name is not None]
        blocks = cast(list[ConvBlock], list(self.blocks(*dict.fromkeys(names)).values()))
        widest_in, widest = (max(getattr(block, name) for block in blocks) for name in ("in_channels", "out_channels"))
        size = max(block.kernel_size for block in blocks)
        self.stride = blocks[0].stride
        self.conv = nn.Conv2d(widest_in, widest, size, self.stride, size // 2, bias=blocks[0].bias)
        self.norm = MaskedBatchNorm(widest, eps=BATCH_NORM_EPS)
        self.activations = self.variables[self.own["activation"]] if "activation" in self.own else None
        self.activation: Activation = blocks[0].activation
        self.constant("masks", column_masks(cast(Sequence[int], self.variables[self.width])))
        if self.kernel is not None:
            kernels = cast(Sequence[int], self.variables[self.kernel])
            self.constant("kernel_masks", torch.stack([_centre(kernel, size) for kernel in kernels]))

    def forward(self, features: Tensor, weights: Weights) -> Tensor:
        """See the class."""
        weight = self.conv.weight
        if self.kernel is not None:
            weight = weight * torch.einsum("k,kyx->yx", weights[self.kernel], self.kernel_masks)
        out = F.conv2d(features, weight, self.conv.bias, self.stride, self.conv.padding)
        mask = weights[self.width] @ self.masks if len(self.masks) > 1 else None
        out = self.norm(out)
        if self.activations is None:
            out = mixed_activation(out, [self.activation], out)
        else:
            out = mixed_activation(out, self.activations, weights[self.own["activation"]])
        if mask is not None:
            out = out * mask[:, None, None]
        return self.or_skipped(out, features, weights)


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


class SuperInvertedResidual(SuperBlock):
    """An inverted residual at its widest in which width, expansion, kernel, SE, activation and skip are weighted."""

    def __init__(self, position: Position) -> None:
        super().__init__(position)
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
        self.constant("middle_masks", column_masks(middles).reshape(*grid, widest))
        self.constant("out_masks", column_masks(self.out_widths))
        direct = [float(block.expanded_channels is None) for block in shapes.values()]
        self.constant("direct", torch.tensor(direct).reshape(grid)[0])

        self.expand = nn.Conv2d(widest_in, widest, 1, bias=False) if not all(direct) else None
        self.expand_norm = MaskedBatchNorm(widest, eps=BATCH_NORM_EPS) if not all(direct) else None
        kernels = cast(tuple[int, ...], self.variables[kernel])
        self.depthwise = nn.Conv2d(
            widest, widest, max(kernels), self.stride, max(kernels) // 2, groups=widest, bias=False
        )
        self.constant("kernel_masks", torch.stack([_centre(size, max(kernels)) for size in kernels]))
        self.depthwise_norm = MaskedBatchNorm(widest, eps=BATCH_NORM_EPS)

        excite_options = self.variables[excite]
        self.constant("excite_on", torch.tensor([float(option) for option in excite_options]))
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
            self.constant("squeeze_masks", column_masks(widths).reshape(*grid, max(widths)))
        self.project = nn.Conv2d(widest, widest_out, 1, bias=False)
        self.project_norm = MaskedBatchNorm(widest_out, eps=BATCH_NORM_EPS)
        if self.input == self.output:
            start_as_identity(self.project_norm)
        same = [[float(i == o) for o in self.out_widths] for i in self.in_widths]
        self.constant("same_width", torch.tensor(same))

    def forward(self, features: Tensor, weights: Weights) -> Tensor:
        """(N, widest in, H, W), already masked to the input's width, to (N, widest out, H', W')."""
        joint = weights[self.input][:, None] * weights[self.ratio][None, :]
        mask = torch.einsum("ie,iec->c", joint, self.middle_masks)
        activation = weights[self.own["activation"]]

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
            return self._convolve(_fit_channels(features, len(kernels)), kernels)
        expanded = mixed_activation(self.expand_norm(self.expand(features)), self.activations, activation)
        if not self.direct.any():
            return self._convolve(expanded, kernels)
        # A convolution is linear: its inputs are mixed by mixing weights, which costs no pass over the widest map.
        direct: Tensor = weights[self.ratio] @ self.direct
        out = self._convolve(expanded, kernels * (1 - direct))
        return cast(Tensor, _AddToFirst.apply(out, self._convolve(features, kernels[: features.shape[1]] * direct)))

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
        return out + same * _fit_channels(features, out.shape[1])


class SuperHead(SuperBlock):
    """The head with the widths before and after its pool as masks."""

    def __init__(self, position: Position) -> None:
        super().__init__(position)
        width_in, self.width = cast(str, position.in_channels), self.own["conv_channels"]
        self.hidden_width = self.own.get("hidden_channels")
        names = [name for name in (width_in, self.width, self.hidden_width) if name is not None]
        blocks = cast(list[Head], list(self.blocks(*names).values()))
        widest_in, widest = (max(getattr(block, name) for block in blocks) for name in ("in_channels", "conv_channels"))
        widest_hidden = max(block.hidden_channels or 0 for block in blocks)
        self.stride = 1
        self.conv = nn.Conv2d(widest_in, widest, 1, bias=False)
        self.norm = MaskedBatchNorm(widest, eps=BATCH_NORM_EPS)
        self.activation: Activation = blocks[0].activation
        self.constant("masks", column_masks(cast(Sequence[int], self.variables[self.width])))
        self.hidden: nn.Conv2d | None = None
        if self.hidden_width is not None:
            self.hidden = nn.Conv2d(widest, widest_hidden, 1, bias=False)
            self.constant("hidden_masks", column_masks(cast(Sequence[int], self.variables[self.hidden_width])))
        self.classifier = nn.Linear(widest_hidden or widest, blocks[0].out_channels)

    def forward(self, features: Tensor, weights: Weights) -> Tensor:
        """Features to logits (N, classes)."""
        out = mixed_activation(self.norm(self.conv(features)), [self.activation], features)
        out = out.mean((2, 3), keepdim=True) * (weights[self.width] @ self.masks)[:, None, None]
        if self.hidden is not None and self.hidden_width is not None:
            out = mixed_activation(self.hidden(out), [self.activation], out)
            out = out * (weights[self.hidden_width] @ self.hidden_masks)[:, None, None]
        logits: Tensor = self.classifier(out.flatten(1))
        return logits


class Candidates(SuperBlock):
    """Parallel blocks, one for each combination of options of some choices, added up by their weights."""

    def __init__(self, position: Position, names: Sequence[str], mode: "Mode") -> None:
        super().__init__(position)
        self.names = names
        self.index = list(itertools.product(*(range(len(position.variables[name])) for name in names)))
        self.branches = nn.ModuleList(
            _super_block(
                position.pin({name: position.variables[name][i] for name, i in zip(names, index, strict=True)}), mode
            )
            for index in self.index
        )
        self.stride = cast(int, self.branches[0].stride)
        self.constant("one", torch.ones(1))

    def branch(self, assignment: Mapping[str, Option]) -> SuperBlock:
        """The one that an assignment chooses."""
        index = tuple(self.position.variables[name].index(assignment[name]) for name in self.names)
        return cast(SuperBlock, self.branches[self.index.index(index)])

    def forward(self, features: Tensor, weights: Weights) -> Tensor:
        """See ``SuperBlock``."""
        joint = _joint([weights[name] for name in self.names])
        total: Tensor | None = None
        for weight, branch in zip(joint, self.branches, strict=True):
            fixed = dict.fromkeys(cast(SuperBlock, branch).own.values(), self.one)
            free = {name: weights[name] for name in self.position.names if name not in self.names}
            out = weight * branch(features, {**fixed, **free})
            total = out if total is None else total + out
        assert total is not None
        return total


class Paths(SuperBlock):
    """A module of its own for each block that may stand here, whatever its kind, added up by their weights.

    This is the textbook form of differentiable search (DARTS, FBNet): exact for any block, and as slow as all of them
    together. Modules are made for the largest input resolution and run at any.
    """

    def __init__(self, position: Position) -> None:
        super().__init__(position)
        self.names = [name for name in position.names if name not in (RESOLUTION, position.skip)]
        base: dict[str, Option] = {RESOLUTION: max(cast(Sequence[int], position.variables[RESOLUTION]))}
        if position.skip is not None:
            base[position.skip] = False
        options = itertools.product(*(position.variables[name] for name in self.names))
        self.index = list(options)
        found = [position.block({**base, **dict(zip(self.names, values, strict=True))}) for values in self.index]
        every = [block for block in found if block is not None]
        self.stride, self.in_channels = every[0].stride, [block.in_channels for block in every]
        self.widest = max(block.out_channels for block in every)
        self.modules_of = nn.ModuleList(_synchronisable(build_block(block)) for block in every)

    def module(self, assignment: Mapping[str, Option]) -> nn.Module:
        """The one that an assignment chooses."""
        # A candidate's own choices have one option each, of which an assignment says nothing.
        options = {name: self.variables[name][0] for name in self.names} | dict(assignment)
        return self.modules_of[self.index.index(tuple(options[name] for name in self.names))]

    def forward(self, features: Tensor, weights: Weights) -> Tensor:
        """See ``SuperBlock``."""
        joint = _joint([weights[name] for name in self.names])
        total: Tensor | None = None
        for weight, channels, module in zip(joint, self.in_channels, self.modules_of, strict=True):
            out = weight * module(features[:, :channels])
            out = _fit_channels(out, self.widest) if out.dim() == 4 else out
            total = out if total is None else total + out
        assert total is not None
        return self.or_skipped(total, features, weights)


def _joint(weights: Sequence[Tensor]) -> Tensor:
    """The product of one weight of each, for every combination in the order of ``itertools.product``."""
    joint = torch.ones(1, device=weights[0].device)
    for weight in weights:
        joint = (joint[:, None] * weight[None, :]).flatten()
    return joint


_MASKED: dict[type[Block], type[SuperBlock]] = {
    ConvBlock: SuperConv,
    InvertedResidual: SuperInvertedResidual,
    Head: SuperHead,
}
_WIDTHS = ("expansion_ratio", "conv_channels", "hidden_channels")
"""Choices of a block that are masks in both modes."""


def _super_block(position: Position, mode: Mode) -> SuperBlock:
    if CANDIDATE in position.own:
        return Candidates(position, [position.own[CANDIDATE]], mode)
    first = position.block({name: options[0] for name, options in position.variables.items()})
    assert first is not None, "the first option of a skip is to keep the block"
    masked = _MASKED.get(type(first))
    if masked is None or (isinstance(first, InvertedResidual) and "groups" in position.own):
        return Paths(position)
    if mode == "paths" and masked is SuperInvertedResidual:
        return Paths(position)
    names = [name for choice, name in position.own.items() if choice not in _WIDTHS]
    if mode == "candidates" and any(len(position.variables[name]) > 1 for name in names):
        return Candidates(position, names, mode)
    return masked(position)


class Supernet(nn.Module):
    """Every network of a space at once: images and weights to logits.

    Args:
        space: the space.
        mode: how the choices of a block that are not widths are run; see the module. ``paths`` runs inverted residuals
            as ``Paths``, widths included, to compare with.
    """

    def __init__(self, space: SearchSpace, mode: Mode = "shared") -> None:
        super().__init__()
        self.space = space
        self.parts = nn.ModuleList(_super_block(position, mode) for position in space.positions)
        initialise(self)

    def forward(self, images: Tensor, weights: Weights) -> Tensor:
        """(N, 3, R, R) at the largest resolution, and one weight for each option, to (N, classes).

        For each input resolution the features are subsampled by nearest neighbour, run through the block and spread
        back over the large grid with zeros between. A resolution whose weight is exactly zero is not run; where only
        one runs, all blocks work on its own small grid.
        """
        resolutions = self.space.resolution
        running = [0]
        if len(resolutions) > 1:
            running = [i for i, weight in enumerate(weights[RESOLUTION].tolist()) if weight != 0]
        features = images
        if len(running) == 1:
            features = _subsample(images, resolutions[running[0]])
            for part in self.parts:
                features = part(features, weights)
                if weights[RESOLUTION].requires_grad:
                    features = weights[RESOLUTION][running[0]] * features
            return features
        grids = dict.fromkeys(running, images.shape[-1])  # the size of the small map before the current block
        for i in running:
            grids[i] = resolutions[i]
        for part in self.parts:
            total: Tensor | None = None
            large = features.shape[-1]
            for i in running:
                out = part(_subsample(features, grids[i]), weights)
                if out.dim() == 4:
                    grids[i] = out.shape[-1]
                    out = _spread(out, -(-large // cast(int, part.stride)))
                out = weights[RESOLUTION][i] * out
                total = out if total is None else total + out
            assert total is not None
            features = total
        return features


def _subsample(features: Tensor, small: int) -> Tensor:
    """Take (N, C, small, small) of (N, C, H, H) by nearest neighbour."""
    return features if features.shape[-1] == small else F.interpolate(features, size=(small, small))


class _Spread(torch.autograd.Function):
    """Put each value where ``_subsample`` would take it from, with zeros between: the transpose of ``_subsample``."""

    @staticmethod
    def forward(context: Any, features: Tensor, large: int) -> Tensor:
        """(N, C, H, H) to (N, C, large, large)."""
        context.small = features.shape[-1]
        shape = [*features.shape[:2], large, large]
        return cast(Tensor, torch.ops.aten.upsample_nearest2d_backward(features, [context.small] * 2, shape))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient at the places that were filled."""
        return _subsample(gradient, context.small), None


def _spread(features: Tensor, large: int) -> Tensor:
    if features.shape[-1] == large:
        return features
    return cast(Tensor, _Spread.apply(features, large))


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
