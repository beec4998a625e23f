"""Does int8 keep the accuracy of trained networks, and do other quantisers keep more of it?

    python benchmarks/int8.py -o runs/int8 --networks lcnet_050 mobilenetv3_small_050

Each network is timm's, trained here for a moment on scikit-learn's digits at 64 pixels, or on the images of --data, or
it is a checkpoint of fbnet-train's. Its files are made from the same 256 calibration images (of the training part) and
looked at on the same test images (540 of the digits): those that
``fbnet-export`` makes (``ours``; ``whole``: with the whole range seen and nothing in float32, as it was done before),
and beside them litert-quantizer's own recipe (moving averages of the ranges) and ONNX Runtime's ``quantize_static``,
with its defaults and with ranges at the 99.9th percentile. ``aware`` are those of the network trained on for some
epochs as by ``fbnet-train --quantize int8``, those of timm without cutting images out, as they were trained; for these
the agreement of the file with the network that rounds is kept, too. Files are timed beside the float32 file of their
format: the least time of an image on one thread, turn by turn.

What is done is kept in the folder, weights and rows, and not done again. Prints a table and writes results.json. The
exit code is 1 if one of our files loses more than 1 point, or a peer's of the same format is better by more than 0.3.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from PIL import Image
from results_file import write_results
from sklearn.datasets import load_digits
from torch import nn

from fbnet_mobile.data.augment import normalise
from fbnet_mobile.data.data import Data, load_data
from fbnet_mobile.engine.checkpoint import load_checkpoint
from fbnet_mobile.engine.losses import Teacher
from fbnet_mobile.files import write_whole
from fbnet_mobile.formats.base import format_of, get_format, write
from fbnet_mobile.formats.int8 import Learned
from fbnet_mobile.formats.packages import quiet
from fbnet_mobile.graph.merge import merge_branches
from fbnet_mobile.graph.operations import Graph
from fbnet_mobile.graph.rounded import Rounded
from fbnet_mobile.graph.trace import trace
from fbnet_mobile.recipe import build as build_recipe
from fbnet_mobile.train.loop import train
from fbnet_mobile.train.quantise import prepare
from fbnet_mobile.train.recipe import QUANTIZE, TrainRecipe, read_recipe

PACKAGES = ("timm", "onnxruntime", "ai-edge-litert", "litert-quantizer")
SIZE, TEST, CALIBRATION = 64, 540, 256
MAX_LOSS, MAX_BEHIND = 0.01, 0.003
TIMED = 100
NETWORKS = ["lcnet_050", "mobilenetv3_small_050", "mobileone_s0", "repvgg_a0", "efficientnet_lite0", "fbnetv3_b"]
Images = NDArray[np.float32]
Labels = NDArray[np.int64]
Quantiser = Callable[[nn.Module, Images, Path], None]


def main() -> None:
    """Train, quantise and report."""
    parser = argparse.ArgumentParser(description="Compare int8 files of trained networks with PyTorch and with peers.")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="Names of timm's, and checkpoints.")
    parser.add_argument("--data", default="digits", help="Or a folder of images, as for fbnet-train.")
    parser.add_argument("--limit", type=int, help="Training images of that folder.")
    parser.add_argument("--quantisers", nargs="+", default=list(QUANTISERS), choices=list(QUANTISERS))
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--aware-epochs", type=int, default=10, help="Of quantisation-aware training.")
    parser.add_argument("--trained-on", default="cpu", help="What PyTorch trains on, such as cuda.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of what is done with one --data")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    kept = options.output / "rows.json"
    rows: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
    print(f"{'network':24} {'file':28} {'accuracy':>8} {'PyTorch':>8} {'points':>7} {'agreement':>9} {'s':>6}")
    for name in options.networks:
        given = images_for(name, options)
        module = trained(name, given, options)
        own = logits(module, given.test)
        for quantiser in options.quantisers:
            key = f"{name} {quantiser}"
            if key not in rows:
                network = module
                if quantiser.endswith("aware"):
                    network = trained_aware(name, module, given, options)
                rows[key] = look(name, quantiser, network, given, own)
                with write_whole(kept) as partial:
                    partial.write_text(json.dumps(rows, indent=2))
            print(line(rows[key]), flush=True)
    asked = [rows[f"{name} {quantiser}"] for name in options.networks for quantiser in options.quantisers]
    write_results(options.output / "results.json", {"rows": asked}, options, PACKAGES)
    missed = list(shortcomings(asked))
    for words in missed:
        print(f"short of the aim: {words}")
    sys.exit(bool(missed))


@dataclasses.dataclass(frozen=True)
class Given:
    """What a network is trained and looked at on.

    Attributes:
        train: (N, 3, size, size), normalised.
        train_labels: of these.
        test: likewise.
        labels: of these.
        flips: whether a mirrored image is another of its class.
        data: what these are of; None for the digits.
    """

    train: Images
    train_labels: Labels
    test: Images
    labels: Labels
    flips: bool = False
    data: Data | None = None

    @property
    def calibration(self) -> Images:
        """Some of the training images."""
        return self.train[np.random.default_rng(0).permutation(len(self.train))[:CALIBRATION]]


def digits() -> Given:
    """Images, normalised to about -2 to 2, and labels: 1257 to train on and 540 to test on."""
    found: Any = load_digits()
    pixels = torch.from_numpy(found.images[:, None]).float() / 4 - 2
    large = nn.functional.interpolate(pixels, size=SIZE, mode="bilinear").repeat(1, 3, 1, 1).numpy()
    order = np.random.default_rng(0).permutation(len(large))
    train, test = order[:-TEST], order[-TEST:]
    return Given(large[train], found.target[train], large[test], found.target[test])


def images_for(name: str, options: argparse.Namespace) -> Given:
    """The images as a network takes them: 64 pixels large, or as it was trained on them."""
    checkpoint = load_checkpoint(Path(name)) if is_checkpoint(name) else None
    if checkpoint is None and options.data == "digits":
        return digits()
    size = SIZE if checkpoint is None else checkpoint.resolution
    data = load_data(options.data, resolution=size, limit=options.limit)
    mean, std = (data.mean, data.std) if checkpoint is None else (checkpoint.mean, checkpoint.std)
    parts = []
    for split in (data.train, data.test):
        images = torch.cat([normalise(pixels, mean, std) for pixels, _ in split.batches(256)])
        parts.append((images.contiguous().numpy(), split.labels.numpy()))
    colours: dict[str, Any] = {"mean": mean, "std": std}
    return Given(*parts[0], *parts[1], flips=data.flip, data=dataclasses.replace(data, **colours))


def is_checkpoint(name: str) -> bool:
    """Whether a network is a file of fbnet-train's."""
    return name.endswith(".pt")


