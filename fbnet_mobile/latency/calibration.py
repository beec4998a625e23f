"""From the sum of blocks to a network: the smallest correction that whole networks, measured among the blocks, ask for.

A block alone finds its weights and its input in the processor's cache, because it ran a moment ago; in a network they
have to be fetched. So a network takes longer than its blocks, by a factor and, more in some than in others, by a time
for each byte of weights. A runtime that orders feature maps in its own way (ONNX Runtime does) reorders the input and
the output of a block alone, but within a network only what enters and leaves it: a time, negative, for each block and
for each element between blocks. What reads the image may take several times as long by itself (OpenVINO's first
convolution did, four times): a time for each element that it gives. Which of these corrections is used is decided by
how well each predicts networks that were left out of its fit, and a larger one has to be better beyond chance.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbnet_mobile.arch import Block

Array = NDArray[np.floating[Any]]
Term = Callable[[Block], float]
Network = tuple[float, tuple[Block, ...], float]
"""The sum of its blocks in us, the blocks, and what was measured in us."""


_IMAGE_CHANNELS = 3


def _weights(block: Block) -> float:
    """Thousands of parameters, to which the bytes of any precision are proportional."""
    return block.params / 1e3


def _borders(block: Block) -> float:
    return elements_between(block) / 1e3


def elements_between(block: Block) -> int:
    """Elements of the block's input and output."""
    return block.in_channels * block.resolution**2 + block.out_channels * block.out_resolution**2


def _first(block: Block) -> float:
    return block.out_channels * block.out_resolution**2 / 1e3 if block.in_channels == _IMAGE_CHANNELS else 0.0


def _one(block: Block) -> float:
    return 1.0


CORRECTIONS: dict[str, tuple[Term, ...]] = {
    "scale": (),
    "scale + time per block": (_one,),
    "scale + time per weight": (_weights,),
    "scale + time per element between blocks": (_borders,),
    "scale + time per block and element between": (_one, _borders),
    "scale + time per element between blocks and of the first": (_borders, _first),
    "scale + time per block, weight and element between": (_one, _weights, _borders),
    "scale + time per weight, element between blocks and of the first": (_weights, _borders, _first),
}
"""From the smallest to the largest; the terms of each are added up over a network's blocks, beside the scaled sum."""


@dataclass(frozen=True)
class PredictionError:
    """How well networks are predicted that were left out of the calibration."""

    networks: int
    mean: float
    within_5_percent: float
    within_10_percent: float
    spearman: float


@dataclass(frozen=True)
class Calibration:
    """A correction: ``coefficients`` are the scale, then one in us for each of the terms of ``name``."""

    name: str = "scale"
    coefficients: tuple[float, ...] = (1.0,)

    def block_us(self, block: Block, alone_us: float) -> float:
        """What a block that takes ``alone_us`` by itself adds to a network."""
        scale, *others = self.coefficients
        terms = CORRECTIONS[self.name]
        added = sum(coefficient * term(block) for coefficient, term in zip(others, terms, strict=True))
        return max(scale * alone_us + added, 0.0)


def calibrate(networks: Sequence[Network]) -> Calibration:
    """The correction for these networks; none without any.

    Of the corrections with as many terms the one is considered that errs least, each network being left out in turn. It
    is taken if its errors are smaller than those of the best with fewer terms by more than the standard error of the
    difference. None has weights fetched in negative time: it would be wrong by much on networks with more weights.
    """
    if not networks:
        return Calibration()
    measured = np.array([network[2] for network in networks])
    chosen, errors = "scale", np.abs(_left_out(_features(networks, ()), measured) - 1)
    for count in sorted({len(terms) for terms in CORRECTIONS.values()} - {0}):
        if len(networks) < 4 * (1 + count):
            break
        candidates = {}
        for name, terms in CORRECTIONS.items():
            features = _features(networks, terms)
            if len(terms) == count and not (
                _weights in terms and _fit(features, measured)[1 + terms.index(_weights)] < 0
            ):
                candidates[name] = np.abs(_left_out(features, measured) - 1)
        if not candidates:
            continue
        best = min(candidates, key=lambda name: float(candidates[name].mean()))
        better = errors - candidates[best]
        if better.mean() > better.std() / np.sqrt(len(better)) > 0:
            chosen, errors = best, candidates[best]
    fitted = _fit(_features(networks, CORRECTIONS[chosen]), measured)
    return Calibration(chosen, tuple(float(number) for number in fitted))


def left_out_error(networks: Sequence[Network]) -> PredictionError:
    """The error on networks, each predicted by a calibration that was chosen and fitted without it; at least two."""
    predicted = []
    for number, (alone_us, blocks, _) in enumerate(networks):
        found = calibrate([*networks[:number], *networks[number + 1 :]])
        features = _features([(alone_us, blocks, 0.0)], CORRECTIONS[found.name])
        predicted.append(float(features[0] @ np.array(found.coefficients)))
    return prediction_error(predicted, [network[2] for network in networks])


def prediction_error(predicted: Sequence[float] | Any, measured: Sequence[float] | Any) -> PredictionError:
    """Mean relative error, the shares within 5 and 10 %, and Spearman's rank correlation (0 if all are equal)."""
    predicted, measured = np.asarray(predicted), np.asarray(measured)
    relative = np.abs(predicted / measured - 1)
    return PredictionError(
        networks=len(measured),
        mean=float(relative.mean()),
        within_5_percent=float((relative <= 0.05).mean()),
        within_10_percent=float((relative <= 0.10).mean()),
        spearman=_spearman(predicted, measured),
    )


def _spearman(predicted: Array, measured: Array) -> float:
    """Rank correlation; 0 where one of the two is all equal, so that there is no order to agree with."""
    if len(measured) < 2 or np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return 0.0
    from scipy.stats import spearmanr  # half a second of imports that most commands can do without

    return float(spearmanr(predicted, measured).statistic)


def _features(networks: Sequence[Network], terms: Sequence[Term]) -> Array:
    """(networks, 1 + terms)"""
    return np.array([[alone_us, *(sum(map(term, blocks)) for term in terms)] for alone_us, blocks, _ in networks])


def _fit(features: Array, measured: Array) -> Array:
    """The coefficients of the least squares of the relative error."""
    return np.linalg.lstsq(features / measured[:, None], np.ones(len(measured)), rcond=None)[0]


def _left_out(features: Array, measured: Array) -> Array:
    """Each network's prediction over its measurement, by a fit without it (for a linear fit, from its leverage)."""
    relative = features / measured[:, None]
    leverage = np.einsum("ij,ji->i", relative, np.linalg.pinv(relative))
    residual = 1 - relative @ _fit(features, measured)
    left_out: Array = 1 - residual / np.maximum(1 - leverage, 1e-9)
    return left_out
