"""From a network to a file that a device runs, with the proof that it computes the same."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbnet_mobile.api.call import (
    arguments_path,
    check_arguments,
    check_output,
    command_line,
    takes,
    write_arguments,
)
from fbnet_mobile.api.prediction import predict
from fbnet_mobile.data.recipe import TestData
from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.recipe import ExportRecipe
from fbnet_mobile.measure.recipe import RuntimeOptions
from fbnet_mobile.recipe import keep_asked
from fbnet_mobile.report.records import ExportResult, FileLatency

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from fbnet_mobile.arch import Architecture
    from fbnet_mobile.devices import Device
    from fbnet_mobile.formats.metadata import ModelMetadata
    from fbnet_mobile.latency.table import LatencyTable

CALIBRATION_IMAGES = 256
"""How many images int8 takes its ranges from: enough, as ranges of 24 and of 100 images differed little."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Everything that an export is asked for."""

    recipe: ExportRecipe
    images: TestData
    runtime: RuntimeOptions


@takes(ExportOptions)
def export(options: ExportOptions) -> ExportResult:
    """Export a network to TFLite, ONNX, Core ML or ExecuTorch.

    The file is run in its own runtime and compared with PyTorch before it is put in place: on test images of the data,
    or on random inputs without. With a device it is then measured where it will run. All options are kept beside the
    file, in FILE.args.yaml.
    """
    from fbnet_mobile.formats.base import check_suffix, format_of
    from fbnet_mobile.formats.clients import suit

    recipe, data, given = options.recipe, options.images.data, options.recipe.network
    peer = _check(recipe)
    chosen = check_suffix(recipe.output, recipe.format) if recipe.format else format_of(recipe.output)
    chosen = chosen.run_by(recipe.runtime)
    calibration_data = recipe.calibration_data or data
    integers = recipe.output_type != "float32"
    precision = recipe.precision or _precision(given.checkpoint, integers, chosen.precisions)
    format_options = _format_options(recipe)
    chosen.check(precision, bool(calibration_data), format_options)
    if recipe.sensitivity and not chosen.calibrates(precision):
        raise UserError(
            f"--sensitivity shows what 8-bit activations cost, and {precision} for {chosen.name} has none; give "
            "--precision int8, for tflite or onnx"
        )
    takes_input: str = recipe.input or recipe.output_type
    scores: str | None = recipe.scores
    if recipe.client is not None:
        takes_input, scores = suit(
            recipe.client,
            format=chosen.name,
            precision=precision,
            input=takes_input if integers else recipe.input,
            scores=recipe.scores,
        )
    kept, record = arguments_path(recipe.output), recipe.output.with_name(f"{recipe.output.name}.export.json")
    inputs_given = [
        given.checkpoint,
        given.weights,
        given.architecture,
        recipe.latency_table,
        data,
        calibration_data,
    ]
    check_output(recipe.output, inputs=inputs_given, replaces=Path.exists)  # the format knows its own
    check_arguments(kept)
    from fbnet_mobile.documents import write_json
    from fbnet_mobile.files import refuse_foreign

    refuse_foreign(record, _is_record)
    device = _device(recipe.device, chosen.runtime.name, options.runtime) if recipe.device is not None else None
    table = _table(recipe.latency_table) if recipe.latency_table is not None else None
    fresh = given.checkpoint is None and not given.pretrained and given.weights is None
    module, input_shape, metadata, whole = _network(recipe, fresh)
    # What is told of an architecture, as its latency, is of the whole of it at its own resolution.
    network = whole if metadata.architecture else None
    if data is not None and input_shape[-1] != input_shape[-2]:
        raise UserError(f"images of --data are square and the file takes {input_shape[2:]}; compare on noise, without")

    from fbnet_mobile.data.data import load_images
    from fbnet_mobile.formats.verify import export as write
    from fbnet_mobile.graph.pixels import Normalisation

    metadata = replace(
        metadata,
        input=takes_input,
        precision=precision,
        # Integers hold no probability under 1/256, and no arithmetic is spared by making some of logits.
        scores=scores or ("probabilities" if len(metadata.classes) > 1 and not integers else "logits"),
        score_threshold=recipe.score_threshold,
        description=recipe.description,
        author=recipe.author,
        license=recipe.license,
        version=recipe.model_version,
    )
    source: dict[str, Any] = {
        "root": options.images.place.data_root,
        "resolution": input_shape[-1],
        "seed": options.images.place.split_seed,
        "classes": options.images.place.classes,
    }
    inputs = labels = calibration = None
    same_classes = False
    if data is not None:
        pixels, found, classes = load_images(data, "test", recipe.images, **source)
        count = len(pixels) - len(pixels) % recipe.batch
        pixels, found = pixels[:count], found[:count]
        inputs, same_classes = _as_taken(pixels, metadata), classes == metadata.classes
        labels = found.numpy() if same_classes and not recipe.features else None
    if calibration_data is not None and chosen.calibrates(precision):
        pixels, _, _ = load_images(calibration_data, "train", CALIBRATION_IMAGES, **source)
        calibration = _as_taken(pixels, metadata)
    file = write(
        module,
        recipe.output,
        format=chosen.name,
        input_shape=(recipe.batch, *input_shape[1:]),
        metadata=metadata.to_strings(),
        inputs=inputs,
        labels=labels,
        runtime=recipe.runtime,
        precision=precision,
        calibration=calibration,
        tolerance=recipe.tolerance,
        # The answers of fresh weights mean nothing.
        min_agreement=0.0 if fresh and recipe.min_agreement is None else recipe.min_agreement,
        pixels=Normalisation(metadata.mean, metadata.std) if takes_input != "float32" else None,
        probabilities=metadata.scores == "probabilities",
        options=format_options,
    )
    write_arguments(kept, "export", options)
    latency = None
    if device is not None:
        latency = _latency(recipe.output, device, chosen.runtime.name, precision, network, table)
    name = (whole.name if whole is not None else str(peer)) if fresh else ""
    result = ExportResult(file, data, same_classes, name, latency, recipe.sensitivity, command_line("export", options))
    write_json(record, result, replaces=_is_record)
    return result