def traced(module: nn.Module, images: Images) -> Graph:
    """A network without its branches, as files are made of."""
    return trace(merge_branches(module)[0], (1, *images.shape[1:]))


def ours(format_: str, **choice: Any) -> Quantiser:
    """What fbnet-export does."""

    def quantise(module: nn.Module, images: Images, path: Path) -> None:
        write(traced(module, images), path, format_, precision="int8", calibration=images, options=choice)

    return quantise


def aware(format_: str) -> Quantiser:
    """What fbnet-export does with a checkpoint of quantisation-aware training."""

    def quantise(module: nn.Module, images: Images, path: Path) -> None:
        assert isinstance(module, Rounded)
        learned = {"ranges": Learned(module.ranges(), module.kept)}
        write(module.graph(), path, format_, precision="int8", calibration=images, options=learned)

    return quantise


def litert(module: nn.Module, images: Images, path: Path) -> None:
    """litert-quantizer's own recipe."""
    from litert_quantizer import quantizer, recipe

    full = path.with_name("full.tflite")
    write(traced(module, images), full, "tflite")
    settings = recipe.static_wi8_ai8()
    for border in ("INPUT", "OUTPUT"):  # as the files beside it: float32 in and out
        settings.append({"regex": ".*", "operation": border, "algorithm_key": "no_quantize", "op_config": {}})
    made = quantizer.Quantizer(str(full), settings)
    with quiet():
        found = made.calibrate(
            {"serving_default": [{"input": image[None].transpose(0, 2, 3, 1)} for image in images]}, num_threads=1
        )
        result = made.quantize(found)
    path.write_bytes(result.quantized_model)


