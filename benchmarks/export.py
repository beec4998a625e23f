"""How long an export takes, and how large and fast its file is, beside what a user would have taken instead.

    pip install litert-torch
    python benchmarks/export.py -o runs/export

The others are ``litert_torch.convert`` for TFLite and ``torch.onnx.export(dynamo=True)`` for ONNX, with their defaults,
on the same modules at 1x3x224x224, with batch norms of random affines and calibrated statistics. Both sides take turns
in one process, after each has exported a small network to load what it needs; the seconds are the median of
``--repeats`` turns, from the module to the file on disk. ``fbnet-export`` also runs the file and compares it with
PyTorch; what that takes in all is shown in a column of its own, as the others do not. Then all files are run on
the same input and compared with PyTorch, and each pair is timed by fbnet-mobile's own runner in interleaved rounds. The
latency is the minimum; the ratio is the median over the rounds of the ratio within one, whose two halves meet the same
machine: minima of two files that do the same differed by 2 %. Prints a table and writes results.json. The exit code is
1 if an export is less than 10 times faster, a latency more than 1.02 of the other's, or a file larger.
"""

import argparse
import contextlib
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from calibrated import calibrated
from results_file import write_results
from torch import nn

from fbnet_mobile.blocks.network import build
from fbnet_mobile.devices import HostDevice
from fbnet_mobile.formats.base import format_of, write
from fbnet_mobile.formats.packages import quiet
from fbnet_mobile.formats.verify import export
from fbnet_mobile.graph.trace import trace
from fbnet_mobile.measure.plan import MeasuringPlan
from fbnet_mobile.measure.rounds import Model, measure, new_session
from fbnet_mobile.measure.samples import Journal
from fbnet_mobile.zoo import load_network

NETWORKS = ("fbnetv2-f4", "fbnetv2-l1", "torchvision:mobilenet_v3_large", "torchvision:efficientnet_b0")
SHAPE = (1, 3, 224, 224)
FASTER, SLOWER = 10, 1.02


