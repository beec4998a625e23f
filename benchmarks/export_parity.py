"""Do exported files compute what PyTorch computes? All networks of the zoo, and random ones of a search space.

    python benchmarks/export_parity.py --random 100 --space fbnetv2-f --seed 0 -o runs/export_parity

Each network of the zoo is exported to every format, each random one to ONNX and TFLite, in fp32 and fp16, with random
weights and batch norms of random affines and calibrated statistics. Printed for each file, run in its own runtime on
four inputs: the largest difference of a logit from PyTorch's, relative to the largest logit, and how far PyTorch's
logits are apart between the inputs, in the same unit; were that small, agreement would prove nothing. Writes
results.json. The exit code is 1 if a difference exceeds 1e-4 in fp32 or 1e-2 in fp16.
"""

import argparse
import itertools
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from calibrated import calibrated
from results_file import write_results

from fbnet_mobile.arch import Architecture
from fbnet_mobile.blocks.network import build
from fbnet_mobile.formats.base import get_format
from fbnet_mobile.formats.verify import export
from fbnet_mobile.space import load_space
from fbnet_mobile.zoo import load_network, zoo_names

TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2}
_INPUTS = 4


def main() -> None:
    """Export, compare and report."""
    parser = argparse.ArgumentParser(description="Compare exported files with PyTorch.")
    parser.add_argument("--networks", nargs="*", default=zoo_names(), help="of the zoo (default: all)")
    parser.add_argument("--random", type=int, default=100, help="random networks of the space (default: 100)")
    parser.add_argument("--space", default="fbnetv2-f")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: 1)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for results.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for network, formats in networks(options):
        for row in compare(network, formats, options.seed):
            rows.append(row)
            print(
                f"{row['network']:15} {row['format']:7} {row['precision']} "
                f"difference {row['relative_difference']:.1e}, between inputs {row['between_inputs']:.2f}",
                flush=True,
            )
    for precision in TOLERANCES:
        own = [row["relative_difference"] for row in rows if row["precision"] == precision]
        print(f"largest of {len(own)} {precision} files: {max(own, default=0.0):.1e}")
    packages = ("onnx", "onnxruntime", "ai-edge-litert", "litert-converter", "litert-quantizer", "coremltools")
    write_results(options.output / "results.json", {"rows": rows}, options, packages)
    sys.exit(any(row["relative_difference"] > TOLERANCES[row["precision"]] for row in rows))


def networks(options: argparse.Namespace) -> Iterator[tuple[Architecture, list[str]]]:
    """Every network with the formats to write it in."""
    for name in options.networks:
        yield load_network(name), ["tflite", "onnx", "coreml"]
    rng, space = random.Random(options.seed), load_space(options.space)
    for number in range(options.random):
        yield space.architecture(space.draw(rng), f"random{number}"), ["tflite", "onnx"]


def compare(network: Architecture, formats: list[str], seed: int = 0) -> Iterator[dict[str, Any]]:
    """Export a network to each format, in each precision, and give what the comparison with PyTorch found."""
    torch.manual_seed(seed)
    _, channels, size, _ = network.input_shape
    module = calibrated(build(network), channels, size)
    inputs = np.random.default_rng(seed).standard_normal((_INPUTS, channels, size, size), np.float32)
    with torch.no_grad():
        logits = module(torch.from_numpy(inputs))
    between = float((logits - logits[:1]).abs().max() / logits.abs().max())
    for name, precision in itertools.product(formats, TOLERANCES):
        with tempfile.TemporaryDirectory() as folder:
            report = export(
                module,
                Path(folder) / f"network{get_format(name).suffix}",
                format=name,
                input_shape=network.input_shape,
                inputs=inputs,
                precision=precision,
                tolerance=float("inf"),
            )
        yield {
            "network": network.name,
            "format": name,
            "precision": precision,
            "relative_difference": report.relative_difference,
            "between_inputs": between,
            "macs": network.macs,
            "size_bytes": report.size,
            "seconds": report.seconds,
        }


if __name__ == "__main__":
    main()
