"""From the sum of blocks to a network: the smallest correction that whole networks, measured among the blocks, ask for.

A block alone finds its weights and its input in the processor's cache, because it ran a moment ago; in a network they
have to be fetched. So a network takes longer than its blocks, by a factor and, more in some than in others, by a time
for each byte of weights; not for those of the classifier, which are too many to be kept and are read once. A runtime
that orders feature maps in its own way (ONNX Runtime does) reorders the input and the output of a block alone, but
within a network only what enters and leaves it: a time, negative, for each block and for each element between blocks.
What reads the image may take several times as long by itself (OpenVINO's first convolution did, four times): a time for
each element that it gives. Which of these corrections is used is decided by how well each predicts networks that were
left out of its fit, and a larger one has to be better beyond chance.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fbnet_mobile.arch import Block

Array = NDArray[np.floating[Any]]
Term = Callable[[Block], float]


class Network(NamedTuple):
    """A network that was measured, and so were its blocks.

    Attributes:
        blocks: as they follow one another.
        alone_us: what each takes by itself.
        measured_us: what the network takes.
        fixed_us: what each invocation takes, and is in none of ``alone_us``.
    """

    blocks: tuple[Block, ...]
    alone_us: tuple[float, ...]
    measured_us: float
    fixed_us: float = 0.0


_IMAGE_CHANNELS = 3


def _weights(block: Block) -> float:
    """Thousands of parameters, to which the bytes of any precision are proportional, but for the classifier's.

    Each of those is read once for an image, and there are many: by itself, too, the block has to wait for them.
    """
    layers = list(block.convolutions())
    return sum(layer.params for layer in (layers[:-1] if block.ends_network else layers)) / 1e3


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

    Errors are those of what blocks add, none of which adds less than nothing. A fit may want that: what all networks
    have in common, such as the block that reads the image, can stand in for a constant, by more than that block takes.
    """
    return _calibrate([_Sample.of(network) for network in networks])


def _calibrate(networks: Sequence["_Sample"]) -> Calibration:
    if not networks:
        return Calibration()
    chosen, errors = "scale", _left_out("scale", networks)
    for count in sorted({len(terms) for terms in CORRECTIONS.values()} - {0}):
        if len(networks) < 4 * (1 + count):
            break
        candidates = {
            name: _left_out(name, networks)
            for name, terms in CORRECTIONS.items()
            if len(terms) == count and not _gives_back_weights(name, _fit(name, networks))
        }
        if not candidates:
            continue
        best = min(candidates, key=lambda name: float(candidates[name].mean()))
        better = errors - candidates[best]
        if better.mean() > better.std() / np.sqrt(len(better)) > 0:
            chosen, errors = best, candidates[best]
    return Calibration(chosen, tuple(float(number) for number in _fit(chosen, networks)))


def left_out_error(networks: Sequence[Network]) -> PredictionError:
    """The error on networks, each predicted by a calibration that was chosen and fitted without it; at least two."""
    samples = [_Sample.of(network) for network in networks]
    predicted = []
    for number, sample in enumerate(samples):
        found = _calibrate([*samples[:number], *samples[number + 1 :]])
        predicted.append(sample.predicted(found.name, np.array(found.coefficients)))
    return prediction_error(predicted, [network.measured_us for network in networks])


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


@dataclass(frozen=True)
class _Sample:
    """A network as numbers: for each correction (blocks, 1 + terms), what coefficients are for, and its sums."""

    fixed_us: float
    measured_us: float
    blocks: dict[str, Array]
    sums: dict[str, Array]

    @classmethod
    def of(cls, network: Network) -> Self:
        columns = {term: np.array([term(block) for block in network.blocks]) for term in chain(*CORRECTIONS.values())}
        alone = np.array(network.alone_us)
        blocks = {name: np.stack([alone, *(columns[term] for term in terms)], 1) for name, terms in CORRECTIONS.items()}
        sums = {name: each.sum(0) + np.eye(1, each.shape[1])[0] * network.fixed_us for name, each in blocks.items()}
        return cls(network.fixed_us, network.measured_us, blocks, sums)

    def predicted(self, name: str, coefficients: Array) -> float:
        """In us, as a table adds it up: no block adds less than nothing."""
        return float(coefficients[0] * self.fixed_us + np.maximum(self.blocks[name] @ coefficients, 0).sum())


def _fit(name: str, networks: Sequence[_Sample]) -> Array:
    """The coefficients of the least squares of the relative error."""
    return _least_squares(_relative(name, networks))


def _relative(name: str, networks: Sequence[_Sample]) -> Array:
    """(networks, 1 + terms), whose product with the coefficients is to be 1."""
    return np.array([network.sums[name] / network.measured_us for network in networks])


def _least_squares(relative: Array) -> Array:
    return np.linalg.lstsq(relative, np.ones(len(relative)), rcond=None)[0]


def _gives_back_weights(name: str, coefficients: Array) -> bool:
    return _weights in (terms := CORRECTIONS[name]) and bool(coefficients[1 + terms.index(_weights)] < 0)


def _left_out(name: str, networks: Sequence[_Sample]) -> Array:
    """The relative error of each network, by a fit without it."""
    relative = _relative(name, networks)
    others = (_least_squares(np.delete(relative, number, axis=0)) for number in range(len(networks)))
    return np.array(
        [abs(each.predicted(name, fit) / each.measured_us - 1) for each, fit in zip(networks, others, strict=True)]
    )
