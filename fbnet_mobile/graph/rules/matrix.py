# ruff: noqa: A002 - rules name their arguments as torch does: input, min, max.
"""Products of matrices, and attention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fbnet_mobile.graph.rules.rule import Value, composes, lowers

if TYPE_CHECKING:
    from fbnet_mobile.graph.trace import Watch


@lowers(F.linear)
def _linear(to: Watch, input: Any, weight: Any, bias: Any = None) -> Value:
    matrix = to.array(weight)
    zeros = np.zeros(matrix.shape[0], np.float32)
    return to.add("linear", input, weights={"weight": matrix, "bias": zeros if bias is None else to.array(bias)})


@lowers(torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm)
def _matmul(to: Watch, input: Any, other: Any) -> Value:
    if min(len(input.shape), len(other.shape)) < 2:
        raise to.refused("one of its inputs is a vector; view it as a matrix")
    if isinstance(other, Tensor) and other.ndim == 2:
        return _linear(to, input, other.T)
    return to.add("matmul", _with_axes(to, input), _with_axes(to, other))


def _with_axes(to: Watch, matrix: Any) -> Any:
    """Return it with as many axes as the result has."""
    shape = (1,) * (to.result.ndim - len(matrix.shape)) + tuple(matrix.shape)
    if shape == tuple(matrix.shape):
        return matrix
    return to.add("reshape", matrix, shape=shape) if isinstance(matrix, Value) else matrix.reshape(shape)


@composes(Tensor.__rmatmul__)
def _rmatmul(to: Watch, input: Tensor, other: Tensor) -> Tensor:
    return torch.matmul(other, input)


@composes(torch.baddbmm, Tensor.baddbmm)
def _baddbmm(to: Watch, input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return input * beta + (batch1 @ batch2) * alpha


@composes(F.scaled_dot_product_attention)
def _attention(
    to: Watch,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if dropout_p or enable_gqa:
        raise to.refused("it drops at random, or has fewer keys than queries")
    scores = (query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros(attn_mask.shape).masked_fill(~attn_mask, _FORBIDDEN)
    return (scores if attn_mask is None else scores + attn_mask).softmax(-1) @ value


_FORBIDDEN = -1e4
"""What a score of what may not be looked at loses: as much as 16-bit floats hold, and no exponential survives."""


@composes(F.multi_head_attention_forward)
def _multi_head_attention(
    to: Watch,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, None]:
    """(length, batch, features) to the same, as ``nn.MultiheadAttention`` calls it with ``need_weights=False``."""
    more = (bias_k, bias_v, key_padding_mask, static_k, static_v)
    if need_weights or add_zero_attn or (training and dropout_p) or any(each is not None for each in more):
        raise to.refused("only need_weights=False can be, without dropout, a padding mask or more keys")
    if in_proj_weight is not None and query is key is value:
        projected = F.linear(query, in_proj_weight, in_proj_bias).chunk(3, -1)
    else:
        weights = (q_proj_weight, k_proj_weight, v_proj_weight) if in_proj_weight is None else in_proj_weight.chunk(3)
        biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
        parts: Any = zip((query, key, value), weights, biases, strict=True)
        projected = tuple(F.linear(*part) for part in parts)
    q, k, v = (x.reshape(*x.shape[:2], num_heads, -1).permute(1, 2, 0, 3) for x in projected)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal and attn_mask is None)
    return F.linear(out.permute(2, 0, 1, 3).flatten(2), out_proj_weight, out_proj_bias), None


@composes(torch.einsum)
def _einsum(to: Watch, equation: str, *operands: Any) -> Tensor:
    """Of two tensors, whose common axes are either summed over or in all three."""
    tensors = list(operands[0]) if len(operands) == 1 else list(operands)
    before, _, after = equation.replace(" ", "").partition("->")
    names = before.split(",")
    if len(names) != 2 or "." in equation or any(len({*name}) != len(name) for name in names):
        raise to.refused(f"'{equation}' is not a product of two tensors with named axes")
    first, second = names
    batch = [axis for axis in first if axis in second and axis in after]
    summed = [axis for axis in first if axis in second and axis not in after]
    rows, columns = ([axis for axis in own if axis not in other] for own, other in ((first, second), (second, first)))
    if {*batch, *rows, *columns} != {*after}:
        raise to.refused(f"'{equation}' sums over an axis of one tensor alone")
    sizes = {
        axis: size
        for name, tensor in zip(names, tensors, strict=True)
        for axis, size in zip(name, tensor.shape, strict=True)
    }

    def matrices(tensor: Tensor, name: str, *groups: list[str]) -> Tensor:
        whole = tensor.permute([name.index(axis) for group in groups for axis in group])
        return whole.reshape(
            [sizes[axis] for axis in batch] + [math.prod(sizes[a] for a in group) for group in groups[1:]]
        )

    product = matrices(tensors[0], first, batch, rows, summed) @ matrices(tensors[1], second, batch, summed, columns)
    made = [*batch, *rows, *columns]
    return product.reshape([sizes[axis] for axis in made]).permute([made.index(axis) for axis in after])
