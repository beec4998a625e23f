"""Export with proof: a file is run in its own runtime, and compared with PyTorch, before it is kept."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fbnet_mobile.data.augment import normalise
from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.files import write_whole
from fbnet_mobile.formats.base import check_options, check_suffix, write_new
from fbnet_mobile.formats.precision import check_precision
from fbnet_mobile.formats.runtimes import runtime_for_format
from fbnet_mobile.graph.pixels import Normalisation, take_pixels
from fbnet_mobile.graph.trace import evaluation, trace

TOLERANCES = {"fp32": 1e-3, "fp16": 1e-2, "int8": math.inf}
"""By precision, the largest relative difference that is accepted unless another is given. What int8 costs depends on
the network; it shows in the answers, which are compared as well."""

_RANDOM_INPUTS = 4


@dataclass(frozen=True)
class ExportReport:
    """What was written and how far it is from PyTorch.

    Attributes:
        path: the file, or folder.
        format: its format.
        precision: of what it stores: "fp32", "fp16" or "int8".
        inputs: number of inputs compared.
        largest_difference: between any two logits.
        relative_difference: the same, divided by the largest absolute logit of PyTorch's.
        agreement: part of the answers (the class, or channel, of the largest logit) that is PyTorch's, from 0 to 1.
        accuracy: part of the answers that are the inputs' labels, from 0 to 1; None without labels.
        pytorch_accuracy: the same of PyTorch's answers.
        size: of the file, or of the folder's files together, in bytes.
        seconds: that the export and its check took.
    """

    path: Path
    format: str
    precision: str
    inputs: int
    largest_difference: float
    relative_difference: float
    agreement: float
    accuracy: float | None
    pytorch_accuracy: float | None
    size: int
    seconds: float


def export(
    module: nn.Module,
    path: Path,
    *,
    format: str,  # noqa: A002
    input_shape: tuple[int, int, int, int],
    metadata: Mapping[str, str] | None = None,
    inputs: NDArray[Any] | None = None,
    labels: NDArray[np.integer[Any]] | None = None,
    precision: str = "fp32",
    calibration: NDArray[Any] | None = None,
    tolerance: float | None = None,
    min_agreement: float = 0.0,
    pixels: Normalisation | None = None,
    options: Mapping[str, Any] | None = None,
) -> ExportReport:
    """Write a module to a file, and keep the file only if its runtime gives what PyTorch gives.

    Args:
        module: takes one float tensor and returns one; exported as it behaves in evaluation.
        path: ends in the format's suffix.
        format: "tflite", "onnx" or "coreml".
        input_shape: (1, channels, height, width).
        metadata: strings kept in the file; see :func:`fbnet_mobile.formats.base.read_metadata`.
        inputs: (N, channels, height, width) real inputs to compare on, uint8 if ``pixels`` is given; seeded noise
            if not given.
        labels: (N,) class of each of the inputs, to count right answers by.
        precision: "fp32", "fp16" or "int8"; see :mod:`fbnet_mobile.formats.precision`.
        calibration: (N, channels, height, width) images that int8 takes its ranges from, normalised as the
            network's input or, if ``pixels`` is given, uint8: a few hundred of those it was trained on.
        tolerance: the largest relative difference that is accepted; by default that of :data:`TOLERANCES`.
        min_agreement: the smallest part of equal answers that is accepted, from 0 to 1.
        pixels: let the file take uint8 images, from 0 to 255, and normalise them so itself.
        options: of the format; see :attr:`fbnet_mobile.formats.base.Format.options`.

    Raises:
        UserError: a wrong format, precision, option or suffix, a missing package, an unsupported operation, inputs or
            images of another shape, or int8 without images.
        JobError: the file differs from PyTorch by more than is accepted, or gives no finite numbers; nothing
            is left behind.
    """
    start = time.perf_counter()
    path = Path(path)
    entry = check_suffix(path, format)
    check_precision(format, precision, calibration is not None)
    check_options(entry, options or {})
    if tolerance is None:
        tolerance = TOLERANCES[precision]
    runtime = runtime_for_format(format)
    runtime.version()
    if inputs is None:
        shape, rng = (_RANDOM_INPUTS, *input_shape[1:]), np.random.default_rng(0)
        inputs = rng.integers(0, 256, shape, np.uint8) if pixels else rng.standard_normal(shape, np.float32)
    for images, purpose in ((inputs, "compare"), (inputs if calibration is None else calibration, "calibrate")):
        if images.shape[1:] != tuple(input_shape[1:]) or len(images) == 0:
            raise UserError(f"the inputs to {purpose} on have the shape {images.shape}, the model takes {input_shape}")
        if pixels and images.dtype != np.uint8:
            raise UserError(f"the inputs to {purpose} on are {images.dtype}, the file takes uint8 pixels; give those")
    graph = trace(module, input_shape)
    if pixels:
        graph = take_pixels(graph, pixels)
    expected = _outputs(module, normalise(torch.from_numpy(inputs), *pixels).numpy() if pixels else inputs)
    with write_whole(path) as partial:
        write_new(graph, partial, entry, metadata or {}, precision, calibration, options or {})
        actual = runtime.load(partial)(inputs)
        largest, relative = _difference(expected, actual)
        if not math.isfinite(relative):
            raise JobError(
                f"the {format} file, or PyTorch, gives numbers that are not finite, or they give results of different "
                f"shapes; nothing was written to {path}; check the weights"
            )
        if relative > tolerance:
            raise JobError(
                f"the {format} file's results differ from PyTorch's by {relative:.2g} of the largest, more "
                f"than the tolerance {tolerance:.2g}; nothing was written to {path}"
            )
        answers, own = actual.argmax(1), expected.argmax(1)
        agreement = float((answers == own).mean())
        if agreement < min_agreement:
            raise JobError(
                f"the {format} file gives PyTorch's answer on {agreement:.1%} of the inputs, less than the "
                f"{min_agreement:.1%} asked for; nothing was written to {path}; calibrate on more images, or use fp16"
            )
        files = [partial, *partial.rglob("*")] if partial.is_dir() else [partial]
        size = sum(file.stat().st_size for file in files if file.is_file())
    seconds = time.perf_counter() - start
    return ExportReport(
        path=path,
        format=format,
        precision=precision,
        inputs=len(inputs),
        largest_difference=largest,
        relative_difference=relative,
        agreement=agreement,
        accuracy=None if labels is None else float((answers == labels).mean()),
        pytorch_accuracy=None if labels is None else float((own == labels).mean()),
        size=size,
        seconds=seconds,
    )


def _outputs(module: nn.Module, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return PyTorch's results, computed one input at a time as the file will be."""
    weight = next((p for p in module.parameters() if p.is_floating_point()), torch.ones(0))
    images = torch.from_numpy(np.ascontiguousarray(inputs, np.float32)).to(weight)
    with evaluation(module), torch.no_grad():
        return torch.cat([module(image[None]).float().cpu() for image in images]).numpy()


def _difference(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> tuple[float, float]:
    """Return the largest difference, and that over the largest expected; infinite if not comparable."""
    if expected.shape != actual.shape or not (np.isfinite(expected).all() and np.isfinite(actual).all()):
        return float("inf"), float("inf")
    largest = float(np.abs(expected - actual).max())
    scale = float(np.abs(expected).max())
    return largest, largest / scale if scale else (0.0 if largest == 0 else float("inf"))
