"""fbnet-export: turn a trained network into a file that a device runs, and prove that it computes the same."""

from pathlib import Path
from typing import Annotated

import typer

from fbnet_mobile.cli import options
from fbnet_mobile.cli.common import run


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
            help="Or a published network (see fbnet-benchmark --list-models); untrained without --checkpoint.",
            show_default="none",
        ),
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option("--format", help="tflite, onnx or coreml.", show_default="by the file's suffix"),
    ] = None,
    data: options.OptionalData = None,
    data_root: options.DataRoot = None,
    split_seed: options.SplitSeed = 0,
    images: Annotated[int, typer.Option(min=1, help="How many test images to compare on.")] = 16,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Largest difference accepted, relative to the largest logit.")
    ] = 1e-3,
) -> None:
    """Export a network to TFLite, ONNX or Core ML.

    The file is run in its own runtime and compared with PyTorch before it is put in place.
    """
    from fbnet_mobile.arch import Architecture
    from fbnet_mobile.errors import UserError
    from fbnet_mobile.export.formats import check_suffix, format_of
    from fbnet_mobile.zoo import load_network

    if architecture is None and model is None and checkpoint is None:
        raise UserError("no network; give --checkpoint, --architecture or --model")
    if architecture is not None and (model is not None or checkpoint is not None):
        raise UserError("--architecture exports an untrained network; leave out --checkpoint and --model")
    chosen = check_suffix(output, file_format) if file_format else format_of(output)
    described = None
    if model is not None:
        described = load_network(model)
    elif architecture is not None:
        described = Architecture.load(architecture)

    import torch

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
    inputs = None
    if data is not None:
        from fbnet_mobile.train.augment import normalise
        from fbnet_mobile.train.data import load_data

        test = load_data(data, root=data_root, resolution=network.resolution, seed=split_seed).test
        pixels = torch.cat([batch for batch, _ in test.limit(max(images, len(metadata.classes))).batches(64)])
        inputs = normalise(pixels[:images], metadata.mean, metadata.std).contiguous().numpy()
    report = export(
        module,
        output,
        format=chosen.name,
        input_shape=network.input_shape,
        metadata=metadata.to_strings(),
        inputs=inputs,
        tolerance=tolerance,
    )
    kind = "test images" if data else "random inputs"
    print(
        f"{report.path}: {report.size / 1e6:.3f} MB, largest difference from PyTorch on {report.inputs} {kind} "
        f"{report.largest_difference:.2g} ({report.relative_difference:.2g} of the largest logit)"
    )
    if checkpoint is None:
        print(f"the weights of {network.name} are freshly initialised: the file is for measuring, not for predicting")