def _check(recipe: ExportRecipe) -> str | None:
    """Refuse options that do not go together; the name of a network that others published, if it is one."""
    given = recipe.network
    if given.architecture is None and given.model is None and given.checkpoint is None:
        raise UserError("no network; give --checkpoint, --architecture or --model")
    if given.architecture is not None and (given.model is not None or given.checkpoint is not None):
        raise UserError("--architecture exports an untrained network; leave out --checkpoint and --model")
    peer = given.model if given.model is not None and _is_of_others(given.model) else None
    of_peers = {"pretrained": given.pretrained, "weights": given.weights, "channels": recipe.channels}
    for option, value in of_peers.items():
        if peer is None and value:
            raise UserError(
                f"--{option} is for networks of timm and torchvision, as in --model timm:NAME, and efficientnet_lite0; "
                "leave it out"
            )
    if peer is not None and given.checkpoint is not None:
        raise UserError(
            f"the weights of {peer} are its own (--pretrained), those of a file (--weights) or fresh; leave out "
            "--checkpoint"
        )
    if given.pretrained and given.weights is not None:
        raise UserError("--pretrained and --weights both say which weights; leave one out")
    integers = recipe.output_type != "float32"
    if (integers and recipe.input == "float32") or (recipe.input == "int8" and not integers):
        raise UserError(
            "a file that takes or gives int8 holds no floats; give --input int8 or uint8 with --output-type int8 or "
            "uint8, or leave out both"
        )
    if recipe.device is None and recipe.latency_table is not None:
        raise UserError("--latency-table predicts what --device measures; add --device host, or leave it out")
    if recipe.features and recipe.scores == "probabilities":
        raise UserError("feature maps are no probabilities of classes; leave out --scores")
    if recipe.batch > 1 and (recipe.dynamic_batch or recipe.device is not None or recipe.client is not None):
        raise UserError("a batch of several is for files alone; leave out --dynamic-batch, --device and --for")
    return peer


