"""The latency of blocks that there was no time to measure, from those that were measured.

The model is a sum of what the convolutions of a block ask of a device (operations, in channels rounded up to the widths
that kernels compute at once; weights; feature maps read and written; activations), each with a price that is not
negative. Every one of these grows with channels and with resolution, so the estimate does too, whatever was measured.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear, nnls

from fbnet_mobile.arch import Block
from fbnet_mobile.errors import UserError

Demand = Counter[tuple[object, ...]]
_VECTORS = (1, 8, 16, 32)
"""Channels that kernels may compute at once: 16 are as fast as 9 in one that takes 16."""
_FOLDS = 5


def estimate(measured: Mapping[Block, float], blocks: Sequence[Block]) -> tuple[list[float], float]:
    """Estimate blocks from measured ones.

    Args:
        measured: us of each.
        blocks: others.

    Returns:
        us of each of ``blocks``, never less than the fastest of the measured ones; and the root mean square of the
        relative error on measured ones, left out of the fit a fifth at a time.

    Raises:
        UserError: fewer than two blocks were measured.
    """
    known = list(measured)
    if len(known) < 2:
        raise UserError(f"{len(blocks)} blocks cannot be estimated from {len(known)} that were measured")
    latency_us = np.array([measured[block] for block in known])
    demands = _matrix([*known, *blocks])
    own, others = demands[: len(known)], demands[len(known) :]
    count = min(_FOLDS, len(known))
    folds = np.random.default_rng(0).permutation(len(known)) % count
    prices = [_fit(own[folds != fold], latency_us[folds != fold]) for fold in range(count)]
    left_out = np.concatenate(
        [own[folds == fold] @ price / latency_us[folds == fold] - 1 for fold, price in enumerate(prices)]
    )
    estimated = np.maximum(others @ _fit(own, latency_us), latency_us.min())
    return [float(value) for value in estimated], float(np.sqrt((left_out**2).mean()))


def demand(block: Block) -> Demand:
    """What a block asks of a device; each entry is not negative and grows with channels and resolution."""
    found: Demand = Counter()
    fields = block.model_dump()
    found["block", block.kind] = 1
    found["read", block.kind] = block.in_channels * block.resolution**2
    found["written", block.kind] = block.out_channels * block.out_resolution**2
    if block.stride == 1 and block.in_channels == block.out_channels:
        found["added", block.kind] = block.out_channels * block.out_resolution**2
    for number, convolution in enumerate(block.convolutions()):
        depthwise = 1 < convolution.groups == convolution.in_channels
        pixels = convolution.out_resolution**2
        stride = block.stride if convolution.kernel_size > 1 else 1  # it belongs to the convolution that is not 1x1
        kind = (depthwise, convolution.kernel_size, stride, convolution.batch_norm)
        found[*kind, "layer"] += 1
        found[*kind, "pixels"] += pixels
        found[*kind, "read"] += convolution.in_channels * pixels
        found[*kind, "written"] += convolution.out_channels * pixels
        found[*kind, "weights"] += convolution.weights
        for vector in _VECTORS:
            rounded = -(-convolution.out_channels // vector) * vector
            found[*kind, "macs", vector] += convolution.macs * rounded // convolution.out_channels
        if convolution.batch_norm:
            found["activation", fields.get("activation"), number] += convolution.out_channels * pixels
        else:  # squeeze-excite and classifiers, which pool a feature map before and may scale it after
            found["pooled", block.kind] += convolution.out_channels * block.out_resolution**2
    return found


def _matrix(blocks: Iterable[Block]) -> NDArray[np.float64]:
    """(blocks, demands), each column scaled to at most 1."""
    demands = [demand(block) for block in blocks]
    names = sorted({name for entry in demands for name in entry}, key=str)
    matrix = np.array([[entry[name] for name in names] for entry in demands], np.float64)
    scaled: NDArray[np.float64] = matrix / matrix.max(axis=0)
    return scaled


def _fit(demands: NDArray[np.float64], latency_us: NDArray[np.float64]) -> NDArray[np.float64]:
    """Prices, none negative, of the least squares of the relative error."""
    relative, ones = demands / latency_us[:, None], np.ones(len(latency_us))
    try:
        prices: NDArray[np.float64] = nnls(relative, ones, maxiter=10_000)[0]
    except RuntimeError:  # it did not converge; the other method always ends with the best so far
        prices = lsq_linear(relative, ones, bounds=(0, np.inf)).x
    return prices
