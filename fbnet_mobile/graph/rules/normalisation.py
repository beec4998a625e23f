# ruff: noqa: A002 - rules name their arguments as torch does: input, min, max.
"""Normalisation by a value's own mean and variance, or length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fbnet_mobile.graph.rules.rule import Value, composes, lowers

if TYPE_CHECKING:
    from fbnet_mobile.graph.trace import Watch


@lowers(F.layer_norm, torch.layer_norm)
def _layer_norm(
    to: Watch,
    input: Any,
    normalized_shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Value:
    rank = len(input.shape)
    weights = {role: to.array(tensor) for role, tensor in (("scale", weight), ("shift", bias)) if tensor is not None}
    return to.add("layer_norm", input, weights=weights, axes=tuple(range(rank - len(normalized_shape), rank)), eps=eps)


@lowers(F.group_norm, torch.group_norm)
def _group_norm(
    to: Watch,
    input: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Value:
    batch, channels, *sizes = input.shape
    value = input
    if num_groups != channels:
        value = to.add("reshape", value, shape=(batch, num_groups, channels // num_groups, *sizes))
    value = to.add("layer_norm", value, shape=value.shape, axes=tuple(range(2, len(value.shape))), eps=eps)
    if num_groups != channels:
        value = to.add("reshape", value)
    per_channel = (1, -1, *[1] * len(sizes))
    for op, tensor in (("mul", weight), ("add", bias)):
        if tensor is not None:
            value = to.add(op, value, weights={"constant": to.array(tensor).reshape(per_channel)})
    return value


@lowers(F.instance_norm, torch.instance_norm)
def _instance_norm(
    to: Watch,
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Value:
    if not use_input_stats:
        raise to.refused("it normalises by running statistics; use a batch norm")
    return _group_norm(to, input, input.shape[1], weight, bias, eps)


@composes(F.rms_norm, torch.rms_norm)
def _rms_norm(
    to: Watch, input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    square = (input * input).mean(axes, keepdim=True)
    length: Tensor = (square + (torch.finfo(torch.float32).eps if eps is None else eps)).sqrt()
    return input / length if weight is None else input / length * weight


@composes(F.normalize)
def _normalize(to: Watch, input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: None = None) -> Tensor:
    length: Tensor = input.norm(p, dim, keepdim=True)
    return input / length.clamp(min=eps)


@composes(torch.norm, Tensor.norm, torch.linalg.norm, torch.linalg.vector_norm)
def _norm(to: Watch, input: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Tensor:
    if p not in (2, "fro", None):
        raise to.refused(f"its order is {p}; only 2 can be")
    return (input * input).sum(tuple(range(input.ndim)) if dim is None else dim, keepdim=keepdim).sqrt()


@composes(torch.var_mean)
def _var_mean(
    to: Watch,
    input: Tensor,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> tuple[Tensor, Tensor]:
    axes = tuple(range(input.ndim)) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    count = math.prod(input.shape[axis] for axis in axes)
    less = int(unbiased) if correction is None else correction
    apart = input - input.mean(axes, keepdim=True)
    return (apart * apart).mean(axes, keepdim=keepdim) * (count / (count - less)), input.mean(axes, keepdim=keepdim)


@composes(torch.var, Tensor.var)
def _var(to: Watch, input: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> Tensor:
    return torch.var_mean(input, dim, *args, **kwargs)[0]
