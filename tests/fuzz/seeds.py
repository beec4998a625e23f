"""Right inputs, from which the wrong ones are made."""

import atexit
import io
import json
import os
import random
import shutil
import struct
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fbnet_mobile.devices import HostDevice
from fbnet_mobile.devices.base import DeviceFacts, DeviceState
from fbnet_mobile.latency.table import Conditions, LatencyTable, Measurement
from fbnet_mobile.space import SearchSpace

ARCHITECTURES = (
    """name: tiny
description: of a test
resolution: 8
blocks:
  - {kind: conv, out_channels: 8, stride: 2}
  - {kind: inverted_residual, out_channels: 8, expanded_channels: 16, se_channels: 8, activation: hswish}
  - {kind: head, out_channels: 10, conv_channels: 16}
""",
    """name: other
resolution: 32
input_channels: 1
blocks:
- kind: conv
  out_channels: 16
  kernel_size: 3
  activation: relu
- {kind: head, out_channels: 2, conv_channels: 8, hidden_channels: 8}
""",
)
SPACES = (
    """name: tiny
resolution: 8
classes: 10
stem: {out_channels: 8, kernel_size: 3, stride: 2, activation: relu}
stages:
  - {out_channels: {low: 8, high: 16, step: 8}, depth: 1, skip: true, expansion_ratio: [1, 2], kernel_size: 3,
     squeeze_excite: [false, true], activation: relu}
head: {conv_channels: 16, activation: hswish}
""",
    """name: of candidates
resolution: [8, 16]
classes: 3
stem: {out_channels: [8, 12]}
stages:
  - out_channels: 8
    stride: 2
    candidates:
      small: {expansion_ratio: 1, kernel_size: 3, squeeze_excite: false, activation: relu}
      plain: {block: conv, kernel_size: 5, activation: relu}
head: {conv_channels: [16, 24], hidden_channels: 8}
""",
)
SPACE = SearchSpace.from_yaml(SPACES[0])
RECIPES = (
    """# fbnet-train of fbnet-mobile 0.1.0
architecture: a.yaml
output: runs/train
inherit: null
data: images
limit: 100
epochs: 30
batch_size: 64
learning_rate: 0.1
augmentations: [crop, flip]
seed: 0
accelerator: cpu
devices: 1
""",
    """# fbnet-search of fbnet-mobile 0.1.0
output: runs/search
latency_table: [t.csv]
target_latency: ["3ms,4ms"]
max_macs: 300M
data: digits
mode: shared
strategy: gradient
epochs: 10
temperature_start: 5.0
tensorboard: false
""",
    """# fbnet-profile of fbnet-mobile 0.1.0
output: t.csv
space: small
classes: 10
budget: 3m
statistic: min
rounds: 6
""",
    """# fbnet-export of fbnet-mobile 0.1.0
checkpoint: best.pt
output: m.tflite
precision: int8
tolerance: 0.1
min_agreement: 0.5
""",
    """# fbnet-benchmark of fbnet-mobile 0.1.0
models: [m.tflite, best.pt]
device: host
threads: 2
data: images
images: 20
""",
)
DEVICES = (
    """phone:
  transport: adb:1234
  runtime: litert
  threads: 4
  affinity: 4-7
  benchmark_binary: ~/bin/benchmark_model
  delegate: gpu
  pause_s: 0.5
  cool_below_c: 40
board: {transport: "ssh:pi@board:22", python: ~/venv/bin/python, folder: /tmp, batch: 10, model_limit_s: 60}
mac: {transport: coreml, compute_units: ALL, signing: {development_team: A, provisioning_profile_uuid: B,
  bundle_identifier: c.d}}
here: {transport: host, affinity: fast, fixed_performance: true}
""",
)
RUNNER = "\n".join(
    [
        '{"runtime_version": "2.1"}',
        *(
            f'{{"model": {number}, "runs": 50, "load_us": 10.5, "min_us": 1.5, "p10_us": 1.6, "median_us": 2.0, '
            f'"p90_us": 3.0, "mean_us": 2.25}}'
            for number in range(2)
        ),
        '{"model": 2, "error": "ValueError: not a model"}',
        '{"end": 3}',
    ]
)
OUTPUTS = (
    """STARTING!
count=15 first=49060 curr=33682 min=32825 max=49060 avg=34825.1 std=3930
count=50 first=33431 curr=33143 min=32810 max=35063 avg=33209.4 std=361
Average inference timings in us: Warmup: 34825.1, Init: 855, Inference: 33209.4

__FBNET_MODEL=0
INFO: count=1 curr=49060
INFO: count=50 first=1.3e+06 curr=1295000 min=1290001 max=1.31e+06 avg=1.29563e+06 std=361 p5=1290005 median=1295001
INFO: Inference timings in us: Init: 12345, First inference: 49060, Warmup (avg): 49060, Inference (avg): 1.29563e+06

__FBNET_MODEL=0
""",
    """count=5 curr=7 (all same)
Inference timings in us: Init: 1e+03, First inference: 7

__FBNET_MODEL=0
cannot open
__FBNET_MODEL=139
""",
)
METADATA = json.dumps(
    {
        "architecture": ARCHITECTURES[0],
        "classes": '["a", "b"]',
        "mean": "[0.5, 0.5, 0.5]",
        "std": "[0.25, 0.25, 0.25]",
        "input": "uint8",
        "precision": "int8",
        "tool_version": "0.1.0",
    }
)
COMMANDS = (
    ["profile", "--device", "host", "--runtime", "litert", "--space", "small", "-o", "new.csv"],
    ["profile", "--space", "space.yaml", "--num-classes", "7", "--budget", "90s", "--networks", "4", "-o", "a.csv"],
    ["profile", "--show", "a.csv"],
    ["profile", "--compare", "a.csv", "b.csv"],
    ["search", "--latency-table", "a.csv", "--data", "images", "--target-latency", "1ms", "-o", "run"],
    ["search", "--space", "space.yaml", "--data", "images", "--max-macs", "30k", "--epochs", "3", "-o", "run"],
    ["train", "--architecture", "net.yaml", "--data", "images", "--epochs", "2", "--batch-size", "8", "-o", "run"],
    ["train", "--architecture", "fbnetv2-f1", "--data", "images", "--ema-decay", "0.9", "--seed", "1", "-o", "run"],
    ["train", "--config", "args.yaml"],
    ["export", "--checkpoint", "best.pt", "--format", "tflite", "-o", "new.tflite"],
    ["export", "--architecture", "net.yaml", "--precision", "int8", "--calibration-data", "images", "-o", "new.onnx"],
    ["export", "--model", "fbnetv2-f1", "--input", "uint8", "--tolerance", "0.1", "-o", "new.mlpackage"],
    ["benchmark", "m.tflite", "--device", "host", "--latency-table", "a.csv", "--data", "images", "-o", "new.json"],
    ["benchmark", "m.tflite", "best.pt", "--threads", "2", "--images", "5"],
    ["benchmark", "--list-models"],
)


