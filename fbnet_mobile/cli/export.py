"""fbnet-export: turn a trained network into a file that a device runs, and prove that it computes the same."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fbnet_mobile.cli import options
from fbnet_mobile.cli.common import format_latency, progress_steps, run

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from fbnet_mobile.arch import Architecture
    from fbnet_mobile.devices import Device
    from fbnet_mobile.formats.metadata import ModelMetadata
    from fbnet_mobile.latency.table import LatencyTable

CALIBRATION_IMAGES = 256
"""How many images int8 takes its ranges from: enough, as ranges of 24 and of 100 images differed little."""


def main() -> None:
    """Entry point."""
    run(command, "fbnet-export --checkpoint runs/train/best.pt --format tflite -o model.tflite")


def command(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File: .tflite, .onnx or .mlpackage.", show_default=False)
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Checkpoint that fbnet-train wrote; with --model, one of mobile_cv.", show_default="none"),
    ] = None,
    architecture: Annotated[
        Path | None,
        typer.Option(help="Or an architecture file: its untrained network, to measure.", show_default="none"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Or a published network (see fbnet-benchmark --list-models), timm:NAME or torchvision:NAME; untrained "
            "without --checkpoint or --pretrained.",
            show_default="none",
        ),
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option("--pretrained", help="With the weights of timm or torchvision, downloaded.", show_default="no"),
    ] = False,
    resolution: Annotated[
        int | None,
        typer.Option(min=1, help="Pixels a side, for a network of timm or torchvision.", show_default="its own"),
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option("--format", help="tflite, onnx or coreml.", show_default="by the file's suffix"),
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, fp16, or int8: 8-bit integers, calibrated on images.")] = "fp32",
    input_type: Annotated[
        str,
        typer.Option(
            "--input",
            help="What the file takes: float32, normalised, or uint8, pixels that it normalises itself.",
        ),
    ] = "float32",
    opset: Annotated[int | None, typer.Option(help="ONNX: version of the operations.", show_default="17")] = None,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="ONNX: any number of images at a time.", show_default="no")
    ] = False,
    data: options.OptionalData = None,
    calibration_data: Annotated[
        str | None,
        typer.Option(
            help="Images whose training part int8 takes its ranges from, 256 at most.", show_default="those of --data"
        ),
    ] = None,
    data_root: options.DataRoot = None,
    split_seed: options.SplitSeed = 0,
    images: Annotated[int, typer.Option(min=1, help="How many test images of --data to compare on, at most.")] = 256,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Largest difference accepted, relative to the largest logit.",
            show_default="0.001 for fp32, 0.01 for fp16, any for int8",
        ),
    ] = None,
    min_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Part of the inputs on which the file must give PyTorch's answer.")
    ] = 0.0,
    device: Annotated[
        str | None,
        typer.Option(help="Measure the file's latency there; host is this machine.", show_default="not measured"),
    ] = None,
    threads: options.DeviceThreads = None,
    benchmark_binary: options.BenchmarkBinary = None,
    latency_table: Annotated[
        Path | None,
        typer.Option(help="With --device: table to predict the latency by.", show_default="none"),
    ] = None,
) -> None:
    """Export a network to TFLite, ONNX or Core ML.

    The file is run in its own runtime and compared with PyTorch before it is put in place: on test images of --data,
    or on random inputs without. With --device it is then measured where it will run.
    """
    from fbnet_mobile.errors import UserError
    from fbnet_mobile.formats.base import check_suffix, format_of

    if architecture is None and model is None and checkpoint is None:
        raise UserError("no network; give --checkpoint, --architecture or --model")
    if architecture is not None and (model is not None or checkpoint is not None):
        raise UserError("--architecture exports an untrained network; leave out --checkpoint and --model")
    chosen = check_suffix(output, file_format) if file_format else format_of(output)
    calibration_data = calibration_data or data
    asked = {"opset": opset} if opset is not None else {}
    format_options = {**asked, "dynamic_batch": True} if dynamic_batch else asked
    chosen.check(precision, bool(calibration_data), format_options)
    if input_type not in ("float32", "uint8"):
        raise UserError(f"unknown input '{input_type}'; choose float32 or uint8")
    if device is None and latency_table is not None:
        raise UserError("--latency-table predicts what --device measures; add --device host, or leave it out")
    target = _device(device, chosen.name, threads, benchmark_binary) if device is not None else None
    table = _table(latency_table) if latency_table is not None else None
    peer = model if model is not None and ":" in model else None
    if peer is None and (pretrained or resolution is not None):
        given = "--pretrained" if pretrained else "--resolution"
        raise UserError(f"{given} is for networks of timm and torchvision, as in --model timm:NAME; leave it out")
    if peer is not None and checkpoint is not None:
        raise UserError(f"the weights of {peer} are its own (--pretrained) or fresh; leave out --checkpoint")
    module, input_shape, metadata, network = _network(checkpoint, architecture, model, pretrained, resolution)
    fresh = checkpoint is None and not pretrained

    from fbnet_mobile.data.data import load_images
    from fbnet_mobile.formats.verify import export
    from fbnet_mobile.graph.pixels import Normalisation

    if fresh:
        _calibrate(module, input_shape)
    predicted_us = None
    if target is not None and table is not None:
        predicted_us = _predict(table, network, target, chosen.name, precision)
    metadata = replace(metadata, input=input_type, precision=precision)
    inputs = labels = calibration = None
    same_classes = False
    if data is not None:
        pixels, found, classes = load_images(
            data, "test", images, root=data_root, resolution=input_shape[-1], seed=split_seed
        )
        inputs, same_classes = _as_taken(pixels, metadata), classes == metadata.classes
        labels = found.numpy() if same_classes else None
    if calibration_data is not None and chosen.calibrates(precision):
        pixels, _, _ = load_images(
            calibration_data,
            "train",
            CALIBRATION_IMAGES,
            root=data_root,
            resolution=input_shape[-1],
            seed=split_seed,
        )
        calibration = _as_taken(pixels, metadata)
    report = export(
        module,
        output,
        format=chosen.name,
        input_shape=input_shape,
        metadata=metadata.to_strings(),
        inputs=inputs,
        labels=labels,
        precision=precision,
        calibration=calibration,
        tolerance=tolerance,
        min_agreement=min_agreement,
        pixels=Normalisation(metadata.mean, metadata.std) if input_type == "uint8" else None,
        options=format_options,
    )
    kind = "test images" if data else "random inputs"
    print(
        f"{report.path}: {report.size / 1e6:.3f} MB, largest difference from PyTorch on {report.inputs} {kind} "
        f"{report.largest_difference:.2g} ({report.relative_difference:.2g} of the largest logit)"
    )
    if data is not None or precision != "fp32":
        answers = (
            "no answers of one logit"
            if report.agreement is None
            else f"PyTorch's answer on {report.agreement:.1%} of them"
        )
        line = f"{precision}: {answers}"
        if report.accuracy is not None and report.pytorch_accuracy is not None:
            points = 100 * (report.accuracy - report.pytorch_accuracy)
            line += f"; accuracy {report.accuracy:.2%}, PyTorch's {report.pytorch_accuracy:.2%} ({points:+.2f} points)"
        print(line)
    if data is not None and not same_classes:
        print(f"accuracy not counted: the classes of {data} are not those of the network")
    if fresh:
        name = network.name if network is not None else peer
        print(f"the weights of {name} are freshly initialised: the file is for measuring, not for predicting")
    if target is not None:
        _measure(output, target, chosen.name, table.conditions.statistic if table else "min", predicted_us)


def _network(
    checkpoint: Path | None, architecture: Path | None, model: str | None, pretrained: bool, resolution: int | None
) -> "tuple[nn.Module, tuple[int, int, int, int], ModelMetadata, Architecture | None]":
    """The module, its input's shape, what its file says of itself, and its architecture if it has one."""
    from fbnet_mobile.arch import Architecture
    from fbnet_mobile.zoo import load_network

    network = None
    if architecture is not None:
        network = Architecture.load(architecture)
    elif model is not None and ":" not in model:
        network = load_network(model)

    import torch

    from fbnet_mobile.blocks import build, restore
    from fbnet_mobile.engine.checkpoint import load_checkpoint
    from fbnet_mobile.formats.metadata import ModelMetadata
    from fbnet_mobile.zoo.mobile_cv import MEAN, STD, load_mobile_cv
    from fbnet_mobile.zoo.peers import load_peer

    torch.manual_seed(0)  # fresh weights, too, give the same file every time
    if network is not None:
        module = build(network) if checkpoint is None else load_mobile_cv(checkpoint, network)
        mean, std = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)) if checkpoint is None else (MEAN, STD)
        names = tuple(str(number) for number in range(network.classes))
        return module, network.input_shape, ModelMetadata(network.to_yaml(), names, mean, std), network
    if model is not None:
        return *load_peer(model, pretrained=pretrained, resolution=resolution), None
    assert checkpoint is not None
    trained = load_checkpoint(checkpoint)
    network = Architecture.from_yaml(trained.architecture, str(checkpoint))
    metadata = ModelMetadata(trained.architecture, trained.classes, trained.mean, trained.std)
    return restore(network, trained.state_dict, str(checkpoint)), network.input_shape, metadata, network


