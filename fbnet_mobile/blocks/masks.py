"""What masked forms are made of: column masks, batch norm under a mask, mixed activations, and ``SuperBlock``."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from fbnet_mobile.arch import Block
from fbnet_mobile.arch.fields import BATCH_NORM_EPS
from fbnet_mobile.blocks.layers import ConvBNAct, SqueezeExcite, activation_module, gate_module, pad_same
from fbnet_mobile.space import Option, Position

Weights = Mapping[str, Tensor]
"""For each variable of a space one weight for each of its options, adding up to 1."""

BlockT = TypeVar("BlockT", bound=Block)


class SuperBlock(nn.Module):
    """A position of the supernet: (N, widest in, H, W) and weights to (N, widest out, H', W').

    With one-hot weights it computes what the module of that block does, in the first channels.
    """

    stride: int

    def __init__(self, position: Position) -> None:
        super().__init__()
        self.position = position
        self.variables = position.variables
        self.own = position.own

    def forward(self, features: Tensor, weights: Weights) -> Tensor:
        """See the class."""
        raise NotImplementedError

    def freeze(self, assignment: Mapping[str, Option]) -> nn.Module:
        """The stand-alone module of the block that an assignment chooses, with the weights it has here, copied."""
        raise NotImplementedError

    def chosen(self, kind: type[BlockT], assignment: Mapping[str, Option]) -> BlockT:
        """The block that an assignment chooses, which must not skip it."""
        block = self.position.block(assignment)
        assert isinstance(block, kind)
        return block

    def blocks(self, kind: type[BlockT], *names: str) -> dict[tuple[int, ...], BlockT]:
        """The block for each combination of option numbers of ``names``, all else at the first option."""
        base: dict[str, Option] = {name: options[0] for name, options in self.variables.items()}
        found = {}
        for index in itertools.product(*(range(len(self.variables[name])) for name in names)):
            chosen = {name: self.variables[name][i] for name, i in zip(names, index, strict=True)}
            found[index] = self.chosen(kind, {**base, **chosen})  # the first option of a skip is to keep the block
        return found

    def constant(self, name: str, value: Tensor) -> None:
        """Keep a tensor that follows from the space, so is no part of the state."""
        self.register_buffer(name, value, persistent=False)

    def or_skipped(self, out: Tensor, features: Tensor, weights: Weights) -> Tensor:
        """The output, or instead of it the input, as far as the block is skipped."""
        if self.position.skip is None:
            return out
        keep = weights[self.position.skip]
        return keep[0] * out + keep[1] * fit_channels(features, out.shape[1])

    def prepare_residual(self) -> None:
        """What ``with_residual`` needs."""
        widths = [self.position.widths(name) for name in (self.position.in_channels, self.position.out_channels)]
        self.constant("same_width", torch.tensor([[float(i == o) for o in widths[1]] for i in widths[0]]))

    def with_residual(self, out: Tensor, features: Tensor, weights: Weights) -> Tensor:
        """The output with the input added, as far as both have as many channels."""
        entering, leaving = self.position.in_channels, self.position.out_channels
        if entering == leaving:
            return out + features
        same_width = self.get_buffer("same_width")
        if not isinstance(entering, str) or not isinstance(leaving, str) or not same_width.any():
            return out
        same: Tensor = weights[entering] @ same_width @ weights[leaving]
        return out + same * fit_channels(features, out.shape[1])


def masks_fit(kind: type[Block], position: Position) -> bool:
    """Whether a masked form computes what each block of a position does.

    What a space may say besides (``Block.optional_choices``) has to be one value. And TensorFlow's "same" padding
    begins elsewhere for a kernel of 1 than for the centre of a larger one.
    """
    said = [name for choice, name in position.own.items() if choice in kind.optional_choices]
    alone = all(len(position.variables[name]) == 1 for name in said)
    kernels = [set(position.variables[name]) for choice, name in position.own.items() if "kernel" in choice]
    return alone and not (position.only("padding") and any(1 in sizes and len(sizes) > 1 for sizes in kernels))


def convolve(
    features: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: str | None, groups: int = 1
) -> Tensor:
    """A convolution padded as a block says: by k // 2, or as TensorFlow's "same"."""
    if padding is None:
        return F.conv2d(features, weight, bias, stride, weight.shape[-1] // 2, groups=groups)
    return F.conv2d(pad_same(features, weight.shape[-1], stride), weight, bias, stride, groups=groups)


def column_masks(widths: Sequence[int], widest: int | None = None) -> Tensor:
    """One row for each width: ones for the channels it has, then zeros. Shape (len(widths), max width)."""
    channels = torch.arange(widest or max(widths))
    return (channels[None, :] < torch.tensor(list(widths))[:, None]).float()


def kernel_masks(sizes: Sequence[int]) -> Tensor:
    """For each kernel size ones on its centre of the largest, zeros around. Shape (len(sizes), largest, largest)."""
    largest = max(sizes)
    masks = torch.zeros(len(sizes), largest, largest)
    for mask, size in zip(masks, sizes, strict=True):
        edge = (largest - size) // 2
        mask[edge : largest - edge, edge : largest - edge] = 1
    return masks


def fit_channels(features: Tensor, channels: int) -> Tensor:
    """Cut or zero-pad the channels of (N, C, H, W)."""
    if features.shape[1] >= channels:
        return features[:, :channels]
    return F.pad(features, (0, 0, 0, 0, 0, channels - features.shape[1]))


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
        assert self.momentum is not None
        return F.batch_norm(
            features, self.running_mean, self.running_var, scale, shift, self.training, self.momentum, self.eps
        )

    def _synchronised(self, features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        from torch.distributed.nn.functional import all_reduce  # differentiable; not in every build of PyTorch

        world, count = distributed.get_world_size(), features.numel() // features.shape[1]
        values = features.float()
        mean: Tensor = all_reduce(values.mean((0, 2, 3))) / world  # type: ignore[no-untyped-call]
        # In two passes: the mean of squares less the square of the mean loses digits.
        centred = values - mean[:, None, None]
        variance: Tensor = all_reduce(centred.square().mean((0, 2, 3))) / world  # type: ignore[no-untyped-call]
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        with torch.no_grad():
            total = count * world
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (total / (total - 1)), self.momentum)
        scale = scale * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + shift[:, None, None]).to(features.dtype)