def conditions(statistic: str = "min") -> Conditions:
    """Of a table on a device of nowhere."""
    return Conditions("host", "a processor", "litert", "2.1", 1, "fp32", statistic, "tiny", "2026-01-01")


BLOCK = SPACE.positions[0].largest().key


class Steady(HostDevice):
    """This machine by name, on which every model takes as long as its file is."""

    def facts(self) -> DeviceFacts:
        return DeviceFacts("a processor", 2, 1000, "an operating system")

    def state(self) -> DeviceState:
        return DeviceState(0.5, "performance", 2000.0, 40.0, 0.0, "0")

    def push(self, paths: Sequence[Path]) -> list[str]:
        return [str(path) for path in paths]

    def run(self, argv: Sequence[str]) -> Iterator[str]:
        job = json.loads(Path(argv[-1]).read_text())
        yield json.dumps({"runtime_version": "1.0"})
        names = ("min_us", "p10_us", "median_us", "p90_us", "mean_us")
        for number, model in enumerate(job["models"]):
            us = Path(model).stat().st_size / 100
            yield json.dumps({"model": number, "runs": 10, "load_us": 100.0, **dict.fromkeys(names, us)})


class Saying(Steady):
    """This machine by name, on which every program says the same."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__()
        self.lines = lines

    def run(self, argv: Sequence[str]) -> Iterator[str]:
        del argv
        yield from self.lines


@cache
def _kept() -> Path:
    """A folder that lasts as long as this process, more or less."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-seeds-"))
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # and no child of it
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


