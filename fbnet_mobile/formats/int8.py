"""Post-training quantisation, whatever the format: ranges chosen by what they cost, float32 for layers that need it.

A format gives a :class:`Quantiser` of its float32 file; everything is judged by files as they would be kept, run in
their runtime. Choices are made by the images of calibration: what an export claims is looked at on others.
"""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.base import Session
from fbnet_mobile.formats.ranges import METHODS, Ranges, observe
from fbnet_mobile.graph.operations import Graph
from fbnet_mobile.graph.probabilities import as_logits
from fbnet_mobile.registry import unknown

Array = NDArray[np.float32]

AUTO = "auto"
ENOUGH = 0.98
"""Part of the calibration images with the float32 file's answer from which no layer is kept in float32."""
ENOUGH_ONE_LOGIT = 0.05
"""The same for a network of one logit: the largest difference, relative to the largest logit."""
_JUDGED = 96
"""Calibration images that ranges are chosen by: more cost time and chose the same."""
_LOOKED_INTO = 16
"""Calibration images that layers are compared on."""
_MOST_KEPT, _FEW_KEPT = 0.25, 4
"""Part of the layers, and a number that is always tried: what needs more of them in float32 is better off in fp16."""


@dataclass(frozen=True)
class LayerNoise:
    """What eight bits do to one layer's values.

    Attributes:
        name: of the layer, as the file names what it gives.
        snr_db: variance of its values in float32 over the power of their error in the int8 file, in decibels, by the
            mean of the inverse over channels; the error holds what came in from the layers before.
        added: how much larger that inverse is than that of what it reads; the share of what it tells that is lost here.
        macs: multiplications that it costs; 0 if it has no weights.
    """

    name: str
    snr_db: float
    added: float
    macs: int = 0


@dataclass(frozen=True)
class Quantised:
    """What was chosen, and by what.

    Attributes:
        ranges: name of the method, one of :data:`fbnet_mobile.formats.ranges.METHODS`.
        errors: power of the error of the logits over that of the logits on calibration images, by method.
        kept: layers in float32.
        layers: what each layer suffers, in the order in which they are computed.
    """

    ranges: str
    errors: Mapping[str, float]
    kept: tuple[str, ...]
    layers: tuple[LayerNoise, ...]

    def blamed(self, count: int = 3) -> tuple[LayerNoise, ...]:
        """The layers that add most."""
        return tuple(sorted(self.layers, key=lambda layer: -layer.added)[:count])


class Quantiser(ABC):
    """A float32 file, and what its format can make of it in eight bits.

    Layers are the operations of the file, named by what they give.
    """

    suffix: str

    @abstractmethod
    def reads(self) -> Mapping[str, tuple[str, ...]]:
        """What each layer reads of other layers, or of the input, in the order in which they are computed."""

    @abstractmethod
    def values(self, images: NDArray[Any], quantised: Path | None = None) -> Iterator[Mapping[str, Array]]:
        """What the input and each layer gives for each image, by name; in a file that was quantised, as real numbers.

        Arrays are (1, channels, ...). A quantised file need not have all of them.
        """

    @abstractmethod
    def session(self, quantised: Path | None = None) -> Session:
        """Load the file, or one that was quantised."""

    @abstractmethod
    def write(self, ranges: Ranges, keep: Collection[str], target: Path) -> None:
        """Write the int8 file with these ranges of what layers give, and some layers in float32."""


def quantise(
    quantiser: Quantiser, images: NDArray[Any], target: Path, ranges: str = AUTO, keep: str | Sequence[str] = AUTO
) -> Quantised:
    """Write an int8 file.

    Args:
        quantiser: of the float32 file.
        images: (N, channels, height, width) to calibrate on, as the file takes them.
        target: is not there yet.
        ranges: one of :data:`fbnet_mobile.formats.ranges.METHODS` or "auto": that of the least error of the logits.
        keep: layers, or modules with all layers in them, that stay in float32; "auto": none if the answers are those of
            the float32 file on :data:`ENOUGH` of the images, else those that add most noise, until they are.

    Raises:
        UserError: an unknown method or layer.
    """
    if ranges not in (AUTO, *METHODS):
        raise UserError(unknown("way to ranges", ranges, (AUTO, *METHODS)))
    methods = tuple(METHODS) if ranges == AUTO else (ranges,)
    reads = quantiser.reads()
    kept = frozenset() if keep == AUTO else _matching((keep,) if isinstance(keep, str) else keep, tuple(reads))
    seen = observe(quantiser.values(images))
    judged = images[np.unique(np.linspace(0, len(images) - 1, min(_JUDGED, len(images))).astype(int))]
    expected = _logits(quantiser.session()(judged))
    errors: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        numbers = iter(range(10_000))

        def tried(found: Ranges, keep: Collection[str]) -> tuple[Path, Array]:
            path = Path(folder) / f"{next(numbers)}{quantiser.suffix}"
            quantiser.write(found, keep, path)
            return path, _logits(quantiser.session(path)(judged))

        attempts: dict[str, tuple[Ranges, Path, Array]] = {}
        for method in methods:
            found = {name: METHODS[method](histogram) for name, histogram in seen.items()}
            attempts[method] = (found, *tried(found, kept))
            errors[method] = relative_error(expected, attempts[method][2])
        chosen = min(methods, key=lambda method: errors[method])
        found, path, actual = attempts[chosen]
        layers = _layers(quantiser, path, judged[:_LOOKED_INTO])
        if keep == AUTO and not good(expected, actual):
            best, some, latest, worst = errors[chosen], kept, layers, set[str]()
            found_in_file = {layer.name for layer in layers}
            while not good(expected, actual):
                # One more, then two, four, ...: what is left to blame shows only when the worst is mended.
                rest = [layer for layer in sorted(latest, key=lambda layer: -layer.added) if layer.name not in some]
                worst |= {layer.name for layer in rest[: max(len(worst), 1)] if layer.added > 0}
                more = _around(worst, reads, found_in_file)
                if more == some or len(worst) > max(_MOST_KEPT * len(reads), _FEW_KEPT):
                    break
                some = more
                another, actual = tried(found, some)
                latest = _layers(quantiser, another, judged[:_LOOKED_INTO])
                if relative_error(expected, actual) < best:
                    best, path, kept, layers = relative_error(expected, actual), another, some, latest
        target.write_bytes(path.read_bytes())
    return Quantised(chosen, errors, tuple(name for name in reads if name in kept), layers)


