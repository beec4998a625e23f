"""fbnet-export: turn a trained network into a file that a device runs, and prove that it computes the same."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fbnet_mobile.cli import options
from fbnet_mobile.cli.common import run

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from fbnet_mobile.export.metadata import ModelMetadata

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
        typer.Option(help="Images whose training part int8 takes its ranges from.", show_default="those of --data"),
    ] = None,
    data_root: options.DataRoot = None,
    split_seed: options.SplitSeed = 0,
    images: Annotated[int, typer.Option(min=1, help="How many test images to compare on.")] = 16,
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
) -> None:
    """Export a network to TFLite, ONNX or Core ML.

    The file is run in its own runtime and compared with PyTorch before it is put in place.
    """
    from fbnet_mobile.arch import Architecture
    from fbnet_mobile.errors import UserError
    from fbnet_mobile.export.formats import check_options, check_suffix, format_of
    from fbnet_mobile.export.precision import calibrates, check_precision
    from fbnet_mobile.zoo import load_network

    if architecture is None and model is None and checkpoint is None:
        raise UserError("no network; give --checkpoint, --architecture or --model")
    if architecture is not None and (model is not None or checkpoint is not None):
        raise UserError("--architecture exports an untrained network; leave out --checkpoint and --model")
    chosen = check_suffix(output, file_format) if file_format else format_of(output)
    calibration_data = calibration_data or data
    check_precision(chosen.name, precision, bool(calibration_data))
    asked = {"opset": opset} if opset is not None else {}
    format_options = {**asked, "dynamic_batch": True} if dynamic_batch else asked
    check_options(chosen, format_options)
    if input_type not in ("float32", "uint8"):
        raise UserError(f"unknown input '{input_type}'; choose float32 or uint8")
    peer = model if model is not None and ":" in model else None
    if peer is None and (pretrained or resolution is not None):
        given = "--pretrained" if pretrained else "--resolution"
        raise UserError(f"{given} is for networks of timm and torchvision, as in --model timm:NAME; leave it out")
    if peer is not None and checkpoint is not None:
        raise UserError(f"the weights of {peer} are its own (--pretrained) or fresh; leave out --checkpoint")
    described = None
    if model is not None and peer is None:
        described = load_network(model)
    elif architecture is not None:
        described = Architecture.load(architecture)

    from fbnet_mobile.export.metadata import ModelMetadata
    from fbnet_mobile.export.pixels import Normalisation
    from fbnet_mobile.export.verify import export
    from fbnet_mobile.nn import build, restore
    from fbnet_mobile.train.checkpoint import load_checkpoint
    from fbnet_mobile.zoo.mobile_cv import MEAN, STD, load_mobile_cv
    from fbnet_mobile.zoo.peers import load_peer

    module: nn.Module
    if peer is not None:
        module, input_shape, metadata = load_peer(peer, pretrained=pretrained, resolution=resolution)
    elif described is None:
        assert checkpoint is not None
        trained = load_checkpoint(checkpoint)
        network = Architecture.from_yaml(trained.architecture, str(checkpoint))
        module, input_shape = restore(network, trained.state_dict, str(checkpoint)), network.input_shape
        metadata = ModelMetadata(trained.architecture, trained.classes, trained.mean, trained.std)
    else:
        input_shape = described.input_shape
        names = tuple(str(number) for number in range(described.classes))
        if checkpoint is not None:
            module = load_mobile_cv(checkpoint, described)
            metadata = ModelMetadata(described.to_yaml(), names, MEAN, STD)
        else:
            module = build(described)
            metadata = ModelMetadata(described.to_yaml(), names, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    metadata = replace(metadata, input=input_type)
    inputs = calibration = None
    if data is not None:
        inputs = _images(data, "test", images, input_shape[-1], data_root, split_seed, metadata)
    if calibration_data is not None and calibrates(chosen.name, precision):
        calibration = _images(
            calibration_data, "train", CALIBRATION_IMAGES, input_shape[-1], data_root, split_seed, metadata
        )
    report = export(
        module,
        output,
        format=chosen.name,
        input_shape=input_shape,
        metadata=metadata.to_strings(),
        inputs=inputs,
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
    if precision != "fp32":
        print(f"{precision}: PyTorch's answer on {report.agreement:.1%} of them")
    if checkpoint is None and not pretrained:
        name = described.name if described is not None else peer
        print(f"the weights of {name} are freshly initialised: the file is for measuring, not for predicting")


def _images(
    source: str, part: str, count: int, resolution: int, root: Path | None, seed: int, metadata: "ModelMetadata"
) -> "NDArray[Any]":
    """Up to ``count`` images of the "train" or "test" part, of all classes: (N, 3, R, R), as the file takes them."""
    import torch

    from fbnet_mobile.train.augment import normalise
    from fbnet_mobile.train.data import Split, load_data

    limit = max(count, len(metadata.classes))
    split: Split = getattr(load_data(source, root=root, resolution=resolution, seed=seed, limit=limit), part)
    pixels = torch.cat([batch for batch, _ in split.limit(limit).batches(64)])
    # Images lie class by class, so the first ones would be of one class.
    chosen = pixels[torch.linspace(0, len(pixels) - 1, min(count, len(pixels))).long()]
    if metadata.input == "float32":
        chosen = normalise(chosen, metadata.mean, metadata.std)
    array: NDArray[Any] = chosen.contiguous().numpy()
    return array