@cache
def table_text(classes: int = 10) -> str:
    """A table of the tiny space, with whole networks and rounds."""
    draw, space = random.Random(0), SPACE.with_classes(classes)

    def row(latency_us: float) -> Measurement:
        same: dict[str, Any] = dict.fromkeys(
            ("latency_us", "min_us", "p10_us", "median_us", "p90_us", "mean_us"), latency_us
        )
        return Measurement(**same, runs=50, rounds=4, uncertainty=0.01, session="2026-01-01T00:00:00.000Z")

    rows = {("invocation", ""): row(1.0)}
    rows |= {("block", block.key): row(2.0 + block.macs / 1e3) for block in space.candidates()}
    for _ in range(5):
        blocks = space.architecture(space.draw(draw)).blocks
        rows[LatencyTable.row_key("network", blocks)] = row(sum(2.0 + block.macs / 1e3 for block in blocks))
    said = "cores=2 load_1m=0.5 governor=performance least_mhz=2000 most_mhz=2000 temperature_c=40 steal_percent=0"
    for number in range(2):
        where = f"round={number} drift=0.01 {said} affinity=0 session=2026-01-01T00:00:00.000Z speed=1"
        rows["round", where] = row(3.0)
    path = _kept() / "table.csv"
    LatencyTable(conditions(), rows, {"energy_mj": {("block", BLOCK): 0.5}}).save(path)
    return path.read_text()


@cache
def half_done_profile() -> Path:
    """A folder with ``t.csv.work`` as an interrupted profile leaves it."""
    from fbnet_mobile.measure.plan import MeasuringPlan
    from fbnet_mobile.measure.profile import profile

    class Interrupted(Steady):
        left = 25

        def run(self, argv: Sequence[str]) -> Iterator[str]:
            for line in super().run(argv):
                if '"model"' in line:
                    self.left -= 1
                if self.left < 0:
                    raise KeyboardInterrupt
                yield line

    folder = _kept() / "profile"
    try:
        profile(SPACE, "tiny", Interrupted(), "litert", folder / "t.csv", networks=3, plan=MeasuringPlan(2, 2))
    except KeyboardInterrupt:
        return folder
    raise AssertionError("it came to its end")


@cache
def journal() -> str:
    """The journal of that profile."""
    return (half_done_profile() / "t.csv.work" / "samples.jsonl").read_text()


@cache
def checkpoint() -> bytes:
    """A small network's, of ten classes."""
    from fbnet_mobile.arch import Architecture
    from fbnet_mobile.blocks.network import build
    from fbnet_mobile.engine.checkpoint import Checkpoint, save_checkpoint

    network = Architecture.from_yaml(ARCHITECTURES[0])
    classes = tuple(f"class {number}" for number in range(10))
    path = _kept() / "best.pt"
    made = Checkpoint(ARCHITECTURES[0], build(network).state_dict(), classes, (0.5,) * 3, (0.25,) * 3, 8, 0.5)
    save_checkpoint(path, made)
    return path.read_bytes()


@cache
def _data() -> Any:
    from fbnet_mobile.data.data import load_data

    return load_data("digits", resolution=8, limit=60, show_progress=False)


def run_again(what: str, out: Path) -> None:
    """Give the command of a run again."""
    import torch
    from lightning_fabric import Fabric

    from fbnet_mobile.arch import Architecture
    from fbnet_mobile.blocks.network import build
    from fbnet_mobile.cost.constraint import limit_on
    from fbnet_mobile.search.loop import search
    from fbnet_mobile.search.recipe import SearchRecipe
    from fbnet_mobile.train.loop import train
    from fbnet_mobile.train.recipe import TrainRecipe

    fabric = Fabric(accelerator="cpu", devices=1)
    if what == "search":
        recipe = SearchRecipe(epochs=1, batch_size=8, learning_rate=0.05)
        macs = limit_on(SPACE, "macs", 100_000)
        search(SPACE, [macs], _data(), recipe, out, fabric, show_progress=False)
    else:
        torch.manual_seed(0)
        module = build(Architecture.from_yaml(ARCHITECTURES[0]))
        settings = TrainRecipe(epochs=1, batch_size=8, ema_decay=0.9)
        train(module, _data(), settings, out, fabric, architecture=ARCHITECTURES[0], show_progress=False)


