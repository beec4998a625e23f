"""fbnet-benchmark: latency of exported files on a device, next to the prediction, and their accuracy."""

import importlib.metadata
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from fbnet_mobile.cli import options
from fbnet_mobile.cli.common import format_latency, progress_steps, run

CHECKPOINT = ".pt"


def main() -> None:
    """Entry point."""
    run(command, "fbnet-benchmark model.tflite --device host --latency-table host.csv --data path/to/images")


def command(
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Files: .tflite, .onnx, .mlpackage; a checkpoint (.pt) for its accuracy.", show_default=False
        ),
    ] = None,
    list_models: Annotated[
        bool,
        typer.Option(
            "--list-models", help="Instead, list the published networks and what they cost.", show_default="no"
        ),
    ] = False,
    device: options.DeviceName = "host",
    threads: options.DeviceThreads = None,
    benchmark_binary: options.BenchmarkBinary = None,
    latency_table: Annotated[
        Path | None,
        typer.Option(help="Table to predict by, if the file holds its architecture.", show_default="none"),
    ] = None,
    data: options.OptionalData = None,
    data_root: options.DataRoot = None,
    split_seed: options.SplitSeed = 0,
    images: Annotated[
        int | None, typer.Option(min=1, help="Use about this many of the test images.", show_default="all")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Also write the results as JSON.", show_default="none"),
    ] = None,
) -> None:
    """Measure the latency of model files on a device, and their accuracy on labelled images.

    Latency is the time of one inference, of one image, without copying the input; the statistic that the table
    uses, or else "min", is compared with the prediction.
    """
    from fbnet_mobile.devices import get_device
    from fbnet_mobile.errors import UserError
    from fbnet_mobile.formats.base import format_of

    if list_models:
        _print_zoo()
        return
    if not models:
        raise UserError("no model files; name some, or see the published networks with --list-models")
    table = None
    if latency_table is not None:
        from fbnet_mobile.latency.table import LatencyTable

        table = LatencyTable.load(latency_table)
    for model in models:
        if model.suffix != CHECKPOINT:
            format_of(model)
        if not model.exists():
            raise UserError(f"there is no model at {model}; write one with fbnet-export")
    target = get_device(device)
    target.use(benchmark_binary=benchmark_binary)
    threads = threads or target.settings.threads or 1
    with target:
        facts = asdict(target.facts())
        results = [_describe(model, threads) for model in models]
        _measure(results, target, threads, table)
    if table is not None:
        for result in results:
            _predict(result, table)
    if data is not None:
        _accuracy(results, data, data_root, split_seed, images, threads)
    for result in results:
        _print(result, f"{device} ({facts['cpu']})")
    if output is not None:
        from fbnet_mobile.files import write_whole

        with write_whole(output) as partial:
            partial.write_text(json.dumps({"device": device, "facts": facts, "models": results}, indent=2) + "\n")


def _print_zoo() -> None:
    from fbnet_mobile.zoo import (
        PUBLISHED_ACCURACY,
        SOURCE,
        load_network,
        published_macs,
        published_params,
        zoo_names,
    )

    def row(*cells: str) -> str:
        return "{:15} {:>6} {:>11} {:>9} {:>11} {:>9} {:>5}  {}".format(*cells).rstrip()

    print(row("", "", "", "", "published", "published", "", ""))
    print(row("network", "pixels", "MACs, M", "params, M", "MACs, M", "params, M", "top-1", "stated in"))
    for name in zoo_names():
        network, accuracy = load_network(name), PUBLISHED_ACCURACY.get(name)
        counts = (network.macs, network.params, published_macs(network), published_params(network))
        print(
            row(
                name,
                str(network.resolution),
                *(f"{count / 1e6:.6f}" for count in counts),
                f"{accuracy.top1:.1f}" if accuracy else "-",
                accuracy.source if accuracy else "",
            )
        )
    print(
        f"\nThe networks are those of {SOURCE}. It counts one multiply-accumulate more for each\n"
        "element that a global average pool reads, and leaves biases and batch norm out of the parameters. Top-1 is\n"
        "what it states for its own weights on ImageNet, in percent; they do not come with fbnet-mobile, and nothing\n"
        "here has checked it."
    )


def _describe(model: Path, threads: int) -> dict[str, Any]:
    from fbnet_mobile.formats.base import format_of, read_metadata
    from fbnet_mobile.formats.metadata import ModelMetadata

    precision: str | None = "fp32"
    if model.suffix == CHECKPOINT:
        runtime, version = "torch", importlib.metadata.version("torch")
    else:
        runner = format_of(model)
        runtime, version = runner.runtime, runner.version()
        metadata = ModelMetadata.from_strings(read_metadata(model), str(model))
        precision = metadata.precision if metadata is not None else None
    files = [item for item in (model, *model.rglob("*")) if item.is_file()]
    return {
        "model": str(model),
        "precision": precision,
        "runtime": runtime,
        "runtime_version": version,
        "threads": threads,
        "size_bytes": sum(item.stat().st_size for item in files),
    }


