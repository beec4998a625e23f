"""Post-training quantisation, whatever the format: ranges chosen by what they cost, float32 for layers that need it.

A format gives a :class:`Quantiser` of its float32 file; everything is judged by files as they would be kept, run in
their runtime. Choices are made by the images of calibration: what an export claims is looked at on others.
"""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.formats.base import Session
from fbnet_mobile.formats.correction import correct_biases, find_floors, find_ranges, observe_graph, rounding_costs
from fbnet_mobile.formats.ranges import METHODS, Histogram, Range, Ranges, min_max, observe
from fbnet_mobile.graph.lowered import computable
from fbnet_mobile.graph.operations import INPUT, Graph, Node
from fbnet_mobile.graph.probabilities import as_logits, softmax
from fbnet_mobile.graph.rounded import MOVING
from fbnet_mobile.registry import unknown

Array = NDArray[np.float32]
T = TypeVar("T")

AUTO = "auto"
LEARNED = "learned"
MIXED = "mixed"
"""For each layer the way to ranges that costs least."""
_OTHERWISE = "percentile-99.99"
"""The way to ranges that were not learned beside others that were."""
ENOUGH = 0.98
"""Part of the calibration images with the float32 file's answer under which layers are kept in float32."""
ENOUGH_ERROR = 0.01
"""The error of the logits (:func:`error`) over which layers are kept in float32, however many answers are the same.

A network is sure of images that it was trained on, so that their answers stay what they are while those of others
change: of networks trained on the digits, those of an error of 0.005 kept 99 % of the answers on test images, of 0.02
94 %, of 0.09 83 %, and all of them 100 % on images that they were trained on.
"""
ENOUGH_ONE_LOGIT = 0.05
"""For a network of one logit: the largest difference, relative to the largest logit."""
_JUDGED = 96
"""Calibration images that choices are made by, of those that ranges are not taken from: more cost time and chose the
same."""
_LOOKED_INTO = 16
"""Calibration images that layers are compared on."""
_WORTH = 0.5
"""Part of the error that must be left for layers to be kept in float32, where it is still too large, and for ranges of
half of the images to be taken instead of those of all."""
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
        error: of the logits, if nothing else were rounded
            (:func:`fbnet_mobile.formats.correction.rounding_costs`); None if it is not known.
    """

    name: str
    snr_db: float
    added: float
    macs: int = 0
    error: float | None = None

    @property
    def blame(self) -> tuple[float, float]:
        """What layers are ordered by: noise may be large where nothing depends on it."""
        return self.error or 0.0, self.added


@dataclass(frozen=True)
class Quantised:
    """What was chosen, and by what.

    Attributes:
        ranges: name of the method, one of :data:`fbnet_mobile.formats.ranges.METHODS`, "mixed" or "learned".
        errors: the error of the logits (:func:`error`) by method, and by what was tried after it, such as "corrected".
        corrected: whether biases were corrected.
        kept: layers in float32.
        layers: what each layer suffers, in the order in which they are computed.
        memory: bytes of the values of a file of integers that are there at once, at the most; None for other files.
    """

    ranges: str
    errors: Mapping[str, float]
    corrected: bool
    kept: tuple[str, ...]
    layers: tuple[LayerNoise, ...]
    memory: int | None = None

    def blamed(self, count: int = 3) -> tuple[LayerNoise, ...]:
        """The layers that cost most."""
        return tuple(sorted(self.layers, key=lambda layer: layer.blame, reverse=True)[:count])


class Quantiser(ABC):
    """A float32 file, and what its format can make of it in eight bits.

    Layers are the operations of the file, named by what they give.

    Attributes:
        suffix: of files.
        in_pairs: whether a runtime of the format may add products in pairs, in 16 bits; see
            :func:`fbnet_mobile.graph.rounded.weight_ends`.
    """

    suffix: str
    in_pairs: bool

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
    def write(self, ranges: Ranges, keep: Collection[str], target: Path, source: Path | None = None) -> None:
        """Write the int8 file with these ranges of what layers give, and some layers in float32.

        ``source`` is another float32 file, of other weights, to be written in place of the quantiser's own.
        """


@dataclass(frozen=True)
class Origin:
    """What a float32 file was written from.

    Attributes:
        graph: the network.
        write: writes such a file of another graph of the same nodes.
    """

    graph: Graph
    write: Callable[[Graph, Path], None]


@dataclass(frozen=True)
class Learned:
    """What training with rounding found, by the names of the nodes of the graph.

    Attributes:
        ranges: of what is rounded, with weights that were rounded as if products were added in pairs.
        kept: what was computed in float32.
    """

    ranges: Ranges
    kept: Collection[str] = ()


def quantise(
    quantiser: Quantiser,
    images: NDArray[Any],
    target: Path,
    ranges: str | Learned = AUTO,
    keep: str | Sequence[str] = AUTO,
    origin: Origin | None = None,
) -> Quantised:
    """Write an int8 file.

    Half of the images say which ranges there are to choose among, the others which of them is taken; the ranges in the
    file are then those of all of them, unless that loses far more.

    Args:
        quantiser: of the float32 file.
        images: (N, channels, height, width) to calibrate on, as the file takes them.
        target: is not there yet.
        ranges: one of :data:`fbnet_mobile.formats.ranges.METHODS`, or "auto": that of the least error of the logits;
            or what was learned.
        keep: layers, or modules with all layers in them, that stay in float32; "auto": none if the file is good
            (:func:`good`), else those that cost the logits most, until it is. What was kept in training stays so, too,
            and "auto" adds nothing to it.
        origin: what the float32 file was written from, if its biases may be corrected.

    Raises:
        UserError: an unknown method or layer, or nothing is to be kept, and was in what was learned.
    """
    reads = quantiser.reads()
    learned = {} if isinstance(ranges, str) else _by_tensor(ranges.ranges, origin, reads)
    if isinstance(ranges, str) and ranges not in (AUTO, *METHODS):
        raise UserError(unknown("way to ranges", ranges, (AUTO, *METHODS)))
    if learned:
        quantiser.in_pairs = True
    methods = (LEARNED,) if not isinstance(ranges, str) else tuple(METHODS) if ranges == AUTO else (ranges,)
    kept = frozenset() if keep == AUTO else _matching((keep,) if isinstance(keep, str) else keep, tuple(reads))
    if not isinstance(ranges, str) and ranges.kept:
        if keep != AUTO and not keep:
            raise UserError(
                f"the network was trained with layers in float32 ({shown(', '.join(ranges.kept))}), and none may be; "
                "train it with --quantize int8 --int8-keep none"
            )
        kept |= _tensors_of(ranges.kept, origin, reads)
    half, others = images[::2], images[1::2] if len(images) > 1 else images
    judged = others[np.unique(np.linspace(0, len(others) - 1, min(_JUDGED, len(others))).astype(int))]

    known = origin is not None and not learned and computable(origin.graph)
    by_node: dict[str, dict[str, float]] = {}
    if origin is not None and known:
        # By images that the ranges are not from, as some clip what others have not.
        observed = observe_graph(origin.graph, torch.from_numpy(np.asarray(half, np.float32)))
        by_half_of_nodes = {method: find_ranges(origin.graph, observed, method) for method in methods}
        by_node = rounding_costs(origin.graph, judged, by_half_of_nodes)
    costs = _by_tensor(by_node, origin, reads) if by_node else {}
    if costs and ranges == AUTO:
        methods = (*methods, MIXED)

    with tempfile.TemporaryDirectory() as folder:
        trials = _Trials(quantiser, judged, Path(folder), costs)
        floors = {} if origin is None else _by_tensor(find_floors(origin.graph), origin, reads)
        seen = observe(quantiser.values(half))
        by_half = by_all = _Seen(seen, trials.whole, floors, learned, costs)
        if len(images) > 1:
            by_all = _Seen(observe(quantiser.values(others), deepcopy(seen)), trials.whole, floors, learned, costs)
        files = [trials.attempt(method, by_half, kept) for method in methods]
        best = min(files, key=lambda file: file.error)
        # All images hold more of what may come, yet in a network that one step changes much they may lose much.
        of_all = trials.attempt(best.method, by_all, kept)
        if best.error >= _WORTH * of_all.error:
            best = of_all
        errors = {file.method: file.error for file in (*files, best)}
        corrected = None
        if origin is not None and known:
            source = Path(folder) / f"corrected{quantiser.suffix}"
            of_nodes = _of_nodes(origin.graph, images, best.method, by_node)
            origin.write(correct_biases(origin.graph, images, of_nodes, quantiser.in_pairs), source)
            attempt = trials.attempt(best.method, best.seen, kept, source)
            errors["corrected"] = attempt.error
            corrected = attempt if attempt.error < best.error else None
        if keep == AUTO and not learned and not trials.good(corrected or best):
            # By another way to ranges, too: the first was chosen where what is mended now hid what it does.
            mended = trials.mended(best, (best.method, _OTHERWISE) if ranges == AUTO else (best.method,))
            best, corrected = mended, None if mended.kept else corrected
        taken = corrected or best
        target.write_bytes(taken.path.read_bytes())
        layers = trials.layers(taken)
    in_order = tuple(name for name in reads if name in taken.kept)
    return Quantised(taken.method, errors, corrected is not None, in_order, layers)


def _of_nodes(graph: Graph, images: NDArray[Any], method: str, costs: Mapping[str, Mapping[str, float]]) -> Ranges:
    """Ranges of the nodes of a graph by a method."""
    observed = observe_graph(graph, torch.from_numpy(np.asarray(images, np.float32)))
    if method != MIXED:
        return find_ranges(graph, observed, method)
    taken = _cheapest(costs)
    found = {way: find_ranges(graph, observed, way) for way in {_OTHERWISE, *taken.values()}}
    return {name: found[taken.get(name, _OTHERWISE)][name] for name in found[_OTHERWISE]}


def _cheapest(costs: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """The way to ranges that costs least, by name."""
    return {name: min(each, key=lambda method: each[method]) for name, each in costs.items()}


class _Seen:
    """What the input and each layer gave, and the ranges that follow from it.

    Args:
        histograms: by name.
        whole: of which nothing is clipped: clipping the largest logits changes no answer, but of those that are as
            large.
        floors: under which a layer's values tell nothing.
        learned: ranges that are taken as they are.
        costs: of each way to ranges, where they are known.
    """

    def __init__(
        self,
        histograms: Mapping[str, Histogram],
        whole: Collection[str],
        floors: Mapping[str, float],
        learned: Mapping[str, Range],
        costs: Mapping[str, Mapping[str, float]],
    ) -> None:
        self._histograms, self._whole, self._floors, self._learned = histograms, whole, floors, learned
        self._best = _cheapest(costs)
        self._found: dict[str, Ranges] = {}

    def ranges(self, method: str) -> Ranges:
        """By one way to ranges; found once."""
        if method not in self._found:
            found = {name: self._way(method, name)(each) for name, each in self._histograms.items()}
            self._found[method] = {
                name: self._learned.get(name) or (max(low, self._floors.get(name, low)), high)
                for name, (low, high) in found.items()
            }
        return self._found[method]

    def _way(self, method: str, name: str) -> Callable[[Histogram], Range]:
        if name in self._whole:
            return min_max
        return METHODS.get(self._best.get(name, _OTHERWISE) if method == MIXED else method, METHODS[_OTHERWISE])


@dataclass(frozen=True)
class _Attempt:
    """An int8 file, what it was made by, and what it says of the images that files are judged by."""

    method: str
    seen: _Seen
    kept: frozenset[str]
    path: Path
    logits: Array
    error: float


class _Trials:
    """Int8 files of one float32 file, judged by the same images.

    Attributes:
        whole: values of which nothing is clipped: what the network gives, and the logits before probabilities.
    """

    def __init__(
        self, quantiser: Quantiser, judged: NDArray[Any], folder: Path, costs: Mapping[str, Mapping[str, float]]
    ) -> None:
        self._quantiser, self._judged, self._folder = quantiser, judged, folder
        self._costs = {name: min(each.values()) for name, each in costs.items()}
        results = quantiser.session()(judged)
        self._expected = _logits(results)
        self.whole = {"output", *(quantiser.reads()["output"] if _are_probabilities(results) else ())}
        self._count = 0

    def attempt(self, method: str, seen: _Seen, kept: frozenset[str], source: Path | None = None) -> _Attempt:
        """Write a file and run it."""
        path = self._folder / f"{self._count}{self._quantiser.suffix}"
        self._count += 1
        self._quantiser.write(seen.ranges(method), kept, path, source)
        logits = _logits(self._quantiser.session(path)(self._judged))
        return _Attempt(method, seen, kept, path, logits, error(self._expected, logits))

    def good(self, attempt: _Attempt) -> bool:
        """Whether no layer of it needs to be kept in float32."""
        return good(self._expected, attempt.logits)

    def layers(self, attempt: _Attempt) -> tuple[LayerNoise, ...]:
        """What its layers suffer."""
        found = _layers(self._quantiser, attempt.path, self._judged[:_LOOKED_INTO])
        rounded = {
            before for name, read in self._quantiser.reads().items() if name not in attempt.kept for before in read
        }
        alone = {**self._costs, **dict.fromkeys(attempt.kept - rounded, 0.0)}
        return tuple(replace(layer, error=alone.get(layer.name)) for layer in found)

    def mended(self, first: _Attempt, methods: Sequence[str]) -> _Attempt:
        """The same with the worst layers in float32, as far as that brings it near, with ranges by one of methods."""
        reads, best, latest, layers, worst = self._quantiser.reads(), first, first, self.layers(first), set[str]()
        found_in_file = {layer.name for layer in layers}
        while not self.good(latest):
            # One more, then two, four, ...: what is left to blame shows only when the worst is mended.
            # What only reads one of these is in float32, too, but is rounded by its own readers.
            rest = [layer for layer in layers if layer.name not in worst]
            rest.sort(key=lambda layer: layer.blame, reverse=True)
            added = {layer.name for layer in rest[: max(len(worst), 1)] if any(layer.blame)}
            worst |= added
            if not added or len(worst) > max(_MOST_KEPT * len(reads), _FEW_KEPT):
                break
            more = _around(worst, reads, found_in_file)
            if more == latest.kept:
                continue
            attempts = [self.attempt(method, first.seen, more) for method in dict.fromkeys(methods)]
            latest = min(attempts, key=lambda attempt: attempt.error)
            layers = self.layers(latest)
            if self.good(latest) or latest.error < _WORTH * best.error:
                best = latest
        return best


def _by_tensor(ranges: Mapping[str, T], origin: Origin | None, reads: Mapping[str, tuple[str, ...]]) -> dict[str, T]:
    """What is known of the nodes of a graph, such as ranges, by the tensors of a file."""
    assert origin is not None
    found = {INPUT: ranges[INPUT]} if INPUT in ranges else {}
    for node, tensors in _tensors(origin.graph, reads):
        if node.name in ranges:
            # What it is made by on the way, such as a pool's padding, is in its range if it only moves numbers.
            found |= dict.fromkeys(tensors if node.op in MOVING else tensors[-1:], ranges[node.name])
    return found


def _tensors_of(nodes: Collection[str], origin: Origin | None, layers: Collection[str]) -> frozenset[str]:
    """The layers of a file that compute some nodes of a graph."""
    assert origin is not None
    return frozenset(name for node, some in _tensors(origin.graph, layers) if node.name in nodes for name in some)


def kept_nodes(quantised: Quantised, graph: Graph) -> frozenset[str]:
    """Return the names of the nodes of the graph that a file was made of, that it computes in float32."""
    layers = dict.fromkeys((*(layer.name for layer in quantised.layers), *quantised.kept))
    return frozenset(node.name for node, some in _tensors(graph, layers) if {*some} & {*quantised.kept})


def _tensors(graph: Graph, layers: Collection[str]) -> Iterator[tuple[Node, list[str]]]:
    """Each node of a graph with the layers of a file that compute it."""
    names = {node.name for node in graph.nodes}
    for node in graph.nodes:
        # What a file fuses with the layer before has the name of that.
        for stem in ("output" if node.name == graph.output else node.name, *node.inputs):
            tensors = [
                name
                for name in layers
                if name == stem or name.startswith(f"{stem}/") or (_numbered(name, stem) and name not in names)
            ]
            if tensors:
                yield node, tensors
                break


def _around(worst: Collection[str], reads: Mapping[str, tuple[str, ...]], found: Collection[str]) -> frozenset[str]:
    """Layers, with what reads them, as what they give is rounded for whoever computes in eight bits, and with what the
    quantised file has fused into one of these."""
    some = {name for name, before in reads.items() if name in worst or {*before} & {*worst}}
    # A pad before a convolution has the name of that, without a number; it rounds nothing itself.
    some |= {name for name, before in reads.items() if any(_numbered(name, each) for each in {*before} & some)}
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


def _are_probabilities(results: Array) -> bool:
    several = results.ndim == 2 and results.shape[1] > 1 and results.min() >= 0
    return bool(several and np.abs(results.sum(1) - 1).max() < 0.01)


def _logits(results: Array) -> Array:
    """Return what a network gives, but logits for probabilities, which hide what happens to unlikely classes."""
    return as_logits(results) if _are_probabilities(results) else results


def error(expected: Array, actual: Array) -> float:
    """How far from the logits of the float32 file those of another are.

    For several classes the mean Kullback-Leibler divergence of the softmax of logits that are divided by their own
    standard deviation, so that the answers of a network that is sure of all it was trained on tell something, and that
    the largest of logits may be less large; for what are no logits the power of the difference over that of what is
    expected.
    """
    if not np.isfinite(actual).all():
        return float("inf")
    if expected.ndim != 2 or expected.shape[1] == 1:
        power = float((expected.astype(np.float64) ** 2).sum())
        wrong = float(((actual - expected.astype(np.float64)) ** 2).sum())
        return wrong / power if power else wrong
    scale = float((expected - expected.mean(1, keepdims=True)).std()) or 1.0
    p, q = (softmax(logits / np.float32(scale)).astype(np.float64) + 1e-12 for logits in (expected, actual))
    return float((p * np.log(p / q)).sum(1).mean())


def good(expected: Array, actual: Array) -> bool:
    """Whether nothing needs to be kept in float32."""
    if expected.shape[1] > 1:
        same = float((expected.argmax(1) == actual.argmax(1)).mean())
        return same >= ENOUGH and error(expected, actual) <= ENOUGH_ERROR
    return float(np.abs(expected - actual).max()) <= ENOUGH_ONE_LOGIT * float(np.abs(expected).max())


def _matching(asked: Sequence[str], layers: Sequence[str]) -> frozenset[str]:
    """Layers by their names, without the digits that a format adds, or by that of a module that they are in."""
    found: set[str] = set()
    for name in asked:
        some = {layer for layer in layers if layer.startswith(f"{name}.") or _numbered(layer, name)}
        if not some:
            raise UserError(unknown("layer", name, layers, "fbnet-export --sensitivity lists them"))
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