def _calibrate(module: "nn.Module", input_shape: tuple[int, int, int, int]) -> None:
    """Give a fresh network the statistics of noise, so that its values are as large as a trained one's."""
    import torch

    from fbnet_mobile.blocks import calibrate_batch_norm

    with contextlib.suppress(Exception):  # the export says what a network that does not run refuses
        calibrate_batch_norm(module, torch.randn((4, *input_shape[1:]), generator=torch.Generator().manual_seed(0)))


def _device(name: str, file_format: str, threads: int | None, benchmark_binary: Path | None) -> "Device":
    """The device, which can run files of the format."""
    from fbnet_mobile.devices import get_device
    from fbnet_mobile.errors import UserError
    from fbnet_mobile.formats.base import get_format

    device = get_device(name)
    if get_format(file_format).runtime not in device.runtimes:
        raise UserError(f"files of the format {file_format} cannot be measured on {name}; leave out --device")
    device.use(threads=threads, benchmark_binary=benchmark_binary)
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


def _predict(
    table: "LatencyTable", network: "Architecture | None", device: "Device", file_format: str, precision: str
) -> float | None:
    """What the table predicts for the network, in microseconds; None, and why, if it is of other conditions."""
    from fbnet_mobile.formats.base import get_format

    if network is None:
        print("no prediction: the network is not made of a search space's blocks")
        return None
    conditions = table.conditions
    for what, here, there in (
        ("device", device.name, conditions.device),
        ("runtime", get_format(file_format).runtime, conditions.runtime),
        ("number of threads", _threads(device), conditions.threads),
        ("precision", precision, conditions.precision),
    ):
        if here != there:
            print(f"no prediction: the {what} is {here}, that of the latency table {there}")
            return None
    return table.total(network)


def _threads(device: "Device") -> int:
    return device.settings.threads or 1


def _measure(path: Path, device: "Device", file_format: str, statistic: str, predicted_us: float | None) -> None:
    """Measure the file where it will run, and print that beside the prediction."""
    from fbnet_mobile.formats.base import get_format
    from fbnet_mobile.measure.benchmark import benchmark

    runtime, threads = get_format(file_format).runtime, _threads(device)
    with device, progress_steps() as progress:
        (row,) = benchmark(
            [path],
            device,
            runtime,
            threads=threads,
            statistic=statistic,
            progress=lambda done, total: progress("measuring", done, total),
        )
        facts = device.facts()
    print(
        f"latency on {device.name} ({facts.cpu}), {runtime}, {threads} thread{'s' if threads > 1 else ''}: "
        f"{statistic} {format_latency(row.latency_us)}, median {format_latency(row.median_us)}, 90th percentile "
        f"{format_latency(row.p90_us)}; {row.runs} runs"
    )
    if predicted_us is not None:
        error = predicted_us / row.latency_us - 1
        print(f"predicted {format_latency(predicted_us)}, {error:+.1%} of the measured {statistic}")
