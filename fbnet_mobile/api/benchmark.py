"""From model files to their latency on a device, beside the prediction, and their accuracy."""

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbnet_mobile.api.call import (
    arguments_path,
    check_arguments,
    check_output,
    takes,
    write_arguments,
)
from fbnet_mobile.api.prediction import predict
from fbnet_mobile.data.recipe import TestData
from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.measure.recipe import BenchmarkRecipe, DeviceOptions
from fbnet_mobile.remarks import say
from fbnet_mobile.report.records import (
    BenchmarkResult,
    BlockTime,
    ImportableNetwork,
    ModelResult,
    PublishedNetwork,
    PublishedNetworks,
)

if TYPE_CHECKING:
    from fbnet_mobile.arch import Architecture
    from fbnet_mobile.devices import Device
    from fbnet_mobile.formats.base import Runtime
    from fbnet_mobile.latency.table import LatencyTable

CHECKPOINT = ".pt"


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """Everything that a benchmark is asked for."""

    recipe: BenchmarkRecipe
    images: TestData
    device: DeviceOptions


@takes(BenchmarkOptions)
def benchmark(options: BenchmarkOptions) -> BenchmarkResult:
    """Measure the latency of model files on a device, and their accuracy on labelled images.

    Latency is the time of one inference, of one image, without copying the input; the statistic that the table uses, or
    else "min", is compared with the prediction. With an output, all options are kept beside it in FILE.args.yaml.
    """
    recipe, images = options.recipe, options.images
    if not recipe.models:
        raise UserError("no model files; name some, or see the published networks with --list-models")

    from fbnet_mobile.files import exists

    ways = _ways(recipe)
    for model in recipe.models:
        if not exists(model):
            raise UserError(f"there is no model at {shown(model)}; write one with fbnet-export")
    if recipe.output is not None:
        inputs = [*recipe.models, recipe.latency_table, images.data]
        check_output(recipe.output, inputs=inputs, replaces=_is_result)
        check_arguments(arguments_path(recipe.output))

    from fbnet_mobile.devices import get_device

    table = None
    if recipe.latency_table is not None:
        from fbnet_mobile.latency.table import LatencyTable

        table = LatencyTable.load(recipe.latency_table)
    device = get_device(options.device.device)
    if recipe.by_block:
        _check_profilers(recipe, device, ways)
    device.use(benchmark_binary=options.device.runtime.benchmark_binary)
    threads = options.device.runtime.threads or device.settings.threads or 1
    statistic = table.conditions.statistic if table is not None else "min"
    with device:
        facts = device.facts()
        models = [_described(model, runtime, threads, statistic) for model, runtime in ways]
        models = _measured(models, device)
        if recipe.by_block:
            models = [_by_block(model, runtime) for model, (_, runtime) in zip(models, ways, strict=True)]
    if table is not None:
        models = [_predicted(model, table, device.name, facts.cpu) for model in models]
    if images.data is not None:
        models = _judged(models, images, recipe.images)
    result = BenchmarkResult(options.device.device, facts, tuple(models))
    if recipe.output is not None:
        from fbnet_mobile.documents import write_json

        write_json(recipe.output, result, replaces=_is_result)
        write_arguments(arguments_path(recipe.output), "benchmark", options)
    return result


def _is_result(path: Path) -> bool:
    """Whether a file is an earlier result of a benchmark."""
    from fbnet_mobile.documents import read_record

    return read_record(path, BenchmarkResult.kind) is not None


def published() -> PublishedNetworks:
    """The published networks, and those that can be imported, with their counts."""
    from fbnet_mobile.zoo import (
        PUBLISHED_ACCURACY,
        SOURCE,
        importable,
        load_network,
        published_macs,
        published_params,
        zoo_names,
    )

    found = []
    for name in zoo_names():
        network, accuracy = load_network(name), PUBLISHED_ACCURACY.get(name)
        found.append(
            PublishedNetwork(
                name,
                network.resolution,
                network.macs,
                network.params,
                published_macs(network),
                published_params(network),
                accuracy.top1 if accuracy else None,
                accuracy.source if accuracy else "",
            )
        )
    return PublishedNetworks(tuple(found), SOURCE, tuple(ImportableNetwork(*network) for network in importable()))