def masked_norm(channels: int, eps: float | None) -> MaskedBatchNorm:
    """A batch norm of the eps that a block says, or PyTorch's."""
    return MaskedBatchNorm(channels, eps=eps or BATCH_NORM_EPS)


def synchronisable(module: nn.Module) -> nn.Module:
    """The module with each batch norm in it replaced by one whose statistics are those of all processes."""
    if type(module) is nn.BatchNorm2d:
        norm = MaskedBatchNorm(module.num_features, eps=module.eps, momentum=module.momentum)
        norm.load_state_dict(module.state_dict())
        return norm
    for name, child in module.named_children():
        setattr(module, name, synchronisable(child))
    return module


def mixed_activation(features: Tensor, names: Sequence[str], weights: Tensor) -> Tensor:
    """The sum of some activations by weights that add up to 1; a single one costs what it costs alone.

    Args:
        features: (N, ...).
        names: of the activations.
        weights: (len(names),); not looked at if there is but one.

    Raises:
        UserError: an activation that is not known.
    """
    if len(names) == 1:
        alone: Tensor = _activation(names[0])(features)
        return alone
    if set(names) == {"relu", "hswish"}:
        mixed: Tensor = _Mixed.apply(features, weights[names.index("hswish")])
        return mixed
    total: Tensor = weights[0] * _activation(names[0])(features)
    for name, weight in zip(names[1:], weights[1:], strict=True):
        total = total + weight * _activation(name)(features)
    return total


_activation = functools.cache(activation_module)


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


class MaskedSqueezeExcite(nn.Module):
    """Squeeze-excite at its widest, under masks, and with a weight for whether it is there at all.

    Args:
        position: whose choices ``squeeze_excite``, ``se_activation`` and ``se_gate`` say what it is.
        widths: of its bottleneck, for each combination of the two choices that decide them.
        channels: the most that it scales.
        grid: how many options the two choices have.
    """

    squeeze_masks: Tensor
    on: Tensor

    def __init__(self, position: Position, widths: Sequence[int], channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.choice = position.own["squeeze_excite"]
        own, gate = position.only("se_activation"), position.only("se_gate")
        self.activations = (str(own),) if own is not None else None
        self.gate = gate_module(None if gate is None else str(gate))
        self.squeeze = nn.Conv2d(channels, max(widths), 1)
        self.unsqueeze = nn.Conv2d(max(widths), channels, 1)
        self.register_buffer("squeeze_masks", column_masks(widths).reshape(*grid, max(widths)), persistent=False)
        on = torch.tensor([float(option) for option in position.variables[self.choice]])
        self.register_buffer("on", on, persistent=False)

    def forward(
        self, features: Tensor, mask: Tensor, joint: Tensor, weights: Weights, mixed: tuple[Sequence[str], Tensor]
    ) -> Tensor:
        """(N, C, H, W) to the same.

        Args:
            features: not masked.
            mask: of its channels, (C,).
            joint: of the two choices that decide the widths, the weight of each pair.
            weights: of all choices.
            mixed: the block's activations with their weights, for where it has none of its own.
        """
        pooled = features.mean((2, 3), keepdim=True) * mask[:, None, None]
        activations, activation = mixed
        hidden = mixed_activation(self.squeeze(pooled), self.activations or activations, activation)
        hidden = hidden * torch.einsum("ie,iec->c", joint, self.squeeze_masks)[:, None, None]
        gate: Tensor = self.gate(self.unsqueeze(hidden))
        excited: Tensor = weights[self.choice] @ self.on
        return features * (1 + excited * (gate - 1))

    def freeze(self, into: SqueezeExcite) -> None:
        """Give a stand-alone one its weights."""
        copy_slice(into.reduce, self.squeeze)
        copy_slice(into.expand, self.unsqueeze)


@torch.no_grad()
def copy_slice(target: nn.Conv2d | nn.Linear, source: nn.Conv2d | nn.Linear) -> None:
    """Give a layer the first channels and the kernel's centre of a larger one."""
    weight = source.weight[: target.weight.shape[0], : target.weight.shape[1]]
    if weight.dim() == 4:
        size = target.weight.shape[-1]
        edge = (weight.shape[-1] - size) // 2
        weight = weight[..., edge : edge + size, edge : edge + size]
    target.weight.copy_(weight)
    if target.bias is not None:
        assert source.bias is not None
        target.bias.copy_(source.bias[: target.bias.shape[0]])


@torch.no_grad()
def copy_norm(target: nn.BatchNorm2d, source: nn.BatchNorm2d) -> None:
    """Give a batch norm the first channels of a larger one, statistics included."""
    larger = source.state_dict()
    for name, tensor in target.state_dict().items():
        tensor.copy_(larger[name][: len(tensor)] if tensor.dim() else larger[name])


def copy_conv(target: ConvBNAct, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Give a convolution and its batch norm the first channels of larger ones."""
    copy_slice(target.conv, conv)
    copy_norm(target.norm, norm)
