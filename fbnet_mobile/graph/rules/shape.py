# ruff: noqa: A001, A002 - rules name their arguments as torch does: input, min, max.
"""Joining, splitting, indexing, viewing, reordering and padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fbnet_mobile.graph.rules.rule import Value, composes, lowers

if TYPE_CHECKING:
    from fbnet_mobile.graph.trace import Watch


@lowers(torch.cat, torch.concat, torch.concatenate)
def _concat(to: Watch, tensors: Sequence[Any], dim: int = 0) -> Value:
    return to.add("concat", *tensors, axis=dim % to.result.ndim)


@composes(torch.stack)
def _stack(to: Watch, tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    return torch.cat([tensor.unsqueeze(dim) for tensor in tensors], dim)


@lowers(torch.chunk, Tensor.chunk, torch.split, Tensor.split, torch.tensor_split, Tensor.tensor_split)
def _parts(to: Watch, input: Any, split_size_or_sections: Any = None, dim: int = 0, **kwargs: Any) -> tuple[Value, ...]:
    axis = dim % len(input.shape)
    values, start = [], 0
    for part in to.result:
        stop = start + part.shape[axis]
        values.append(_slice(to, input, {axis: (start, stop, 1)}))
        start = stop
    return tuple(values)


@composes(torch.unbind, Tensor.unbind)
def _unbind(to: Watch, input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    return tuple(input.select(dim, number) for number in range(input.shape[dim]))


def _slice(to: Watch, input: Value, limits: Mapping[int, tuple[int, int, int]]) -> Value:
    bounds = [limits.get(axis, (0, size, 1)) for axis, size in enumerate(input.shape)]
    start, stop, step = zip(*bounds, strict=True)
    shape = tuple(len(range(*bound)) for bound in bounds)
    return to.add("slice", input, shape=shape, start=start, stop=stop, step=step)


@lowers(Tensor.__getitem__)
def _getitem(to: Watch, input: Any, index: Any) -> Any:
    if not isinstance(input, Value):
        raise to.refused("its index depends on the network's input")
    items = list(index) if isinstance(index, tuple) else [index]
    for place in [place for place, item in enumerate(items) if item is ...]:
        # The one ellipsis stands for as many whole axes as the other items leave.
        named = sum(item is not None for item in items) - 1
        items[place : place + 1] = [slice(None)] * (len(input.shape) - named)
    limits: dict[int, tuple[int, int, int]] = {}
    picked: tuple[int, list[int]] | None = None
    axis = 0
    for item in items:
        if item is None:
            continue
        size = input.shape[axis]
        numbers = _indices(item)
        if type(item) is int:
            limits[axis] = (item % size, item % size + 1, 1)
        elif isinstance(item, slice):
            start, stop, step = item.indices(size)
            limits[axis] = (start, max(start, stop), step)
        elif numbers is not None and picked is None:
            picked = (axis, [number % size for number in numbers])
        else:
            kind = "two lists" if numbers is not None else f"a {type(item).__name__}"
            raise to.refused(f"its index holds {kind}; only whole numbers, slices, one list, None and ... can be")
        axis += 1
    whole = all(limit == (0, input.shape[axis], 1) for axis, limit in limits.items())
    value = input if whole else _slice(to, input, limits)
    if picked is not None:
        axis, numbers = picked
        value = _gather(to, value, axis, numbers)
    return _reshape(to, value)


def _indices(item: Any) -> list[int] | None:
    """Return the numbers in a list, or a tensor of one axis, of whole numbers; None for anything else."""
    if isinstance(item, Tensor):
        if item.ndim != 1 or item.dtype in (torch.bool, torch.uint8) or item.is_floating_point():
            return None
        item = item.tolist()
    return item if isinstance(item, list) and item and all(type(number) is int for number in item) else None


def _gather(to: Watch, input: Value, axis: int, indices: Sequence[int]) -> Value:
    shape = (*input.shape[:axis], len(indices), *input.shape[axis + 1 :])
    return to.add("gather", input, shape=shape, axis=axis, indices=tuple(indices))


@composes(torch.select, Tensor.select)
def _select(to: Watch, input: Tensor, dim: int, index: int) -> Tensor:
    return input[(slice(None),) * (dim % input.ndim) + (int(index),)]


@composes(torch.narrow, Tensor.narrow)
def _narrow(to: Watch, input: Tensor, dim: int, start: int, length: int) -> Tensor:
    return input[(slice(None),) * (dim % input.ndim) + (slice(start, start + length),)]


@composes(torch.index_select, Tensor.index_select)
def _index_select(to: Watch, input: Tensor, dim: int, index: Tensor) -> Tensor:
    return input[(slice(None),) * (dim % input.ndim) + (index,)]


@composes(torch.flip, Tensor.flip)
def _flip(to: Watch, input: Tensor, *dims: Any) -> Tensor:
    for dim in _flat(dims):
        input = input.index_select(dim, torch.arange(input.shape[dim] - 1, -1, -1))
    return input


@composes(torch.roll, Tensor.roll)
def _roll(to: Watch, input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    if dims is None:
        return input.flatten().roll(shifts, 0).reshape(input.shape)
    for shift, dim in zip(_flat([shifts]), _flat([dims]), strict=True):
        size = input.shape[dim]
        last = shift % size
        if last:
            input = torch.cat((input.narrow(dim, size - last, last), input.narrow(dim, 0, size - last)), dim)
    return input


@composes(Tensor.expand, torch.broadcast_to, Tensor.broadcast_to)
def _expand(to: Watch, input: Tensor, *size: Any) -> Tensor:
    sizes = _flat(size)
    shape = (1,) * (len(sizes) - input.ndim) + tuple(input.shape)
    # A factor of one, of the axes that are new, is repeated by every format as it multiplies.
    ones = [1 if wanted in (-1, there) else wanted for wanted, there in zip(sizes, shape, strict=True)]
    input = input.reshape(shape)
    return input * torch.ones(ones) if max(ones) > 1 else input


@composes(Tensor.expand_as)
def _expand_as(to: Watch, input: Tensor, other: Tensor) -> Tensor:
    return input.expand(other.shape)


@composes(Tensor.repeat, torch.tile, Tensor.tile)
def _repeat(to: Watch, input: Tensor, *repeats: Any) -> Tensor:
    times = _flat(repeats)
    times = [1] * (input.ndim - len(times)) + times
    input = input.reshape((1,) * (len(times) - input.ndim) + tuple(input.shape))
    for axis, number in enumerate(times):
        if number > 1:
            input = torch.cat([input] * number, axis)
    return input


@lowers(
    torch.flatten,
    Tensor.flatten,
    torch.reshape,
    Tensor.reshape,
    Tensor.reshape_as,
    Tensor.view,
    Tensor.view_as,
    torch.squeeze,
    Tensor.squeeze,
    torch.unsqueeze,
    Tensor.unsqueeze,
    torch.unflatten,
    Tensor.unflatten,
)
def _reshape(to: Watch, input: Any, *args: Any, **kwargs: Any) -> Any:
    if not isinstance(input, Value):
        return None  # only the shape to view it as depends on the input
    shape = tuple(to.result.shape)
    if shape == input.shape:
        return input
    shuffled = _shuffled(to, input, shape)
    return to.add("reshape", input) if shuffled is None else to.add("channel_shuffle", shuffled[0], groups=shuffled[1])


def _shuffled(to: Watch, input: Value, shape: tuple[int, ...]) -> tuple[Value, int] | None:
    """Return a feature map and its groups, if viewing ``input`` as ``shape`` is the last step of shuffling it."""
    swapped = to.nodes.get(input.name)
    if swapped is None or swapped.op != "permute" or swapped.attributes["axes"] != (0, 2, 1, 3, 4):
        return None
    viewed = to.nodes.get(swapped.inputs[0])
    if viewed is None or viewed.op != "reshape" or len(shape) != 4 or to.shape(viewed.inputs[0]) != shape:
        return None
    batch, groups, _, *sizes = viewed.shape
    return (Value(viewed.inputs[0], shape), groups) if (batch, *sizes) == (shape[0], *shape[2:]) else None


@lowers(torch.permute, Tensor.permute)
def _permute(to: Watch, input: Any, *dims: Any) -> Any:
    axes = tuple(axis % len(input.shape) for axis in _flat(dims))
    return input if axes == tuple(range(len(axes))) else to.add("permute", input, axes=axes)


@composes(torch.transpose, Tensor.transpose, torch.swapaxes, Tensor.swapaxes, torch.swapdims, Tensor.swapdims)
def _transpose(to: Watch, input: Tensor, dim0: int, dim1: int) -> Tensor:
    axes = list(range(input.ndim))
    axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
    return input.permute(axes)


@composes(torch.t, Tensor.t, Tensor.T.__get__, Tensor.mT.__get__)  # type: ignore[attr-defined]
def _last_two(to: Watch, input: Tensor, *args: Any) -> Tensor:
    return input.transpose(-2, -1)


@composes(torch.movedim, Tensor.movedim)
def _movedim(to: Watch, input: Tensor, source: Any, destination: Any) -> Tensor:
    moved = {
        to_ % input.ndim: from_ % input.ndim for from_, to_ in zip(_flat([source]), _flat([destination]), strict=True)
    }
    rest = iter([axis for axis in range(input.ndim) if axis not in moved.values()])
    return input.permute([moved[axis] if axis in moved else next(rest) for axis in range(input.ndim)])


def _flat(parts: Any) -> list[int]:
    """Numbers that are given one by one, or as a sequence."""
    return [int(number) for part in parts for number in (part if isinstance(part, tuple | list) else (part,))]


@lowers(torch.channel_shuffle, torch.native_channel_shuffle)
def _channel_shuffle(to: Watch, input: Any, groups: int) -> Value:
    return to.add("channel_shuffle", input, groups=groups)


@composes(torch.pixel_shuffle)
def _pixel_shuffle(to: Watch, input: Tensor, upscale_factor: int) -> Tensor:
    batch, channels, height, width = input.shape
    factor, out = upscale_factor, channels // upscale_factor**2
    parts = input.reshape(batch, out, factor, factor, height, width).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(batch, out, height * factor, width * factor)


@composes(torch.pixel_unshuffle)
def _pixel_unshuffle(to: Watch, input: Tensor, downscale_factor: int) -> Tensor:
    batch, channels, height, width = input.shape
    factor = downscale_factor
    parts = input.reshape(batch, channels, height // factor, factor, width // factor, factor)
    return parts.permute(0, 1, 3, 5, 2, 4).reshape(batch, channels * factor**2, height // factor, width // factor)


@lowers(F.pad)
def _pad(to: Watch, input: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    if mode != "constant" or min(pad) < 0:
        raise to.refused("only a constant can be added, and nothing taken away")
    sides = [*pad] + [0] * (2 * len(input.shape) - len(pad))
    left, right, top, bottom, *others = sides
    if len(input.shape) == 4 and any(sides[:4]) and not any(others) and not value:
        return to.add("pad", input, padding=(top, left, bottom, right))
    for number in range(len(input.shape)):
        axis = len(input.shape) - 1 - number
        parts: list[Any] = [input]
        for place, count in ((0, sides[2 * number]), (len(parts), sides[2 * number + 1])):
            if count:
                shape = (*input.shape[:axis], count, *input.shape[axis + 1 :])
                parts.insert(len(parts) if place else 0, torch.full(shape, float(value or 0)))
        if len(parts) > 1:
            size = sum(part.shape[axis] for part in parts)
            shape = (*input.shape[:axis], size, *input.shape[axis + 1 :])
            input = to.add("concat", *parts, shape=shape, axis=axis)
    return input


@lowers(
    torch.zeros_like,
    torch.ones_like,
    torch.full_like,
    torch.empty_like,
    Tensor.new_zeros,
    Tensor.new_ones,
    Tensor.new_full,
    Tensor.new_empty,
    Tensor.new_tensor,
)
def _independent(to: Watch, input: Any, *args: Any, **kwargs: Any) -> None:
    """What has only the shape, or the type, of a tensor that depends on the input."""