def _ways(recipe: BenchmarkRecipe) -> "list[tuple[Path, Runtime | None]]":
    """Each file with each runtime that is to run it; a checkpoint has none.

    Raises:
        UserError: an unknown suffix or runtime, or a file or a runtime that has none of the other.
    """
    from fbnet_mobile.formats.base import format_of, get_runtime

    asked = None if recipe.runtime is None else [get_runtime(name) for name in dict.fromkeys(recipe.runtime.split(","))]
    ways: list[tuple[Path, Runtime | None]] = []
    for model in recipe.models:
        if model.suffix == CHECKPOINT:
            ways.append((model, None))
            continue
        file_format = format_of(model)
        runtimes = [file_format.runtime] if asked is None else [one for one in asked if file_format.name in one.formats]
        if not runtimes:
            raise UserError(
                f"{recipe.runtime} runs no {model.suffix} files such as {model}; add to --runtime what does"
            )
        ways += [(model, runtime) for runtime in runtimes]
    if idle := [runtime.name for runtime in asked or [] if all(used is not runtime for _, used in ways)]:
        raise UserError(f"{idle[0]} runs none of the files; leave it out of --runtime")
    return ways


def _described(model: Path, run_by: "Runtime | None", threads: int, statistic: str) -> ModelResult:
    from fbnet_mobile.formats.base import read_metadata
    from fbnet_mobile.formats.metadata import ModelMetadata

    precision: str | None = "fp32"
    if run_by is None:
        runtime, version = "torch", importlib.metadata.version("torch")
    else:
        runtime, version = run_by.name, run_by.version()
        metadata = ModelMetadata.from_strings(read_metadata(model), str(model))
        precision = metadata.precision if metadata is not None else None
    files = [item for item in (model, *model.rglob("*")) if item.is_file()]
    size = sum(item.stat().st_size for item in files)
    return ModelResult(model, precision, runtime, version, threads, size, statistic)


def _measured(models: Sequence[ModelResult], device: "Device") -> list[ModelResult]:
    """The models with the latency of those that the device runs."""
    from fbnet_mobile.measure.benchmark import benchmark as measure
    from fbnet_mobile.progress import steps

    found = {(model.model, model.runtime): model for model in models}
    with steps() as progress:
        for runtime in device.runtimes:
            own = [model for model in models if model.runtime == runtime]
            if not own:
                continue
            timed = measure(
                [model.model for model in own],
                device,
                runtime,
                threads=own[0].threads,
                statistic=own[0].statistic,
                progress=lambda done, total: progress("measuring", done, total),
            )
            for model, row in zip(own, timed.measurements, strict=True):
                found[model.model, runtime] = replace(model, runtime_version=timed.runtime_version, latency=row)
    return list(found.values())


def _check_profilers(recipe: BenchmarkRecipe, device: "Device", ways: "Sequence[tuple[Path, Runtime | None]]") -> None:
    from fbnet_mobile.devices import HostDevice
    from fbnet_mobile.formats.base import all_runtimes

    if not isinstance(device, HostDevice):
        raise UserError(f"--by-block asks a profiler on this machine, not on {device.name}; use --device host")
    if not any(runtime is not None and runtime.operation_times_us for _, runtime in ways):
        able = [name for name, runtime in all_runtimes().items() if runtime.operation_times_us]
        raise UserError(f"--by-block: no file is run by {' or '.join(able)}; name an .onnx file")