def _format_options(recipe: ExportRecipe) -> dict[str, Any]:
    """What is asked of the format; nothing else, as not every format and precision has all options."""
    asked = keep_asked(recipe.int8_keep)
    if recipe.opset is not None:
        asked["opset"] = recipe.opset
    if recipe.dynamic_batch:
        asked["dynamic_batch"] = True
    if recipe.int8_ranges != "auto":
        asked["ranges"] = recipe.int8_ranges
    if recipe.output_type != "float32":
        asked["integer_input_and_output"] = (recipe.input or recipe.output_type, recipe.output_type)
    return asked


def _precision(checkpoint: Path | None, integers: bool, had: Sequence[str]) -> str:
    """What a file is written in where nothing is asked for."""
    from fbnet_mobile.engine.checkpoint import load_checkpoint

    trained_for = integers or (checkpoint is not None and load_checkpoint(checkpoint).quantized)
    return "int8" if trained_for and "int8" in had else "fp32"


def _is_record(path: Path) -> bool:
    """Whether a file is what an earlier export left beside its file."""
    from fbnet_mobile.documents import read_record

    return read_record(path, ExportResult.kind) is not None


def _network(
    recipe: ExportRecipe, fresh: bool
) -> "tuple[nn.Module, tuple[int, int, int, int], ModelMetadata, Architecture | None]":
    """The module, its input's shape, what its file says of itself, and its architecture if it has one.

    Of fresh weights the batch norm has the statistics of noise.
    """
    from fbnet_mobile.zoo import load_architecture, load_network

    network, given = None, recipe.network
    if given.architecture is not None:
        network = load_architecture(given.architecture)
    elif given.model is not None and not _is_of_others(given.model):
        network = load_network(given.model)

    import torch
    from torch import nn

    from fbnet_mobile.zoo.features import backbone

    size = _size(recipe.resolution)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # fresh weights, too, give the same file every time
        module, own, metadata, network = _module(recipe, network, size)
        shape = own if size is None else (*own[:2], *size)
        if network is not None and recipe.features:
            assert isinstance(module, nn.Sequential)
            module = backbone(network, module, recipe.features)
            metadata = replace(metadata, classes=())
        if recipe.features or shape != own:
            metadata = replace(metadata, architecture="")
        if fresh:
            _calibrate(module, shape)  # a network may draw at random in training mode, as by dropping paths
    return module, shape, metadata, network


_MOST_PIXELS = 10_000


def _size(resolution: str | None) -> tuple[int, int] | None:
    """Height and width, from one number or two; None for those of the network."""
    if resolution is None:
        return None
    sides = resolution.split("x")
    if len(sides) > 2 or not all(side.isdecimal() and 0 < int(side) <= _MOST_PIXELS for side in sides):
        raise UserError(
            f"resolution is {resolution!r}; give pixels a side, such as 224, or height and width, as in 192x320"
        )
    return int(sides[0]), int(sides[-1])


def _is_of_others(model: str) -> bool:
    """Whether a network has weights that others published or saved, and is imported."""
    from fbnet_mobile.zoo.efficientnet_lite import NAMES

    return ":" in model or model in NAMES


