"""Which range of numbers eight bits should stand for: what there is to choose among, by what a layer was seen to give.

A wide range loses by rounding, a narrow one by clipping; which loses less depends on the values, and on what the
network makes of them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Range = tuple[float, float]
Ranges = dict[str, Range]
Array = NDArray[np.float32]

_BINS = 8192
_SAMPLE = 16384
"""Values of a layer that are counted of one image; of larger feature maps every second, third, ..., as many as fit."""
_LEVELS = 256
_INFINITE = 1e38


@dataclass
class Histogram:
    """How often which values were seen: equal bins from -``reach`` to ``reach``, which doubles as it must.

    Attributes:
        low: the least value seen.
        high: the largest.
        reach: a power of two; 0 before anything but zeros was seen.
        counts: (:data:`_BINS`,).
    """

    low: float = np.inf
    high: float = -np.inf
    reach: float = 0.0
    counts: NDArray[np.float64] = field(default_factory=lambda: np.zeros(_BINS))

    def add(self, values: Array) -> None:
        """Count the values of an array of any shape, but for those that stand for infinity, as a max pool's padding."""
        flat: Array = values.ravel()
        low, high = float(flat.min()), float(flat.max())
        if not -_INFINITE < low <= high < _INFINITE:
            flat = flat[np.abs(flat) < _INFINITE]
            if not flat.size:
                return
            low, high = float(flat.min()), float(flat.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        largest = max(abs(low), abs(high))
        if not largest:
            return
        if not self.reach:
            self.reach = float(2.0 ** np.ceil(np.log2(largest)))
        while self.reach < largest:
            pairs = self.counts.reshape(-1, 2).sum(1)
            self.counts[:] = 0
            self.counts[_BINS // 4 : -_BINS // 4] = pairs
            self.reach *= 2
        step = 1 + (flat.size - 1) // _SAMPLE
        numbers = ((flat[::step] / self.reach + 1) * (_BINS / 2)).astype(np.int64)
        self.counts += np.bincount(np.minimum(numbers, _BINS - 1), minlength=_BINS)

    @property
    def whole(self) -> Range:
        """From the least to the largest value, and zero, which eight bits always stand for."""
        return (min(self.low, 0.0), max(self.high, 0.0)) if self.low <= self.high else (0.0, 0.0)

    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        numbers = np.arange(_BINS, dtype=np.float64)
        centres: NDArray[np.float64] = self.reach * ((numbers + 0.5) * (2 / _BINS) - 1)
        return centres


def observe(
    images: Iterable[Mapping[str, Array]], before: Mapping[str, Histogram] | None = None
) -> dict[str, Histogram]:
    """Return a histogram for each layer from what the layers gave for each image, by name.

    Those of images seen ``before`` go on.
    """
    found: dict[str, Histogram] = dict(before or {})
    for layers in images:
        for name, values in layers.items():
            found.setdefault(name, Histogram()).add(values)
    return found


def min_max(seen: Histogram) -> Range:
    """All that was seen: nothing is clipped."""
    return seen.whole


def percentile(part: float) -> Callable[[Histogram], Range]:
    """The middle ``part`` of the values; the same number of them is clipped at either end, where there are any."""

    def found(seen: Histogram) -> Range:
        low, high = seen.whole
        total = np.cumsum(seen.counts)
        if not total[-1]:
            return low, high
        width = 2 * seen.reach / _BINS
        first = np.searchsorted(total, total[-1] * (1 - part) / 2, side="right")
        last = np.searchsorted(total, total[-1] * (1 + part) / 2)
        edges = first * width - seen.reach, (last + 1) * width - seen.reach
        return min(max(edges[0], low), 0.0), max(min(edges[1], high), 0.0)

    return found


def mean_square(seen: Histogram) -> Range:
    """The range of the least mean square of what rounding and clipping change."""
    centres = seen.centres()

    def error(low: float, high: float) -> float:
        step = (high - low) / (_LEVELS - 1)
        zero = np.round(-low / step)
        levels = np.clip(np.round(centres / step) + zero, 0, _LEVELS - 1)
        return float((seen.counts * (centres - (levels - zero) * step) ** 2).sum())

    return _least(seen, error)


def entropy(seen: Histogram) -> Range:
    """The range of the least Kullback-Leibler divergence of the quantised from the seen distribution.

    As in S. Migacz, 8-bit Inference with TensorRT (GTC 2017): of what is seen in the range, with what is clipped
    counted at its ends, from the same in as many bins as there are levels, each spread evenly over where there was any.
    """
    centres = seen.centres()

    def error(low: float, high: float) -> float:
        inside = (centres >= low) & (centres <= high)
        counts = seen.counts[inside]
        if counts.size < _LEVELS or not counts.any():
            return np.inf
        level = np.minimum((np.arange(counts.size) * _LEVELS) // counts.size, _LEVELS - 1)
        clipped = counts.copy()
        clipped[0] += seen.counts[centres < low].sum()
        clipped[-1] += seen.counts[centres > high].sum()
        filled = counts > 0
        sums, places = (np.bincount(level, weights=each, minlength=_LEVELS) for each in (counts, filled))
        spread = np.where(filled, sums[level] / np.maximum(places[level], 1), 0)
        p, q = clipped / clipped.sum(), spread / spread.sum()
        both = (p > 0) & (q > 0)
        return float((p[both] * np.log(p[both] / q[both])).sum()) - float(np.log(1e-9) * p[(p > 0) & (q == 0)].sum())

    return _least(seen, error)


def _least(seen: Histogram, error: Callable[[float, float], float]) -> Range:
    """The range of the least error among parts of the whole one: both ends alike, then the upper and the lower end."""
    low, high = seen.whole
    if not seen.counts.any() or high <= low:
        return low, high
    parts = np.linspace(1, 0.1, 37)  # the widest first, which is taken where all are as good
    both = min(parts, key=lambda part: error(part * low, part * high))
    low, high = both * low, both * high
    if high > 0:
        high = min((part * seen.whole[1] for part in parts), key=lambda end: error(low, end))
    if low < 0:
        low = min((part * seen.whole[0] for part in parts), key=lambda end: error(end, high))
    return float(low), float(high)


METHODS: Mapping[str, Callable[[Histogram], Range]] = {
    "min-max": min_max,
    "percentile-99.99": percentile(0.9999),
    "percentile-99.9": percentile(0.999),
    "mse": mean_square,
    "entropy": entropy,
}
"""Ways to a range, by name."""