def _by_block(model: ModelResult, run_by: "Runtime | None") -> ModelResult:
    """With the time of each block, or why there is no telling."""
    from fbnet_mobile.measure.by_block import time_by_block

    if run_by is None or run_by.operation_times_us is None:
        return replace(model, no_blocks=f"the profiler of {model.runtime} cannot be asked")
    network = _network(model.model)
    if network is None:
        return replace(model, no_blocks="the file does not hold its architecture")
    try:
        times = time_by_block(model.model, run_by, model.threads, network.blocks)
    except UserError as error:
        return replace(model, no_blocks=str(error))
    blocks = [BlockTime(block.key, us) for block, us in zip(network.blocks, times.blocks_us, strict=True)]
    return replace(model, blocks=tuple(blocks), between_us=times.between_us)


def _network(path: Path) -> "Architecture | None":
    """The architecture that a file holds, if it does."""
    from fbnet_mobile.arch import Architecture
    from fbnet_mobile.formats.base import read_metadata
    from fbnet_mobile.formats.metadata import ModelMetadata

    metadata = ModelMetadata.from_strings(read_metadata(path), str(path))
    if metadata is None or not metadata.architecture:
        return None
    return Architecture.from_yaml(metadata.architecture, str(path))


def _predicted(model: ModelResult, table: "LatencyTable", device: str, cpu: str) -> ModelResult:
    from fbnet_mobile.formats.base import format_of

    if model.latency is None:
        return model
    network = _network(model.model)
    predicted_us, why_not = predict(
        table,
        network,
        device=device,
        cpu=cpu,
        runtime=model.runtime,
        runtime_version=model.runtime_version,
        threads=model.threads,
        precision=model.precision,
        format=format_of(model.model).name,
    )
    if predicted_us is not None and network is not None:
        by_key = {block.key: us for block, us in table.by_block(network)}
        model = replace(model, blocks=tuple(replace(time, predicted_us=by_key[time.block]) for time in model.blocks))
    return replace(model, predicted_us=predicted_us, no_prediction=why_not)


def _judged(models: Sequence[ModelResult], images: TestData, limit: int | None) -> list[ModelResult]:
    """The models with their accuracy on the test images."""
    from fbnet_mobile.data.data import load_data
    from fbnet_mobile.engine.checkpoint import load_checkpoint
    from fbnet_mobile.formats.base import get_runtime, read_metadata
    from fbnet_mobile.formats.metadata import ModelMetadata
    from fbnet_mobile.train.evaluate import Predict, evaluate

    source = images.data
    assert source is not None
    loaded: dict[int, Any] = {}
    judged = []
    for model in models:
        path = model.model
        predictor: Predict
        if path.suffix == CHECKPOINT:
            checkpoint = load_checkpoint(path)
            predictor, resolution = checkpoint.module(str(path)), checkpoint.resolution
            metadata = ModelMetadata(checkpoint.architecture, checkpoint.classes, checkpoint.mean, checkpoint.std)
        else:
            found = ModelMetadata.from_strings(read_metadata(path), str(path))
            if found is None:
                raise UserError(f"{path} does not say how its input is normalised; export it with fbnet-export")
            predictor, metadata = get_runtime(model.runtime).load(path, model.threads), found
            resolution = predictor.input_shape[-1]
        if resolution not in loaded:
            loaded[resolution] = load_data(
                source,
                root=images.place.data_root,
                resolution=resolution,
                seed=images.place.split_seed,
                classes=images.place.classes,
            )
        data = loaded[resolution]
        if data.classes != metadata.classes:
            raise UserError(
                f"{path} tells apart {', '.join(metadata.classes[:3])}... and {source} holds "
                f"{', '.join(data.classes[:3])}...: not the same classes"
            )
        split = data.test.limit(limit) if limit is not None else data.test
        say(f"{path}: running {len(split)} test images")
        own = replace(data, mean=metadata.mean, std=metadata.std)
        accuracy = evaluate(predictor, split, own, pixels=metadata.input != "float32")
        judged.append(replace(model, accuracy=accuracy, images=len(split)))
    return judged
