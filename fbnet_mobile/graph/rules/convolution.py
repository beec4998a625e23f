# ruff: noqa: A002 - rules name their arguments as torch does: input, min, max.
"""Convolutions and the batch norms that are folded into them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fbnet_mobile.graph.rules.rule import Value, around, composes, lowers, pair

if TYPE_CHECKING:
    from fbnet_mobile.graph.trace import Watch


@lowers(torch.conv2d)
def _conv2d(
    to: Watch,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    kernel = to.array(weight)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(pair(dilation), kernel.shape[2:], strict=True)]
        top, left = (total // 2 for total in totals)
        sides = (top, left, totals[0] - top, totals[1] - left)
    else:
        sides = around(0 if padding == "valid" else padding)
    zeros = np.zeros(kernel.shape[0], np.float32)
    return to.add(
        "conv2d",
        input,
        weights={"weight": kernel, "bias": zeros if bias is None else to.array(bias)},
        stride=pair(stride),
        dilation=pair(dilation),
        padding=sides,
        groups=groups,
    )


@composes(torch.conv1d)
def _conv1d(
    to: Watch,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    def across(number: Any, of_height: int) -> Any:
        return number if isinstance(number, str) else (of_height, pair(number)[0])

    wide = torch.conv2d(
        input.unsqueeze(2),
        weight.unsqueeze(2),
        bias,
        across(stride, 1),
        across(padding, 0),
        across(dilation, 1),
        groups,
    )
    return wide.squeeze(2)


@lowers(torch.conv_transpose2d)
def _conv_transpose2d(
    to: Watch,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Value:
    if pair(dilation) != (1, 1):
        raise to.refused("a dilation other than 1")
    kernel = to.array(weight)
    zeros = np.zeros(to.result.shape[1], np.float32)
    return to.add(
        "conv_transpose2d",
        input,
        weights={"weight": kernel, "bias": zeros if bias is None else to.array(bias)},
        stride=pair(stride),
        padding=around(padding),
        output_padding=pair(output_padding),
        groups=groups,
    )


@lowers(F.batch_norm, torch.batch_norm)
def _batch_norm(
    to: Watch,
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Value:
    if training or running_mean is None or running_var is None:
        raise to.refused("it normalises by the batch at hand; use running statistics")
    # Computed in double precision: rounding here would be added to what every format rounds.
    mean, variance = to.array(running_mean).astype(np.float64), to.array(running_var).astype(np.float64)
    scale = 1 / np.sqrt(variance + eps)
    if weight is not None:
        scale = scale * to.array(weight)
    shift = -mean * scale
    if bias is not None:
        shift = shift + to.array(bias)
    return to.add("affine", input, weights={"scale": scale.astype(np.float32), "shift": shift.astype(np.float32)})