def inherit(folder: Path) -> None:
    """Take the weights of a search."""
    from fbnet_mobile.arch import Architecture
    from fbnet_mobile.search.inherit import inherited

    inherited(folder, Architecture.load(folder / "architecture.yaml"))


@cache
def finished_run(what: str) -> Path:
    """The folder of a search or a training that came to its end."""
    folder = _kept() / what
    run_again(what, folder)
    (folder / "args.yaml").write_text(RECIPES[what == "search"])
    return folder


@cache
def pictures(layout: int) -> Path:
    """A folder of images: of classes, of parts with classes, or of parts with odd names."""
    import numpy as np
    from PIL import Image

    folder = _kept() / f"images-{layout}"
    places = (("red", "blue"), ("train/red", "train/blue", "val/red", "val/blue"), ("Training/red", "Training/blue"))
    draw = np.random.default_rng(0)
    for place in places[layout]:
        (folder / place).mkdir(parents=True)
        for number in range(6):
            pixels = draw.integers(0, 255, (9, 11, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / place / f"{number}.png")
    return folder


@cache
def encoded_pictures() -> list[bytes]:
    """A small picture in each format, some with EXIF tags of types that cameras do not write."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (9, 11, 3), dtype=np.uint8)
    picture, found = Image.fromarray(pixels), []
    Image.init()

    def add(image: Any, kind: str, **options: Any) -> None:
        file = io.BytesIO()
        image.save(file, kind, **options)
        found.append(file.getvalue())

    tags = Image.Exif()
    tags[0x0112], tags[0x010E], tags[0x011A] = 6, "described", 72.0
    for kind in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000"):
        if kind in Image.SAVE:
            add(picture, kind)
    add(picture, "JPEG", exif=tags)
    add(picture, "PNG", exif=tags)
    add(picture.convert("P"), "PNG", transparency=3)
    add(picture.convert("L").convert("1"), "PNG")
    add(Image.fromarray(pixels[..., 0].astype(np.uint16) * 100), "TIFF")
    add(Image.fromarray(pixels[..., 0].astype(np.float32) / 255), "TIFF")
    add(picture.convert("CMYK"), "JPEG")
    add(picture, "TIFF", compression="tiff_lzw")
    # A width as a fraction, and a resolution as text.
    for number, value in ((5, struct.pack("<II", 1, 3)), (2, b"wide\0\0\0\0")):
        entry = struct.pack("<HHII", 0x0100, number, 1 if number == 5 else 8, 26)
        body = b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0) + value
        found.append(found[1][:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 8) + b"Exif\0\0" + body + found[1][2:])
    return found


@cache
def models() -> list[tuple[str, dict[str, bytes]]]:
    """A small network in each format: its suffix, and its files by name ("" for the only one)."""
    from fbnet_mobile.arch import Architecture
    from fbnet_mobile.blocks.network import build
    from fbnet_mobile.formats.base import FORMATS, write
    from fbnet_mobile.graph.trace import trace

    graph = trace(build(Architecture.from_yaml(ARCHITECTURES[0])).eval(), (1, 3, 8, 8))
    found = []
    for name in ("tflite", "onnx", "coreml"):
        path = _kept() / f"m{FORMATS.get(name).suffix}"
        write(graph, path, name, json.loads(METADATA))
        files = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
        content = {"" if item == path else str(item.relative_to(path)): item.read_bytes() for item in files}
        found.append((path.suffix, content))
    return found


@cache
def files_to_give() -> Path:
    """A folder with a file for each option that takes one."""
    folder = _kept() / "given"
    folder.mkdir()
    (folder / "net.yaml").write_text(ARCHITECTURES[0])
    (folder / "space.yaml").write_text(SPACES[0])
    (folder / "a.csv").write_text(table_text(2).replace(",tiny,", ",space.yaml,"))
    (folder / "b.csv").write_text((folder / "a.csv").read_text())
    (folder / "best.pt").write_bytes(checkpoint())
    (folder / "args.yaml").write_text(RECIPES[0].replace("a.yaml", "net.yaml"))
    shutil.copytree(pictures(0), folder / "images")
    for suffix, files in models()[:1]:
        (folder / f"m{suffix}").write_bytes(files[""])
    return folder