def _measure(results: list[dict[str, Any]], target: Any, threads: int, table: Any) -> None:
    from fbnet_mobile.measure.benchmark import benchmark
    from fbnet_mobile.measure.jobs import runtime_version

    statistic = table.conditions.statistic if table is not None else "min"
    with progress_steps() as progress:
        for runtime in target.runtimes:
            own = [result for result in results if result["runtime"] == runtime]
            if not own:
                continue
            version = runtime_version(target, runtime)
            rows = benchmark(
                [Path(result["model"]) for result in own],
                target,
                runtime,
                threads=threads,
                statistic=statistic,
                progress=lambda done, total: progress("measuring", done, total),
            )
            for result, row in zip(own, rows, strict=True):
                result["runtime_version"] = version
                result["statistic"] = statistic
                result["latency"] = asdict(row)


def _predict(result: dict[str, Any], table: Any) -> None:
    from fbnet_mobile.arch import Architecture
    from fbnet_mobile.formats.base import read_metadata
    from fbnet_mobile.formats.metadata import ModelMetadata

    conditions = table.conditions
    asked = (conditions.runtime, conditions.threads, conditions.precision)
    if (result["runtime"], result["threads"], result["precision"]) != asked:
        return
    metadata = ModelMetadata.from_strings(read_metadata(Path(result["model"])), result["model"])
    if metadata is not None and metadata.architecture:
        result["predicted_us"] = table.total(Architecture.from_yaml(metadata.architecture, result["model"]))


def _accuracy(
    results: list[dict[str, Any]], source: str, root: Path | None, split_seed: int, limit: int | None, threads: int
) -> None:
    from fbnet_mobile.arch import Architecture
    from fbnet_mobile.blocks import restore
    from fbnet_mobile.data.data import load_data
    from fbnet_mobile.engine.checkpoint import load_checkpoint
    from fbnet_mobile.errors import UserError
    from fbnet_mobile.formats.base import format_of, read_metadata
    from fbnet_mobile.formats.metadata import ModelMetadata
    from fbnet_mobile.train.loop import evaluate

    loaded: dict[int, Any] = {}
    for result in results:
        path = Path(result["model"])
        predict: Any
        if path.suffix == CHECKPOINT:
            checkpoint = load_checkpoint(path)
            network = Architecture.from_yaml(checkpoint.architecture, str(path))
            predict, resolution = restore(network, checkpoint.state_dict, str(path)), network.resolution
            metadata = ModelMetadata(checkpoint.architecture, checkpoint.classes, checkpoint.mean, checkpoint.std)
        else:
            found = ModelMetadata.from_strings(read_metadata(path), str(path))
            if found is None:
                raise UserError(f"{path} does not say how its input is normalised; export it with fbnet-export")
            predict, metadata = format_of(path).load(path, threads), found
            resolution = predict.input_shape[-1]
        if resolution not in loaded:
            loaded[resolution] = load_data(source, root=root, resolution=resolution, seed=split_seed)
        data = loaded[resolution]
        if data.classes != metadata.classes:
            raise UserError(
                f"{path} tells apart {', '.join(metadata.classes[:3])}... and {source} holds "
                f"{', '.join(data.classes[:3])}...: not the same classes"
            )
        split = data.test.limit(limit) if limit is not None else data.test
        print(f"{path}: running {len(split)} test images", file=sys.stderr)
        own = replace(data, mean=metadata.mean, std=metadata.std)
        result["accuracy"] = evaluate(predict, split, own, pixels=metadata.input == "uint8")
        result["images"] = len(split)


def _print(result: dict[str, Any], where: str) -> None:
    precision = f", {result['precision']}" if result["precision"] else ""
    size = f"{result['size_bytes'] / 1e6:.3f} MB"
    print(f"{result['model']} ({size}{precision}), {result['runtime']} {result['runtime_version']}")
    latency = result.get("latency")
    if latency is None and result["runtime"] == "coreml":
        print("  latency: not timed; Core ML is, on a Mac, with --device coreml")
    elif latency is not None:
        values = ", ".join(
            f"{name} {format_latency(latency[f'{name}_us'])}" for name in ("min", "p10", "median", "p90", "mean")
        )
        plural = "s" if result["threads"] > 1 else ""
        print(f"  latency on {where}, {result['threads']} thread{plural}: {values}; {latency['runs']} runs")
    if "predicted_us" in result and latency is not None:
        error = result["predicted_us"] / latency["latency_us"] - 1
        print(
            f"  predicted {format_latency(result['predicted_us'])}, {error:+.1%} of the measured {result['statistic']}"
        )
    if "accuracy" in result:
        print(f"  accuracy {result['accuracy']:.2%} on {result['images']} test images")