def main() -> None:
    """Export, compare, measure and report."""
    parser = argparse.ArgumentParser(description="Compare exports with those of litert-torch and torch.onnx.")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="of the zoo, or torchvision:NAME")
    parser.add_argument("--formats", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--repeats", type=int, default=3, help="exports by each side (default: 3)")
    parser.add_argument("--rounds", type=int, default=30, help="rounds of timing, at least (default: 30)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for results.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    small = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.Flatten()).eval()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for format_ in options.formats:
            for side in sides(format_).values():
                timed(side, small, (1, 3, 8, 8), Path(folder) / f"small{PEERS[format_][1]}")
        print(HEAD, flush=True)
        for name in options.networks:
            module = calibrated(build_module(name), *SHAPE[1:3])
            for format_ in options.formats:
                row = {"network": name, "format": format_, **compare(module, format_, Path(folder), options)}
                rows.append(row)
                print(line(row), flush=True)
    packages = ("litert-torch", "onnx", "onnxscript", "onnxruntime", "ai-edge-litert", "litert-converter")
    write_results(options.output / "results.json", {"rows": rows}, options, packages)
    missed = [row for row in rows if not good(row)]
    for row in missed:
        print(f"short of the aim: {row['network']} to {row['format']}")
    sys.exit(bool(missed))


def build_module(name: str) -> nn.Module:
    """An untrained network of the zoo or of torchvision."""
    torch.manual_seed(0)
    if name.startswith("torchvision:"):
        from torchvision import models

        module: nn.Module = models.get_model(name.partition(":")[2], weights=None)
        return module
    return build(load_network(name))


Side = Callable[[nn.Module, tuple[int, int, int, int], Path], object]


def litert_torch(module: nn.Module, shape: tuple[int, int, int, int], path: Path) -> None:
    """Convert by litert-torch."""
    import litert_torch

    litert_torch.convert(module, (torch.zeros(shape),)).export(str(path))


def torch_onnx(module: nn.Module, shape: tuple[int, int, int, int], path: Path) -> None:
    """Convert by torch.onnx's exporter on torch.export."""
    torch.onnx.export(module, (torch.zeros(shape),), path, dynamo=True, verbose=False)


PEERS: dict[str, tuple[Side, str, str]] = {
    "tflite": (litert_torch, ".tflite", "litert"),
    "onnx": (torch_onnx, ".onnx", "onnxruntime"),
}
"""Of each format: the other's export, the suffix and the runtime."""


def sides(format_: str) -> dict[str, Side]:
    """Ours, ours with its check, and the other's, in the order of their turns."""
    return {
        "ours": lambda module, shape, path: write(trace(module, shape), path, format_),
        "checked": lambda module, shape, path: export(module, path, format=format_, input_shape=shape),
        "peer": PEERS[format_][0],
    }


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep the remarks of the exporters away."""
    logging.disable()
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def timed(side: Side, module: nn.Module, shape: tuple[int, int, int, int], path: Path) -> float:
    """Seconds from a module to a file."""
    with silence():
        start = time.perf_counter()
        side(module, shape, path)
        return time.perf_counter() - start


def compare(module: nn.Module, format_: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Export by turns, then check, weigh and time the two files."""
    suffix, runtime = PEERS[format_][1:]
    paths = {side: folder / side / f"network{suffix}" for side in sides(format_)}
    seconds: dict[str, list[float]] = {side: [] for side in paths}
    for path in paths.values():
        path.parent.mkdir(exist_ok=True)
    for _ in range(options.repeats):
        for side, export_ in sides(format_).items():
            seconds[side].append(timed(export_, module, SHAPE, paths[side]))
    images = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(images)).numpy()
    both = ("ours", "peer")
    plan = MeasuringPlan(
        min_rounds=options.rounds, max_rounds=2 * options.rounds, repeatability=0.005, warmup_ms=20, min_ms=100
    )
    device = HostDevice()
    journal = Journal(None, new_session(device, runtime, 1, plan))
    found = measure(device, runtime, 1, [Model(side, paths[side]) for side in both], "min", plan, journal)
    rows, samples = found.rows(), found.samples()
    ours, peer = (samples[side] for side in both)
    result: dict[str, Any] = {
        "checked_seconds": statistics.median(seconds["checked"]),
        "latency_ratio": statistics.median(ours[r][0].min_us / peer[r][0].min_us for r in ours),
    }
    for side in both:
        row = rows[side]
        result[side] = {
            "seconds": statistics.median(seconds[side]),
            # torch.onnx puts the weights into a file beside the graph's.
            "size_bytes": sum(file.stat().st_size for file in folder.glob(f"{side}/{paths[side].name}*")),
            "difference": float(np.abs(format_of(paths[side]).load(paths[side])(images) - expected).max())
            / float(np.abs(expected).max()),
            "min_us": row.min_us,
            "median_us": row.median_us,
            "rounds": row.rounds,
            "uncertainty": row.uncertainty,
        }
    return result


HEAD = (
    f"{'':31} {'seconds':>7} {'checked':>7} {'other':>7} {'times':>6} | {'MB':>6} {'other':>6} | {'ms':>7} "
    f"{'other':>7} {'ratio':>6} | {'differ':>7} {'other':>7}"
)


def ratios(row: dict[str, Any]) -> tuple[float, float]:
    """How many times faster the export is, and the latency relative to the other's."""
    ours, peer = row["ours"], row["peer"]
    return peer["seconds"] / ours["seconds"], row["latency_ratio"]


def good(row: dict[str, Any]) -> bool:
    """Whether the row shows what is aimed at."""
    faster, slower = ratios(row)
    return faster >= FASTER and slower <= SLOWER and row["ours"]["size_bytes"] <= row["peer"]["size_bytes"]


def line(row: dict[str, Any]) -> str:
    """A line of the table."""
    ours, peer = row["ours"], row["peer"]
    faster, slower = ratios(row)
    return (
        f"{row['network'].partition(':')[2] or row['network']:20} {row['format']:>10} {ours['seconds']:7.2f} "
        f"{row['checked_seconds']:7.2f} {peer['seconds']:7.2f} {faster:6.1f} | {ours['size_bytes'] / 1e6:6.2f} "
        f"{peer['size_bytes'] / 1e6:6.2f} | {ours['min_us'] / 1e3:7.3f} {peer['min_us'] / 1e3:7.3f} {slower:6.3f} | "
        f"{ours['difference']:7.1e} {peer['difference']:7.1e}"
    )


if __name__ == "__main__":
    main()