def onnxruntime(**settings: Any) -> Quantiser:
    """ONNX Runtime's quantize_static, with its pre-processing."""

    def quantise(module: nn.Module, images: Images, path: Path) -> None:
        from onnxruntime.quantization import CalibrationMethod, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        full, prepared = path.with_name("full.onnx"), path.with_name("prepared.onnx")
        write(traced(module, images), full, "onnx")
        quant_pre_process(full, prepared)
        found = dict(settings)
        if "calibrate_method" in found:
            found["calibrate_method"] = CalibrationMethod[found["calibrate_method"]]
        with quiet():
            quantize_static(prepared, path, _Reader(images), **found)

    return quantise


class _Reader:
    """What ``quantize_static`` takes its images from."""

    def __init__(self, images: Images) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, Images] | None:
        """The next image, by the name of the input."""
        image = next(self._images, None)
        return None if image is None else {"input": image[None]}


QUANTISERS: dict[str, Quantiser] = {
    "tflite ours": ours("tflite"),
    "tflite aware": aware("tflite"),
    "tflite whole": ours("tflite", ranges="min-max", keep=()),
    "tflite litert-quantizer": litert,
    "onnx ours": ours("onnx"),
    "onnx aware": aware("onnx"),
    "onnx whole": ours("onnx", ranges="min-max", keep=()),
    "onnx quantize_static": onnxruntime(),
    "onnx quantize_static 99.9": onnxruntime(
        calibrate_method="Percentile",
        per_channel=True,
        reduce_range=True,
        extra_options={"CalibPercentile": 99.9},
    ),
}


def look(name: str, quantiser: str, module: nn.Module, given: Given, own: Images) -> dict[str, Any]:
    """Make a file and compare it with PyTorch, whose logits are ``own``."""
    format_ = quantiser.split()[0]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"network{get_format(format_).suffix}"
        QUANTISERS[quantiser](module, given.calibration, path)
        seconds = time.perf_counter() - start
        answers = in_file(path, given.test).argmax(1)
        size = path.stat().st_size
        full = path.with_stem("float32")
        write(traced(module, given.test), full, format_)
        least_us = timed([path, full], given.test[:1])
    row: dict[str, Any] = {
        "network": name,
        "quantiser": quantiser,
        "accuracy": float((answers == given.labels).mean()),
        "pytorch_accuracy": float((own.argmax(1) == given.labels).mean()),
        "agreement": float((answers == own.argmax(1)).mean()),
        "size_bytes": size,
        "seconds": seconds,
        "latency_us": least_us[0],
        "float32_latency_us": least_us[1],
    }
    if isinstance(module, Rounded):
        row["kept"] = module.kept
        row["agreement_with_rounded"] = float((answers == logits(module, given.test).argmax(1)).mean())
    return row