def _around(worst: Collection[str], reads: Mapping[str, tuple[str, ...]], found: Collection[str]) -> frozenset[str]:
    """Layers, with what reads them, as what they give is rounded for whoever computes in eight bits, and with what the
    quantised file has fused into one of these."""
    some = {name for name, before in reads.items() if name in worst or {*before} & {*worst}}
    return frozenset(
        some | {before for name in some for before in reads[name] if before in reads and before not in found}
    )


def with_costs(quantised: Quantised, graph: Graph) -> Quantised:
    """Return the same with the multiplications of each layer, by the nodes of the graph that it computes."""
    consumers = graph.consumers()
    costs: dict[str, int] = {}
    for node in graph.nodes:
        if node.op not in ("conv2d", "linear"):
            continue
        # Of a node's operations, such as a pad and a convolution, the last one is it; an activation may be fused to it.
        after = graph.only_consumer(consumers, node.name)
        for stem in (node.name, "output" if after is None else after.name):
            found = [layer.name for layer in quantised.layers if _numbered(layer.name, stem)]
            if found:
                places = node.shape[2] * node.shape[3] if len(node.shape) == 4 else 1
                costs[found[-1]] = costs.get(found[-1], 0) + node.weights["weight"].size * places
                break
    layers = (replace(layer, macs=costs.get(layer.name, 0)) for layer in quantised.layers)
    return replace(quantised, layers=tuple(layers))


def _numbered(name: str, stem: str) -> bool:
    """Whether the name is the stem, or that with digits behind, as a format makes names unique."""
    return name.startswith(stem) and (name == stem or name[len(stem) :].isdigit())


def _logits(results: Array) -> Array:
    """Return what a network gives, but logits for probabilities, which hide what happens to unlikely classes."""
    given = results.ndim == 2 and results.shape[1] > 1 and results.min() >= 0
    return as_logits(results) if given and np.abs(results.sum(1) - 1).max() < 0.01 else results


def relative_error(expected: Array, actual: Array) -> float:
    """Power of the difference over that of what is expected."""
    power = float((expected.astype(np.float64) ** 2).sum())
    wrong = float(((actual - expected.astype(np.float64)) ** 2).sum())
    if not np.isfinite(wrong):
        return float("inf")
    return wrong / power if power else wrong


def good(expected: Array, actual: Array) -> bool:
    """Whether nothing needs to be kept in float32."""
    if expected.shape[1] > 1:
        return float((expected.argmax(1) == actual.argmax(1)).mean()) >= ENOUGH
    return float(np.abs(expected - actual).max()) <= ENOUGH_ONE_LOGIT * float(np.abs(expected).max())


def _matching(asked: Sequence[str], layers: Sequence[str]) -> frozenset[str]:
    """Layers by their names, without the digits that a format adds, or by that of a module that they are in."""
    found: set[str] = set()
    for name in asked:
        some = {layer for layer in layers if layer.startswith(f"{name}.") or _numbered(layer, name)}
        if not some:
            raise UserError(unknown("layer", name, layers))
        found |= some
    return frozenset(found)


def _layers(quantiser: Quantiser, path: Path, images: NDArray[Any]) -> tuple[LayerNoise, ...]:
    sums: dict[str, NDArray[np.float64]] = {}
    for real, rounded in zip(quantiser.values(images), quantiser.values(images, path), strict=True):
        for name, values in rounded.items():
            if name in real and real[name].shape == values.shape:
                exact = real[name].astype(np.float64)
                axes = tuple(axis for axis in range(exact.ndim) if axis != 1)
                found = np.stack([each.mean(axes) for each in (exact, exact**2, (values - exact) ** 2)])
                sums[name] = sums.get(name, 0.0) + found / len(images)
    part = {name: _noise(*each) for name, each in sums.items()}
    reads = quantiser.reads()

    def came_in(name: str) -> float:
        """The noise of what a layer reads, through what the quantised file has fused with it."""
        return max((part[each] if each in part else came_in(each) for each in reads.get(name, ())), default=0.0)

    return tuple(
        LayerNoise(
            name,
            float(-10 * np.log10(part[name])) if part[name] else float("inf"),
            max(part[name] - came_in(name), 0.0),
        )
        for name in reads
        if name in part
    )


def _noise(mean: NDArray[np.float64], square: NDArray[np.float64], error: NDArray[np.float64]) -> float:
    """Mean over the channels of a channel's error over its variance, at most 1: then nothing is left of it.

    Channel by channel, as one of large values would hide what happens to the others, and without what is constant, as
    the layers that follow take that away again.
    """
    variance = square - mean**2
    told = variance > 1e-12 * np.maximum(square, 1e-30)
    return float(np.minimum(error[told] / variance[told], 1).mean()) if told.any() else 0.0
