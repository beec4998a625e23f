# ruff: noqa: A002 - rules name their arguments as torch does: input, min, max.
"""Joining, splitting, indexing, viewing and padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fbnet_mobile.graph.rules.rule import Grouped, Value, lowers

if TYPE_CHECKING:
    from fbnet_mobile.graph.trace import Watch


@lowers(torch.cat, torch.concat, torch.concatenate)
def _concat(to: Watch, tensors: Sequence[Any], dim: int = 0) -> Value:
    return to.add("concat", *tensors, axis=dim % to.result.ndim)


@lowers(torch.chunk, Tensor.chunk, torch.split, Tensor.split)
def _parts(to: Watch, input: Any, split_size_or_sections: Any = None, dim: int = 0, **kwargs: Any) -> tuple[Value, ...]:
    if not isinstance(input, Value):
        raise to.refused("only a feature map can be split")
    axis = dim % len(input.shape)
    values, start = [], 0
    for part in to.result:
        stop = start + part.shape[axis]
        values.append(_slice(to, input, {axis: (start, stop)}))
        start = stop
    return tuple(values)


def _slice(to: Watch, input: Value, limits: Mapping[int, tuple[int, int]]) -> Value:
    bounds = [limits.get(axis, (0, size)) for axis, size in enumerate(input.shape)]
    start, stop = tuple(low for low, _ in bounds), tuple(high for _, high in bounds)
    shape = tuple(high - low for low, high in bounds)
    return to.add("slice", input, shape=shape, start=start, stop=stop)


@lowers(Tensor.__getitem__)
def _getitem(to: Watch, input: Any, index: Any) -> Any:
    if not isinstance(input, Value):
        raise to.refused("only feature maps can be indexed")
    items = list(index) if isinstance(index, tuple) else [index]
    for place in [place for place, item in enumerate(items) if item is ...]:
        # The one ellipsis stands for as many whole axes as the other items leave.
        named = sum(item is not None for item in items) - 1
        items[place : place + 1] = [slice(None)] * (len(input.shape) - named)
    limits: dict[int, tuple[int, int]] = {}
    axis = 0
    for item in items:
        if item is None:
            continue
        size = input.shape[axis]
        if type(item) is int:
            limits[axis] = (item % size, item % size + 1)
        elif isinstance(item, slice) and item.step in (None, 1):
            start, stop, _ = item.indices(size)
            limits[axis] = (start, max(start, stop))
        else:
            kind = "a slice of another step than 1" if isinstance(item, slice) else f"a {type(item).__name__}"
            raise to.refused(f"its index holds {kind}; only whole numbers, slices of step 1, None and ... can be")
        axis += 1
    whole = all(limit == (0, input.shape[axis]) for axis, limit in limits.items())
    return _reshape(to, input if whole else _slice(to, input, limits))


@lowers(
    torch.flatten,
    Tensor.flatten,
    torch.reshape,
    Tensor.reshape,
    Tensor.view,
    torch.squeeze,
    Tensor.squeeze,
    torch.unsqueeze,
    Tensor.unsqueeze,
    torch.unflatten,
    Tensor.unflatten,
    grouped=True,
)
def _reshape(to: Watch, input: Any, *args: Any, **kwargs: Any) -> Any:
    shape = tuple(to.result.shape)
    if isinstance(input, Grouped):
        if shape != input.value.shape:
            raise to.refused("only the channel shuffle may view a feature map with five axes")
        return to.add("channel_shuffle", input.value, groups=input.groups) if input.swapped else input.value
    if not isinstance(input, Value):
        raise to.refused("only feature maps and vectors can be reshaped")
    if shape == input.shape:
        return input
    if len(shape) == 5 and len(input.shape) == 4 and shape[0] == 1 and shape[3:] == input.shape[2:]:
        return Grouped(input, shape[1])
    if len(shape) == len(input.shape) == 4:
        raise to.refused(f"it views {input.shape} as {shape}; only the channel shuffle can be")
    return to.add("reshape", input)


@lowers(torch.transpose, Tensor.transpose, torch.permute, Tensor.permute, torch.swapaxes, Tensor.swapaxes, grouped=True)
def _swap(to: Watch, input: Any, *args: Any, **kwargs: Any) -> Any:
    axes = [
        axis for part in (*args, *kwargs.values()) for axis in (part if isinstance(part, tuple | list) else (part,))
    ]
    if isinstance(input, Grouped) and not input.swapped and [a % 5 for a in axes] in ([1, 2], [2, 1], [0, 2, 1, 3, 4]):
        return Grouped(input.value, input.groups, swapped=True)
    raise to.refused("axes may be swapped only in a channel shuffle")


@lowers(torch.channel_shuffle, torch.native_channel_shuffle)
def _channel_shuffle(to: Watch, input: Any, groups: int) -> Value:
    return to.add("channel_shuffle", input, groups=groups)


@lowers(F.pad)
def _pad(to: Watch, input: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    sides = list(pad) + [0] * (4 - len(pad))
    if mode != "constant" or value or len(sides) != 4 or min(sides) < 0 or len(to.result.shape) != 4:
        raise to.refused("only zeros around height and width can be added")
    if not any(sides):
        return input
    left, right, top, bottom = sides
    return to.add("pad", input, padding=(top, left, bottom, right))