def in_file(path: Path, images: Images) -> Images:
    """What a file says, in parts."""
    session = format_of(path).load(path)
    return np.concatenate([session(part) for part in np.array_split(images, -(-len(images) // 500))])


def timed(paths: list[Path], image: Images) -> list[float]:
    """The least time that each file takes for an image, in microseconds."""
    sessions = [format_of(path).load(path) for path in paths]
    least = [float("inf")] * len(paths)
    for _ in range(TIMED):
        for place, session in enumerate(sessions):
            start = time.perf_counter()
            session(image)
            least[place] = min(least[place], 1e6 * (time.perf_counter() - start))
    return least


@torch.no_grad()
def logits(module: nn.Module, images: Images) -> Images:
    """What a network says, in batches."""
    result: Images = torch.cat([module(part) for part in torch.split(torch.from_numpy(images), 64)]).numpy()
    return result


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    points = 100 * (row["accuracy"] - row["pytorch_accuracy"])
    return (
        f"{row['network']:24} {row['quantiser']:28} {row['accuracy']:>8.2%} {row['pytorch_accuracy']:>8.2%} "
        f"{points:>+7.2f} {row['agreement']:>9.2%} {row['seconds']:>6.1f}"
    )


def shortcomings(rows: list[dict[str, Any]]) -> Iterator[str]:
    """What is short of the aim."""
    for row in rows:
        if not row["quantiser"].endswith("ours"):
            continue
        if row["pytorch_accuracy"] - row["accuracy"] > MAX_LOSS:
            yield f"{row['network']} {row['quantiser']} loses {row['pytorch_accuracy'] - row['accuracy']:.2%}"
        for peer in rows:
            same = peer["network"] == row["network"] and peer["quantiser"].split()[0] == row["quantiser"].split()[0]
            own = peer["quantiser"].endswith("aware")
            if same and not own and peer["accuracy"] - row["accuracy"] > MAX_BEHIND:
                yield f"{row['network']}: {peer['quantiser']} is better than ours"


def trained(name: str, given: Given, options: argparse.Namespace) -> nn.Module:
    """The network with weights trained here, or earlier."""
    if is_checkpoint(name):
        return load_checkpoint(Path(name)).network(name).eval()
    torch.manual_seed(0)
    module: nn.Module = timm.create_model(name, pretrained=False, num_classes=int(given.train_labels.max()) + 1)
    kept = options.output / f"{name}-{options.epochs}.pt"
    if kept.exists():
        module.load_state_dict(torch.load(kept, weights_only=True))
        return module.eval()
    start = time.perf_counter()
    fit(module, given, options.epochs, 3e-3, options.trained_on)
    with write_whole(kept) as partial:
        torch.save(module.state_dict(), partial)
    print(f"trained {name} in {time.perf_counter() - start:.0f} s", flush=True)
    return module.eval()


def trained_aware(name: str, module: nn.Module, given: Given, options: argparse.Namespace) -> nn.Module:
    """The network trained on with rounding, here or earlier, as ``fbnet-train --quantize int8`` does."""
    with tempfile.TemporaryDirectory() as folder:
        images = torch.from_numpy(given.calibration)
        rounded = prepare(traced(module, given.train), images, Path(folder) / "without_training.tflite")
    data = pictures(options.output / "digits") if given.data is None else given.data
    data = dataclasses.replace(data, test=data.test.limit(100))  # it is looked at as a file
    fabric = Fabric(accelerator=options.trained_on, devices=1)
    colours = (data.mean, data.std)
    teacher = Teacher(module, colours, data.resolution, colours, fabric, name)
    # Those of timm were trained here without cutting images out.
    augmentations = None if is_checkpoint(name) else ("flip",) if given.flips else ()
    how = {"epochs": options.aware_epochs, "loss": "distillation", "teacher": name, "augmentations": augmentations}
    recipe = build_recipe(TrainRecipe, {**read_recipe(QUANTIZE), **how})
    folder_of_run = options.output / f"{'-'.join(Path(name).parts[-3:])}-aware-{options.aware_epochs}"
    train(rounded, data, recipe, folder_of_run, fabric, architecture=name, teacher=teacher)
    module.cpu()
    return rounded.cpu().eval()


def pictures(folder: Path) -> Data:
    """The digits as a folder of images, of which training takes some to validate on."""
    given = digits()
    if not folder.exists():
        with write_whole(folder) as partial:
            for part, images, labels in (
                ("train", given.train, given.train_labels),
                ("test", given.test, given.labels),
            ):
                for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                    place = partial / part / str(label) / f"{number}.png"
                    place.parent.mkdir(parents=True, exist_ok=True)
                    grey = np.rint(255 * (image[0] + 2) / 4).clip(0, 255).astype(np.uint8)
                    Image.fromarray(grey).convert("RGB").save(place)
    # Normalised as those arrays are.
    return dataclasses.replace(load_data(str(folder), resolution=SIZE), mean=(0.5,) * 3, std=(0.25,) * 3)


def fit(module: nn.Module, given: Given, epochs: int, rate: float, trained_on: str) -> None:
    """Train by AdamW, in one cycle."""
    batch = 64
    steps = epochs * (len(given.train) // batch)
    module.to(trained_on, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    images = torch.from_numpy(given.train).to(trained_on, memory_format=torch.channels_last)
    labels = torch.from_numpy(given.train_labels).to(trained_on)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    done = 0
    while done < steps:
        order = torch.randperm(len(images))
        for part in order[: len(order) // batch * batch].split(batch):  # type: ignore[no-untyped-call]
            some = images[part]
            if given.flips:
                some = torch.where(torch.rand(len(part), 1, 1, 1, device=some.device) < 0.5, some.flip(3), some)
            answers = module(some)
            loss = nn.functional.cross_entropy(answers, labels[part])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            done += 1
    module.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]


if __name__ == "__main__":
    main()
