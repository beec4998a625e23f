"""Export with proof: a file is run in its own runtime, and compared with PyTorch, before it is kept."""

import copy
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fbnet_mobile.errors import FbnetError, JobError, UserError
from fbnet_mobile.files import write_whole
from fbnet_mobile.formats.base import check_suffix, write_new
from fbnet_mobile.formats.int8 import Learned, Quantised, with_costs
from fbnet_mobile.formats.report import ExportReport
from fbnet_mobile.graph.lowered import Lowered
from fbnet_mobile.graph.merge import merge_branches
from fbnet_mobile.graph.operations import INPUT, Graph
from fbnet_mobile.graph.pixels import Normalisation, take_pixels
from fbnet_mobile.graph.probabilities import as_logits, give_probabilities, softmax
from fbnet_mobile.graph.rounded import Rounded
from fbnet_mobile.graph.trace import Inputs, evaluation, named_inputs, named_outputs, trace

__all__ = ["ExportReport", "export"]

TOLERANCE = 1e-3
"""The largest difference of a float32 file from PyTorch, relative to the largest logit, that is accepted by default.
What is converted to another precision must meet it before, so that what a conversion costs cannot hide a fault."""
ONE_LOGIT_TOLERANCE = 0.1
"""The same for a network of one logit in a precision that is otherwise judged by its answers, of which it has none."""
MIN_AGREEMENT = 0.9
"""Part of the answers that must be PyTorch's in a precision that is judged by its answers, by default."""
MAX_LOSS = 0.02
"""The largest loss of accuracy in such a precision, by default."""

_RANDOM_INPUTS = 4

Images = NDArray[Any] | Mapping[str, NDArray[Any]]
"""What is compared on: of one input, or of each by name."""


