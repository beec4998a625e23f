"""What is measured, and how thoroughly, as plain data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fbnet_mobile.measure.plan import MeasuringPlan
from fbnet_mobile.recipe import SEEDS, option, output_option

_BLOCKS, _MEASURING, _DEVICE = "Blocks", "Measuring", "Device"


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """How a device runs files."""

    threads: int | None = option(
        None, group=_DEVICE, low=1, high=1024, shown="as devices.yaml says, or 1", help="Threads of the runtime."
    )
    benchmark_binary: Path | None = option(
        None, group=_DEVICE, shown="none", help="Google's benchmark_model for the device, for Android without Python."
    )


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """A device, and how it runs files."""

    device: str = option(
        "host",
        group=_DEVICE,
        known="device",
        help="Where to measure: host is this machine; ssh:user@board, adb, coreml, or a name of devices.yaml.",
    )
    runtime: RuntimeOptions


@dataclass(frozen=True, kw_only=True)
class ProfileRecipe:
    """What is measured into a latency table, and how thoroughly."""

    output: Path = output_option(group=_BLOCKS, help="Table (CSV) to write, or to complete.")
    space: str | None = option(
        None,
        group=_BLOCKS,
        known="space",
        shown="one for the images of --data; small without any",
        help="Search space: the name of a packaged one or a YAML file.",
    )
    within: Path | None = option(
        None,
        group=_BLOCKS,
        shown="none",
        help="Checkpoint of a trained network: the space is what it may become when something is taken from it, and is "
        "written to --space (NAME.space.yaml beside the table if that is not given) unless it is there.",
    )
    resolution: str | None = option(
        None, group=_BLOCKS, shown="the space's", help="Pixels of the input, instead of the space's: 96, or 64,96."
    )
    num_classes: int | None = option(
        None,
        group=_BLOCKS,
        low=1,
        high=100_000,
        shown="as --data has, or the space says",
        help="Of the networks to come.",
    )
    runtime: str | None = option(
        None,
        group=_BLOCKS,
        known="runtime",
        shown="as devices.yaml says, or litert",
        help="What runs the models: litert, onnxruntime, openvino, executorch or coreml.",
    )
    format: str | None = option(
        None,
        group=_BLOCKS,
        known="format",
        shown="the runtime's own; onnx for openvino",
        help="Of the models: tflite for openvino to run those.",
    )
    precision: str = option("fp32", group=_BLOCKS, known="precision", help="Of the models: fp32, fp16 or int8.")
    networks: int = option(
        40,
        group=_MEASURING,
        low=0,
        high=10_000,
        help="Whole networks to measure with the blocks, to calibrate their sum: the smallest, the largest and others "
        "at the edge of the space, and random ones.",
    )
    statistic: Literal["min", "median", "mean"] = option(
        "min", group=_MEASURING, help="Which statistic is a row's latency."
    )
    rounds: int = option(
        MeasuringPlan.max_rounds, group=_MEASURING, low=2, high=1000, help="Most rounds over all models."
    )
    budget: str | None = option(
        None,
        group=_MEASURING,
        shown="none: every block is measured",
        help="End within this time, such as 90s, 3m, 1h; blocks that there is no time for are estimated, and the same "
        "command without a budget measures them.",
    )
    seed: int = option(
        MeasuringPlan.seed,
        group=_MEASURING,
        low=0,
        high=SEEDS,
        help="Of the measuring order and of the networks drawn.",
    )


@dataclass(frozen=True, kw_only=True)
class BenchmarkRecipe:
    """Which model files are measured and judged."""

    models: tuple[Path, ...] = option(
        (),
        argument=True,
        shown="none",
        help="Files: .tflite, .onnx, .mlpackage, .pte; a checkpoint (.pt) for its accuracy.",
    )
    runtime: str | None = option(
        None,
        group=_DEVICE,
        known="runtime",
        shown="each format's own",
        help="What runs the files; with commas, each file by all of them that run its format.",
    )
    latency_table: Path | None = option(
        None, group=_DEVICE, shown="none", help="Table to predict by, if the file holds its architecture."
    )
    by_block: bool = option(
        False,
        group=_DEVICE,
        help="Also time each block within the file, by the profiler of onnxruntime or openvino on this machine: .onnx "
        "files of fbnet-export.",
    )
    images: int | None = option(
        None, group="Images", low=1, shown="all", help="Use about this many of the test images."
    )
    output: Path | None = output_option(None, group="Result", shown="none", help="Also write the results as JSON.")
