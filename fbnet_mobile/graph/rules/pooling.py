# ruff: noqa: A002 - rules name their arguments as torch does: input, min, max.
"""Pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fbnet_mobile.graph.rules.elementwise import binary
from fbnet_mobile.graph.rules.rule import Value, around, composes, lowers, pair

if TYPE_CHECKING:
    from fbnet_mobile.graph.trace import Watch


@lowers(F.max_pool2d, torch.max_pool2d)
def _max_pool(
    to: Watch,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    if return_indices:
        raise to.refused("return_indices")
    kernel, steps, dilations = pair(kernel_size), pair(stride or kernel_size), pair(dilation)
    if dilations != (1, 1):
        raise to.refused("a dilation other than 1")
    top, left, bottom, right = around(padding)
    if ceil_mode:
        bottom, right = _reaching(to, input, kernel, steps, (top, left, bottom, right))
    return to.add("max_pool", input, kernel=kernel, stride=steps, padding=(top, left, bottom, right))


@lowers(F.avg_pool2d)
def _avg_pool(
    to: Watch,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    kernel, steps, sides = pair(kernel_size), pair(stride or kernel_size), around(padding)
    if kernel == tuple(input.shape[2:]) and not any(sides):
        return to.add("global_avg_pool", input, keepdims=True)
    if divisor_override is not None:
        raise to.refused("divisor_override")
    top, left, bottom, right = sides
    bottom, right = _reaching(to, input, kernel, steps, sides) if ceil_mode else (bottom, right)
    pooled = to.add("avg_pool", input, kernel=kernel, stride=steps, padding=(top, left, bottom, right))
    if not ceil_mode and (count_include_pad or not any(sides)):
        return pooled
    # Every format can count all of the padding, not every one only some of it: undo it by what each window covered.
    ones = torch.ones(1, 1, *input.shape[2:])
    wanted = F.avg_pool2d(ones, kernel, steps, pair(padding), ceil_mode, count_include_pad)
    found = F.avg_pool2d(F.pad(ones, (left, right, top, bottom)), kernel, steps)
    return pooled if torch.equal(wanted, found) else binary(to, "mul", pooled, wanted / found)


def _reaching(
    to: Watch, input: Value, kernel: tuple[int, int], steps: tuple[int, int], sides: tuple[int, int, int, int]
) -> tuple[int, int]:
    """Return the padding at the bottom and at the right, which may be more if the last window reaches beyond it."""
    needed = [
        (out - 1) * step + size - length - before
        for out, step, size, length, before in zip(
            to.result.shape[2:], steps, kernel, input.shape[2:], sides[:2], strict=True
        )
    ]
    return max(sides[2], needed[0]), max(sides[3], needed[1])


@composes(F.avg_pool1d)
def _avg_pool1d(
    to: Watch,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    kernel, step, side = (pair(number)[0] for number in (kernel_size, stride or kernel_size, padding))
    wide = F.avg_pool2d(input.unsqueeze(2), (1, kernel), (1, step), (0, side), ceil_mode, count_include_pad)
    return wide.squeeze(2)


@lowers(F.adaptive_avg_pool2d)
def _adaptive_avg_pool(to: Watch, input: Any, output_size: Any) -> Any:
    sizes, out = tuple(input.shape[2:]), tuple(to.result.shape[2:])
    if out == sizes:
        return input
    if out == (1, 1):
        return to.add("global_avg_pool", input, keepdims=True)
    if sizes[0] % out[0] or sizes[1] % out[1]:
        # Its windows differ in size; they are as many means, along the width and then along the height.
        value = input
        for axis in (1, 0):
            if out[axis] != sizes[axis]:
                value = _averaged(to, value, 2 + axis, out[axis])
        return value
    kernel = (sizes[0] // out[0], sizes[1] // out[1])
    return to.add("avg_pool", input, kernel=kernel, stride=kernel, padding=(0, 0, 0, 0))


def _averaged(to: Watch, value: Value, axis: int, out: int) -> Value:
    """Add the product with a matrix of means along an axis of a feature map."""
    size = value.shape[axis]
    matrix = np.zeros((out, size), np.float32)
    for number in range(out):
        first, end = number * size // out, -(-(number + 1) * size // out)
        matrix[number, first:end] = 1 / (end - first)
    shape = list(value.shape)
    shape[axis] = out
    swap = (0, 1, 3, 2) if axis == 2 else (0, 1, 2, 3)

    def swapped(value: Value) -> Value:
        return to.add("permute", value, shape=[value.shape[i] for i in swap], axes=swap) if axis == 2 else value

    value = swapped(value)
    made = to.add(
        "linear",
        value,
        shape=(*value.shape[:3], out),
        weights={"weight": matrix, "bias": np.zeros(out, np.float32)},
    )
    return swapped(made)


@lowers(F.adaptive_max_pool2d)
def _adaptive_max_pool(to: Watch, input: Any, output_size: Any, return_indices: bool = False) -> Any:
    sizes, out = tuple(input.shape[2:]), tuple(to.result.shape[2:])
    if return_indices or sizes[0] % out[0] or sizes[1] % out[1]:
        raise to.refused(f"return_indices, or {sizes} is no multiple of {out}, so its windows differ in size")
    kernel = (sizes[0] // out[0], sizes[1] // out[1])
    return to.add("max_pool", input, kernel=kernel, stride=kernel, padding=(0, 0, 0, 0))


def _axes(value: Value, dim: Any) -> tuple[int, ...]:
    """The axes, in order, that are named by one number or several; all for None."""
    rank = len(value.shape)
    return tuple(sorted(axis % rank for axis in ([dim] if isinstance(dim, int) else dim or range(rank))))


@lowers(torch.mean, Tensor.mean)
def _mean(to: Watch, input: Any, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Value:
    axes = _axes(input, dim)
    if len(input.shape) == 4 and axes == (2, 3):
        return to.add("global_avg_pool", input, keepdims=keepdim)
    return to.add("mean", input, axes=axes, keepdims=keepdim)


@lowers(torch.sum, Tensor.sum)
def _sum(to: Watch, input: Any, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Value:
    return to.add("sum", input, axes=_axes(input, dim), keepdims=keepdim)


@lowers(torch.amax, Tensor.amax)
def _amax(to: Watch, input: Any, dim: Any = None, keepdim: bool = False) -> Value:
    return to.add("max", input, axes=_axes(input, dim), keepdims=keepdim)
