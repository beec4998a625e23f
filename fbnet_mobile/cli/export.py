"""fbnet-export: turn a trained network into a file that a device runs, and prove that it computes the same."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fbnet_mobile.cli import options
from fbnet_mobile.cli.common import run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
    from fbnet_mobile.export.formats import check_suffix, format_of
    from fbnet_mobile.export.precision import calibrates, check_precision
    from fbnet_mobile.zoo import load_network

    if architecture is None and model is None and checkpoint is None:
        raise UserError("no network; give --checkpoint, --architecture or --model")
    if architecture is not None and (model is not None or checkpoint is not None):
        raise UserError("--architecture exports an untrained network; leave out --checkpoint and --model")
    chosen = check_suffix(output, file_format) if file_format else format_of(output)
    calibration_data = calibration_data or data
    check_precision(chosen.name, precision, bool(calibration_data))
    described = None
    if model is not None:
        described = load_network(model)
    elif architecture is not None:
        described = Architecture.load(architecture)

    from fbnet_mobile.export.metadata import ModelMetadata
    from fbnet_mobile.export.verify import export
    from fbnet_mobile.nn import build, restore
    from fbnet_mobile.train.checkpoint import load_checkpoint
    from fbnet_mobile.zoo.mobile_cv import MEAN, STD, load_mobile_cv

    if described is None:
        assert checkpoint is not None
        trained = load_checkpoint(checkpoint)
        network = Architecture.from_yaml(trained.architecture, str(checkpoint))
        module = restore(network, trained.state_dict, str(checkpoint))
        metadata = ModelMetadata(trained.architecture, trained.classes, trained.mean, trained.std)
    else:
        network = described
        names = tuple(str(number) for number in range(network.classes))
        if checkpoint is not None:
            module = load_mobile_cv(checkpoint, network)
            metadata = ModelMetadata(network.to_yaml(), names, MEAN, STD)
        else:
            module = build(network)
            metadata = ModelMetadata(network.to_yaml(), names, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    inputs = calibration = None
    if data is not None:
        inputs = _images(data, "test", images, network.resolution, data_root, split_seed, metadata)
    if calibration_data is not None and calibrates(chosen.name, precision):
        calibration = _images(
            calibration_data, "train", CALIBRATION_IMAGES, network.resolution, data_root, split_seed, metadata
        )
    report = export(
        module,
        output,
        format=chosen.name,
        input_shape=network.input_shape,
        metadata=metadata.to_strings(),
        inputs=inputs,
        precision=precision,
        calibration=calibration,
        tolerance=tolerance,
        min_agreement=min_agreement,
    )
    kind = "test images" if data else "random inputs"
    print(
        f"{report.path}: {report.size / 1e6:.3f} MB, largest difference from PyTorch on {report.inputs} {kind} "
        f"{report.largest_difference:.2g} ({report.relative_difference:.2g} of the largest logit)"
    )
    if precision != "fp32":
        print(f"{precision}: PyTorch's answer on {report.agreement:.1%} of them")
    if checkpoint is None:
        print(f"the weights of {network.name} are freshly initialised: the file is for measuring, not for predicting")


def _images(
    source: str, part: str, count: int, resolution: int, root: Path | None, seed: int, metadata: "ModelMetadata"
) -> "NDArray[np.float32]":
    """Up to ``count`` images of the "train" or "test" part, of all classes: (N, 3, R, R), as the network takes them."""
    import torch

    from fbnet_mobile.train.augment import normalise
    from fbnet_mobile.train.data import Split, load_data

    limit = max(count, len(metadata.classes))
    split: Split = getattr(load_data(source, root=root, resolution=resolution, seed=seed, limit=limit), part)
    pixels = torch.cat([batch for batch, _ in split.limit(limit).batches(64)])
    # Images lie class by class, so the first ones would be of one class.
    chosen = pixels[torch.linspace(0, len(pixels) - 1, min(count, len(pixels))).long()]
    array: NDArray[np.float32] = normalise(chosen, metadata.mean, metadata.std).contiguous().numpy()
    return array
