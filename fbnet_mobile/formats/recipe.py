"""What is exported, and how exactly, as plain data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fbnet_mobile.recipe import NetworkOptions, keep_option, option, output_option

_NETWORK, _FILE, _APPS, _CHECK = "Network", "File", "What apps read of it", "Check"


@dataclass(frozen=True, kw_only=True)
class ExportRecipe:
    """Which network becomes which file, and how it is checked."""

    network: NetworkOptions
    resolution: str | None = option(
        None, group=_NETWORK, shown="its own", help="Pixels a side, or height and width as in 192x320."
    )
    channels: int | None = option(
        None, group=_NETWORK, low=1, high=1000, shown="its own", help="Of the input, for a network of timm."
    )
    batch: int = option(1, group=_NETWORK, low=1, high=4096, help="Images at a time, as many every time.")
    features: tuple[str, ...] = option(
        (),
        group=_NETWORK,
        commas=True,
        shown="none",
        help="Give feature maps instead of logits, with commas between: stride8,stride16,stride32, or names of timm's "
        "features_only, or numbers of blocks.",
    )
    output: Path = output_option(group=_FILE, help="File: .tflite, .onnx, .mlpackage or .pte.")
    format: str | None = option(
        None, group=_FILE, known="format", shown="by the file's suffix", help="tflite, onnx, coreml or executorch."
    )
    precision: str | None = option(
        None,
        group=_FILE,
        known="precision",
        shown="fp32; int8 of a checkpoint of --quantize, and with --output-type",
        help="fp32, fp16, or int8: 8-bit integers, calibrated on images.",
    )
    client: Literal["mediapipe", "openvino", "tflm", "ort-web", "mnn", "ml-kit"] | None = option(
        None,
        group=_FILE,
        names=("--for", "--client"),
        shown="any",
        help="What will open the file: picks --input and --scores, or says why it opens none with what was asked for.",
    )
    input: Literal["float32", "uint8", "int8"] | None = option(
        None,
        group=_FILE,
        shown="float32, or what --for or --output-type needs",
        help="What the file takes: float32, normalised, or pixels that it normalises itself: uint8, or int8, less 128.",
    )
    output_type: Literal["float32", "uint8", "int8"] = option(
        "float32",
        group=_FILE,
        help="TFLite in int8: what the file gives; with uint8 or int8 it takes integers, too, and holds no floats at "
        "all, as microcontrollers and accelerators want.",
    )
    opset: int | None = option(None, group=_FILE, low=1, high=1000, shown="17", help="ONNX: version of the operations.")
    dynamic_batch: bool = option(False, group=_FILE, help="ONNX: any number of images at a time.")
    calibration_data: str | None = option(
        None,
        group=_FILE,
        known="data",
        shown="those of --data",
        help="Images whose training part int8 takes its ranges from, 256 at most.",
    )
    int8_ranges: str = option(
        "auto",
        group=_FILE,
        help="int8: ranges of activations: min-max, percentile-99.99, percentile-99.9, mse, entropy; auto "
        "takes what gives the least error of the logits on calibration images.",
    )
    int8_keep: str = keep_option(group=_FILE)
    sensitivity: bool = option(
        False, group=_CHECK, help="int8: print what each layer suffers and what it costs to compute."
    )
    scores: Literal["probabilities", "logits"] | None = option(
        None,
        group=_FILE,
        shown="probabilities, if it has classes",
        help="What the file gives for each class: probabilities, the softmax of the logits, or the logits.",
    )
    description: str = option("", group=_APPS, shown="none", help="The model in a sentence.")
    author: str = option("", group=_APPS, shown="none", help="Who made it.")
    license: str = option("", group=_APPS, shown="none", help="Terms of its use, such as Apache-2.0.")
    model_version: str = option("", group=_APPS, shown="none", help="Its version, as you count.")
    score_threshold: float = option(
        0.0, group=_APPS, low=0, high=1, help="TFLite: the least probability that an app should show."
    )
    runtime: str | None = option(
        None,
        group=_CHECK,
        known="runtime",
        shown="the format's own",
        help="What runs the file, to compare it and on --device: litert, onnxruntime, openvino, executorch or coreml.",
    )
    images: int = option(256, group=_CHECK, low=1, help="How many test images of --data to compare on, at most.")
    tolerance: float | None = option(
        None,
        group=_CHECK,
        low=0,
        shown="0.001 for fp32, 0.01 for fp16, any for int8",
        help="Largest difference accepted, relative to the largest logit.",
    )
    min_agreement: float | None = option(
        None,
        group=_CHECK,
        low=0,
        high=1,
        shown="0.9 for int8, which may then lose no more than 2 points of accuracy either; else 0",
        help="Part of the inputs on which the file must give PyTorch's answer.",
    )
    device: str | None = option(
        None,
        group="Device",
        known="device",
        shown="not measured",
        help="Measure the file's latency there; host is this machine.",
    )
    latency_table: Path | None = option(
        None, group="Device", shown="none", help="With --device: table to predict the latency by."
    )
