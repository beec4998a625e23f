# ruff: noqa: A002 - rules name their arguments as torch does: input, min, max.
"""Convolutions, linear layers and the batch norms that are folded into them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from fbnet_mobile.graph.rules.rule import Value, around, lowers, pair

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


@lowers(F.linear)
def _linear(to: Watch, input: Any, weight: Any, bias: Any = None) -> Value:
    matrix = to.array(weight)
    zeros = np.zeros(matrix.shape[0], np.float32)
    if isinstance(input, Value) and len(input.shape) != 2:
        raise to.refused("it acts on the last axis of a feature map; flatten it first, or use a 1x1 convolution")
    return to.add("linear", input, weights={"weight": matrix, "bias": zeros if bias is None else to.array(bias)})


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
