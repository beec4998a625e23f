# ruff: noqa: A002 - rules name their arguments as torch does: input, min, max.
"""Pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fbnet_mobile.graph.rules.elementwise import binary
from fbnet_mobile.graph.rules.rule import Value, around, lowers, pair

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
        # Rounding up means that the last window may need more padding than was asked for.
        needed = [
            (out - 1) * step + size - length
            for out, step, size, length in zip(to.result.shape[2:], steps, kernel, input.shape[2:], strict=True)
        ]
        bottom, right = max(bottom, needed[0] - top), max(right, needed[1] - left)
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
    floor = [
        (length + 2 * pad - size) // step + 1
        for length, pad, size, step in zip(input.shape[2:], sides, kernel, steps, strict=False)
    ]
    if divisor_override is not None or list(to.result.shape[2:]) != floor:
        raise to.refused("divisor_override, or a ceil_mode that adds windows")
    whole = count_include_pad or not any(sides)
    pooled = to.add("avg_pool", input, kernel=kernel, stride=steps, padding=sides)
    if whole:
        return pooled
    # Every format can count the padding, not every one can leave it out: undo it by what each window covered.
    ones = torch.ones(1, 1, *input.shape[2:])
    covered = F.avg_pool2d(ones, kernel, steps, pair(padding))
    return binary(to, "mul", pooled, 1 / covered)


@lowers(F.adaptive_avg_pool2d)
def _adaptive_avg_pool(to: Watch, input: Any, output_size: Any) -> Any:
    sizes, out = tuple(input.shape[2:]), tuple(to.result.shape[2:])
    if out == sizes:
        return input
    if out == (1, 1):
        return to.add("global_avg_pool", input, keepdims=True)
    if sizes[0] % out[0] or sizes[1] % out[1]:
        raise to.refused(f"{sizes} is no multiple of {out}, so its windows differ in size")
    kernel = (sizes[0] // out[0], sizes[1] // out[1])
    return to.add("avg_pool", input, kernel=kernel, stride=kernel, padding=(0, 0, 0, 0))


@lowers(torch.mean, Tensor.mean)
def _mean(to: Watch, input: Any, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Value:
    rank = len(input.shape)
    axes = sorted(axis % rank for axis in ([dim] if isinstance(dim, int) else dim or range(rank)))
    if rank != 4 or axes != [2, 3]:
        raise to.refused("only a mean over height and width together can be, as in x.mean((2, 3))")
    return to.add("global_avg_pool", input, keepdims=keepdim)