def _module(
    recipe: ExportRecipe, network: "Architecture | None", size: tuple[int, int] | None
) -> "tuple[nn.Module, tuple[int, int, int, int], ModelMetadata, Architecture | None]":
    from fbnet_mobile.arch import Architecture
    from fbnet_mobile.blocks.network import build, restore
    from fbnet_mobile.engine.checkpoint import load_checkpoint
    from fbnet_mobile.formats.metadata import ModelMetadata
    from fbnet_mobile.zoo.importing import ForeignPartError, imported
    from fbnet_mobile.zoo.mobile_cv import MEAN, STD, load_mobile_cv
    from fbnet_mobile.zoo.peers import load_peer

    given = recipe.network
    checkpoint = given.checkpoint
    if network is not None:
        module = build(network) if checkpoint is None else load_mobile_cv(checkpoint, network)
        mean, std = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)) if checkpoint is None else (MEAN, STD)
        names = tuple(str(number) for number in range(network.classes))
        return module, network.input_shape, ModelMetadata(network.to_yaml(), names, mean, std), network
    if given.model is not None:
        # A number for both sides is told of the architecture; anything else is not that of an architecture.
        side = size[0] if size is not None and size[0] == size[1] else None
        other = recipe.channels is not None or bool(recipe.features)
        if ":" in given.model and other and given.weights is None:
            peer = load_peer(
                given.model,
                pretrained=given.pretrained,
                resolution=size,
                channels=recipe.channels,
                features=recipe.features,
            )
            return *peer, None
        try:
            network, state, known = imported(
                given.model, weights=given.weights, pretrained=given.pretrained, resolution=side
            )
        except ForeignPartError:
            if given.weights is not None:
                raise
        else:
            assert known is not None
            return restore(network, state, given.model), network.input_shape, known, network
        return *load_peer(given.model, pretrained=given.pretrained, resolution=size), None
    assert checkpoint is not None
    trained = load_checkpoint(checkpoint)
    network = Architecture.from_yaml(trained.architecture, str(checkpoint))
    metadata = ModelMetadata(trained.architecture, trained.classes, trained.mean, trained.std)
    return trained.module(str(checkpoint)), network.input_shape, metadata, network


def _calibrate(module: "nn.Module", input_shape: tuple[int, int, int, int]) -> None:
    """Give a fresh network the statistics of noise, so that its values are as large as a trained one's."""
    import torch

    from fbnet_mobile.blocks.network import calibrate_batch_norm

    with contextlib.suppress(Exception):  # the export says what a network that does not run refuses
        calibrate_batch_norm(module, torch.randn((4, *input_shape[1:]), generator=torch.Generator().manual_seed(0)))


def _device(name: str, runtime: str, options: RuntimeOptions) -> "Device":
    """The device, which can have the runtime."""
    from fbnet_mobile.devices import get_device

    device = get_device(name)
    if runtime not in device.runtimes:
        raise UserError(f"{runtime} cannot be measured on {name}; leave out --device")
    device.use(threads=options.threads, benchmark_binary=options.benchmark_binary)
    return device


def _table(path: Path) -> "LatencyTable":
    from fbnet_mobile.latency.table import LatencyTable

    return LatencyTable.load(path)


def _as_taken(pixels: "Tensor", metadata: "ModelMetadata") -> "NDArray[Any]":
    """Pixels as the file takes them."""
    from fbnet_mobile.data.augment import normalise

    if metadata.input == "float32":
        pixels = normalise(pixels, metadata.mean, metadata.std)
    array: NDArray[Any] = pixels.contiguous().numpy()
    return array


def _latency(
    path: Path,
    device: "Device",
    runtime: str,
    precision: str,
    network: "Architecture | None",
    table: "LatencyTable | None",
) -> FileLatency:
    """Measure the file where it will run, and put that beside the prediction."""
    from fbnet_mobile.formats.base import format_of
    from fbnet_mobile.measure.benchmark import benchmark
    from fbnet_mobile.measure.jobs import runtime_version
    from fbnet_mobile.progress import steps

    threads = device.settings.threads or 1
    statistic = table.conditions.statistic if table is not None else "min"
    with device, steps() as progress:
        version, cpu = runtime_version(device, runtime), device.facts().cpu
        predicted_us, why_not = (
            (None, "")
            if table is None
            else predict(
                table,
                network,
                device=device.name,
                cpu=cpu,
                runtime=runtime,
                runtime_version=version,
                threads=threads,
                precision=precision,
                format=format_of(path).name,
            )
        )
        timed = benchmark(
            [path],
            device,
            runtime,
            threads=threads,
            statistic=statistic,
            progress=lambda done, total: progress("measuring", done, total),
        )
    (measured,) = timed.measurements
    return FileLatency(device.name, cpu, runtime, version, threads, statistic, measured, predicted_us, why_not)