def export(
    module: nn.Module,
    path: Path,
    *,
    format: str,  # noqa: A002
    input_shape: Inputs,
    metadata: Mapping[str, str] | None = None,
    inputs: Images | None = None,
    labels: NDArray[np.integer[Any]] | None = None,
    runtime: str | None = None,
    precision: str = "fp32",
    calibration: NDArray[Any] | None = None,
    tolerance: float | None = None,
    min_agreement: float | None = None,
    pixels: Normalisation | None = None,
    probabilities: bool = False,
    options: Mapping[str, Any] | None = None,
) -> ExportReport:
    """Write a module to a file, and keep the file only if its runtime gives what PyTorch gives.

    Args:
        module: takes float tensors and returns one, or several (see :func:`fbnet_mobile.graph.trace.trace`), each of
            which is compared by itself; exported as it behaves in evaluation. Branches that can be merged are
            (:func:`fbnet_mobile.graph.merge.merge_branches`), and compared with the module as it is. A
            :class:`fbnet_mobile.graph.rounded.Rounded` gives an int8 file its ranges, and is compared with it.
        path: ends in the format's suffix.
        format: name of a registered one, such as "tflite".
        input_shape: (batch, channels, height, width); of several inputs, a shape by name.
        metadata: strings kept in the file; see :func:`fbnet_mobile.formats.base.read_metadata`.
        inputs: (N, channels, height, width) real inputs to compare on, uint8 if ``pixels`` is given, and of several
            inputs by name; N a multiple of the batch. Seeded noise if not given, or the calibration images if there
            are any.
        labels: (N,) class of each of the inputs, to count right answers by.
        runtime: name of what runs the file to compare it; by default the format's own.
        precision: one of :attr:`fbnet_mobile.formats.base.Format.precisions`.
        calibration: (N, channels, height, width) images that int8 takes its ranges from, normalised as the
            network's input or, if ``pixels`` is given, uint8: a few hundred of those it was trained on.
        tolerance: the largest relative difference that is accepted; by default :data:`TOLERANCE` or that of the
            conversion to ``precision``, and :data:`ONE_LOGIT_TOLERANCE` for one logit where that is infinite.
        min_agreement: the smallest part of equal answers that is accepted, from 0 to 1; by default 0, but
            :data:`MIN_AGREEMENT` where the tolerance of the conversion is infinite. The accuracy may then not fall by
            more than :data:`MAX_LOSS` either, and by more than one image.
        pixels: let the file take uint8 images, from 0 to 255, and normalise them so itself.
        probabilities: let the file give the softmax of the network's logits; compared are then logits that give the
            file's probabilities.
        options: of the format and the conversion; see :attr:`fbnet_mobile.formats.base.Format.options` and
            :attr:`fbnet_mobile.formats.base.Conversion.options`.

    Raises:
        UserError: a wrong format, precision, option or suffix, a missing package, an unsupported operation, weights
            that are not finite, inputs or images of another shape, another number of class names than of logits, int8
            without images, or something at ``path`` that is no file of the format.
        JobError: the file, or the float32 file it was made from, differs from PyTorch by more than is accepted, or
            gives no finite numbers; nothing is left behind.
    """
    start = time.perf_counter()
    path = Path(path)
    entry = check_suffix(path, format).run_by(runtime)
    entry.check(precision, calibration is not None, options)
    entry.runtime.version()
    shapes = named_inputs(input_shape)
    if entry.calibrates(precision) and [shape[0] for shape in shapes.values()] != [1]:
        raise UserError(f"{precision} for {format} is calibrated on one input, an image at a time; take fp16")
    if inputs is None and entry.calibrates(precision):
        inputs = calibration
    if inputs is None:
        rng = np.random.default_rng(0)
        inputs = {
            name: rng.integers(0, 256, more, np.uint8) if pixels else rng.standard_normal(more, np.float32)
            for name, (batch, *rest) in shapes.items()
            for more in [(_RANDOM_INPUTS * batch, *rest)]
        }
    purpose = "calibrate" if inputs is calibration else "compare"
    given = _checked(inputs, shapes, purpose, pixels is not None)
    if calibration is not None:
        _checked(calibration, shapes, "calibrate", pixels is not None)
    count = len(next(iter(given.values())))
    module = _in_float32(module)
    merged_module, merged = merge_branches(module)
    graph = trace(merged_module, shapes)
    if entry.calibrates(precision) and len(graph.outputs) > 1:
        raise UserError(f"{precision} for {format} is judged by one result, and the network gives several; take fp16")
    _check_weights(graph)
    _check_classes(graph, metadata or {})
    gives_them_itself = graph.node(graph.output).op == "softmax"
    if pixels:
        graph = take_pixels(graph, pixels)
        if "integer_input_and_output" in (options or {}):
            graph = replace(graph, pixels=False)  # as floats, which the conversion makes integers of
    if probabilities:
        graph = give_probabilities(graph)
    exact: nn.Module = module
    if isinstance(module, Rounded):
        # A file that does not round as it does is compared with what it is without rounding.
        exact = Lowered(module.graph())
        if entry.calibrates(precision):
            # Of pixels the file has ranges of its own.
            learned = {name: ends for name, ends in module.ranges().items() if not (pixels and name == INPUT)}
            options = {"ranges": Learned(learned, module.kept), **(options or {})}
        else:
            module = exact

    def computed(network: nn.Module, images: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        taken = {name: pixels.normalise(array) if pixels else array for name, array in images.items()}
        results = _outputs(network, taken, shapes)
        if not probabilities:
            return results
        return {name: as_logits(found if gives_them_itself else softmax(found)) for name, found in results.items()}

    expected = computed(module, given)
    scores = next(iter(expected.values()))
    answers = len(expected) == 1 and scores.ndim > 1 and scores.shape[1] > 1
    conversion = entry.conversions.get(precision)
    if tolerance is None:
        tolerance = TOLERANCE if conversion is None else conversion.tolerance
        if math.isinf(tolerance) and not answers:
            tolerance = ONE_LOGIT_TOLERANCE
    judged = conversion is not None and math.isinf(conversion.tolerance)

    def run(file: Path, images: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        results = entry.load(file).run(images)
        return {
            name: as_logits(found) if probabilities and found.ndim == 2 else found for name, found in results.items()
        }

    def check_unconverted(full: Path) -> None:
        if conversion is not None:
            few = {name: images[: _RANDOM_INPUTS * shapes[name][0]] for name, images in given.items()}
            _compare(computed(exact, few), run(full, few), TOLERANCE, path, f"the {format} file in fp32")

    with write_whole(path, replaces=entry.replaces) as partial, _named(partial, path):
        quantised = write_new(graph, partial, entry, metadata or {}, precision, calibration, options, check_unconverted)
        if quantised is not None:
            quantised = with_costs(quantised, graph)
        actual = run(partial, given)
        advice = _advice(quantised) if judged else ""
        differences = _compare(expected, actual, tolerance, path, f"the {format} file", advice)
        counts = _counted(scores, next(iter(actual.values())), labels) if answers else None
        if counts is not None:
            counts.check(format, precision, judged, min_agreement, path, advice)
        files = [partial, *partial.rglob("*")] if partial.is_dir() else [partial]
        size = sum(file.stat().st_size for file in files if file.is_file())
    seconds = time.perf_counter() - start
    return ExportReport(
        path=path,
        format=format,
        precision=precision,
        inputs=count,
        largest_difference=max(largest for largest, _ in differences.values()),
        relative_difference=max(relative for _, relative in differences.values()),
        agreement=None if counts is None else counts.agreement,
        accuracy=None if counts is None else counts.accuracy,
        pytorch_accuracy=None if counts is None else counts.pytorch_accuracy,
        size=size,
        seconds=seconds,
        merged=merged,
        quantised=quantised,
        outputs={name: (graph.shapes()[node], differences[name][1]) for name, node in graph.outputs.items()},
    )


@dataclass(frozen=True)
class _Counts:
    """Of inputs: how many of a file's answers are PyTorch's, and how many of each are right, if that is known."""

    inputs: int
    agreement: float
    accuracy: float | None = None
    pytorch_accuracy: float | None = None

    def check(
        self,
        format: str,  # noqa: A002
        precision: str,
        judged: bool,
        asked: float | None,
        path: Path,
        advice: str,
    ) -> None:
        """Refuse too few, of a file that is for ``path``.

        Args:
            format: of the file.
            precision: of the file.
            judged: whether files of that precision are judged by their answers.
            asked: the least agreement that is; None for what is usual.
            path: that nothing was written to.
            advice: the end of messages.
        """
        least = asked if asked is not None else MIN_AGREEMENT if judged else 0.0
        if self.agreement < least:
            why = f"that {precision} must reach unless --min-agreement says otherwise" if asked is None else "asked for"
            raise JobError(
                f"the {format} file gives PyTorch's answer on {self.agreement:.1%} of the inputs, less than the "
                f"{least:.1%} {why}; nothing was written to {path}{advice}"
            )
        if self.accuracy is None or self.pytorch_accuracy is None or not judged or asked is not None:
            return
        # Of few images one is many points.
        if self.pytorch_accuracy - self.accuracy > max(MAX_LOSS, 1 / self.inputs) + 1e-9:
            raise JobError(
                f"the {format} file is right on {self.accuracy:.1%} of the inputs and PyTorch on "
                f"{self.pytorch_accuracy:.1%}; {precision} may lose {100 * MAX_LOSS:g} points unless --min-agreement "
                f"says what is enough; nothing was written to {path}{advice}"
            )


def _counted(
    expected: NDArray[np.float32], actual: NDArray[np.float32], labels: NDArray[np.integer[Any]] | None
) -> _Counts:
    own, found = expected.argmax(1), actual.argmax(1)
    agreement = float((found == own).mean())
    if labels is None:
        return _Counts(len(own), agreement)
    return _Counts(len(own), agreement, float((found == labels).mean()), float((own == labels).mean()))


def _checked(
    images: Images, shapes: Mapping[str, tuple[int, ...]], purpose: str, pixels: bool
) -> dict[str, NDArray[Any]]:
    """Return inputs by name; UserError if they are not those of the shapes, or no pixels where these are taken."""
    given = dict(images) if isinstance(images, Mapping) else {next(iter(shapes)): images}
    if set(given) != set(shapes) or len({len(array) // shapes[name][0] for name, array in given.items()}) != 1:
        raise UserError(
            f"the inputs to {purpose} on are {', '.join(given)}, the model takes {', '.join(shapes)}; give as many of "
            "each"
        )
    for name, (batch, *rest) in shapes.items():
        array = given[name]
        if list(array.shape[1:]) != rest or len(array) == 0 or len(array) % batch:
            wanted = (batch, *rest)
            raise UserError(f"the inputs to {purpose} on have the shape {array.shape}, the model takes {wanted}")
        if pixels and array.dtype != np.uint8:
            raise UserError(f"the inputs to {purpose} on are {array.dtype}, the file takes uint8 pixels; give those")
    return {name: given[name] for name in shapes}


def _advice(quantised: Quantised | None) -> str:
    """What is to blame for a quantised file's answers, and what to try."""
    if quantised is None or not quantised.layers:
        return "; calibrate on more images, or use fp16"
    layers = [f"{layer.name} ({layer.snr_db:.0f} dB)" for layer in quantised.blamed()]
    names = ",".join(layer.name for layer in quantised.blamed())
    return (
        f"; most is lost in {', '.join(layers)}; keep these in float32 (--int8-keep {names}), calibrate on more "
        "images, or use fp16"
    )


def _in_float32(module: nn.Module) -> nn.Module:
    """Return the module, or a copy in float32, as files compute, if it holds other floats."""
    tensors = (*module.parameters(), *module.buffers())
    if all(tensor.dtype == torch.float32 for tensor in tensors if tensor.is_floating_point()):
        return module
    return copy.deepcopy(module).float()


def _check_weights(graph: Graph) -> None:
    for node in graph.nodes:
        for role, weight in node.weights.items():
            if not np.isfinite(weight).all():
                raise UserError(
                    f"cannot export '{node.source or node.name}': its {role} holds numbers that are not finite; train "
                    "it again, or take an earlier checkpoint"
                )


def _check_classes(graph: Graph, metadata: Mapping[str, str]) -> None:
    try:
        classes = json.loads(metadata.get("classes", "[]"))
    except ValueError as error:
        raise UserError("the classes in the metadata are no JSON; give a JSON list of names") from error
    logits = graph.shapes()[graph.output][-1 if len(graph.shapes()[graph.output]) == 1 else 1]
    if classes and (len(classes) != logits or len(graph.outputs) > 1):
        raise UserError(
            f"the metadata name {len(classes)} classes and the network gives {logits} logits; name each logit, or none"
        )


@contextmanager
def _named(partial: Path, path: Path) -> Iterator[None]:
    """Let what is said of the file while it is written and checked name the path it is for."""
    try:
        yield
    except FbnetError as error:
        if str(partial) not in str(error):
            raise
        raise type(error)(str(error).replace(str(partial), str(path))) from error


def _outputs(
    module: nn.Module, inputs: Mapping[str, NDArray[np.float32]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[np.float32]]:
    """Return PyTorch's results by name, computed as many inputs at a time as the file will take."""
    weight = next((p for p in module.parameters() if p.is_floating_point()), torch.ones(0))
    found: dict[str, list[torch.Tensor]] = {}
    times = len(next(iter(inputs.values()))) // next(iter(shapes.values()))[0]
    with evaluation(module), torch.no_grad():
        for number in range(times):
            parts = {
                name: images[number * shapes[name][0] : (number + 1) * shapes[name][0]]
                for name, images in inputs.items()
            }
            # Copies, as a network may change its input in place.
            returned = module(*(torch.tensor(part, dtype=torch.float32).to(weight) for part in parts.values()))
            for name, result in named_outputs(returned).items():
                found.setdefault(name, []).append(result.float().cpu())
    return {name: torch.cat(results).numpy() for name, results in found.items()}


def _compare(
    expected: Mapping[str, NDArray[np.float32]],
    actual: Mapping[str, NDArray[np.float32]],
    tolerance: float,
    path: Path,
    what: str,
    advice: str = "",
) -> dict[str, tuple[float, float]]:
    """Return, of each result, the largest difference, and that over the largest expected.

    Raises:
        JobError: the latter exceeds the tolerance, or there is none.
    """
    found: dict[str, tuple[float, float]] = {}
    if set(expected) != set(actual):
        raise JobError(
            f"{what} gives {', '.join(actual)} and PyTorch {', '.join(expected)}; nothing was written to {path}"
        )
    for name, wanted in expected.items():
        got, of = actual[name], f" as {name}" if len(expected) > 1 else ""
        if wanted.shape != got.shape or not (np.isfinite(wanted).all() and np.isfinite(got).all()):
            raise JobError(
                f"{what}, or PyTorch, gives numbers that are not finite{of}, or they give results of different shapes; "
                f"nothing was written to {path}; check the weights"
            )
        largest = float(np.abs(wanted - got).max())
        scale = float(np.abs(wanted).max())
        relative = largest / scale if scale else (0.0 if largest == 0 else math.inf)
        if relative > tolerance:
            raise JobError(
                f"{what} gives results{of} that differ from PyTorch's by {relative:.2g} of the largest, more than the "
                f"tolerance {tolerance:.2g}; nothing was written to {path}{advice}"
            )
        found[name] = (largest, relative)
    return found
