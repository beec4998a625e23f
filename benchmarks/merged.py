"""Are networks of many branches exported as their authors deploy them?

    pip install litert-torch onnxscript
    python benchmarks/merged.py -o runs/merged

Ours is ``fbnet_mobile.formats.verify.export``, as ``fbnet-export --model timm:NAME`` calls it, of the network as it is
trained, branches and all; the other's is ``litert_torch.convert`` or ``torch.onnx.export(dynamo=True)`` of the network
that timm's ``reparameterize_model`` merged. Batch norms have random affines and calibrated statistics. Both files are
loaded into one process and run in turn, on one thread, ``--rounds`` times; of each run the time of the processor is
taken, which other work on the machine disturbs less than the clock's. The ratio is the median over the rounds of the
ratio within one. Prints a table and writes results.json, file by file, and goes on where it was. The exit code is 1 if
a file of ours is more than 1.02 of the other's in time or size.
"""

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from calibrated import calibrated
from export import PEERS, silence
from results_file import write_results
from timm.utils.model import reparameterize_model
from torch import nn

from fbnet_mobile.formats.base import format_of
from fbnet_mobile.formats.verify import export

NETWORKS = ("mobileone_s0", "repvgg_a0", "repghostnet_100", "fastvit_t8", "repvit_m0_9")
LARGER = 1.02


def main() -> None:
    """Export, measure and report."""
    parser = argparse.ArgumentParser(description="Compare exports of networks of branches with those of merged ones.")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="of timm")
    parser.add_argument("--formats", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--rounds", type=int, default=100, help="runs of each file (default: 100)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for results.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = options.output / "results.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    done = {(row["network"], row["format"]) for row in rows}
    print(HEAD, flush=True)
    for row in rows:
        print(line(row), flush=True)
    for name in options.networks:
        torch.manual_seed(0)
        network: Any = timm.create_model(name)
        shape = (1, *network.pretrained_cfg["input_size"])
        module = calibrated(network, shape[1], (shape[2], shape[3]))
        for format_ in options.formats:
            if (name, format_) in done:
                continue
            rows.append({"network": name, "format": format_, **compare(module, shape, format_, options.rounds)})
            print(line(rows[-1]), flush=True)
            write_results(path, {"rows": rows}, options, ("timm", "litert-torch", "onnxscript", "onnxruntime"))
    sys.exit(any(ratio > LARGER for row in rows for ratio in ratios(row)))


def compare(module: nn.Module, shape: tuple[int, int, int, int], format_: str, rounds: int) -> dict[str, Any]:
    """Export by both, run by turns."""
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(images)).numpy()
    with tempfile.TemporaryDirectory() as folder:
        paths = {side: Path(folder) / f"{side}{PEERS[format_][1]}" for side in ("ours", "peer")}
        with silence():
            export(module, paths["ours"], format=format_, input_shape=shape)
            PEERS[format_][0](reparameterize_model(copy.deepcopy(module)).eval(), shape, paths["peer"])
        sessions = {side: format_of(path).load(path) for side, path in paths.items()}
        # torch.onnx puts the weights into a file beside the graph's.
        sizes = {side: sum(file.stat().st_size for file in Path(folder).glob(f"{side}*")) for side in paths}
        differences = {}
        for side, session in sessions.items():
            found = session(images)
            differences[side] = float(np.abs(found - expected).max() / np.abs(expected).max())
        taken = {
            side: {name: images.transpose(0, 2, 3, 1).copy() if session.channels_last else images}
            for side, session in sessions.items()
            for name in session.input_shapes
        }
        seconds: dict[str, list[float]] = {side: [] for side in sessions}
        for number in range(-5, rounds):
            for side in sorted(sessions, reverse=bool(number % 2)):
                start = time.process_time()
                sessions[side].compute(taken[side])
                if number >= 0:  # the others warm up
                    seconds[side].append(time.process_time() - start)
    return {
        "ratio": statistics.median(one / other for one, other in zip(seconds["ours"], seconds["peer"], strict=True)),
        **{
            side: {
                "size_bytes": sizes[side],
                "difference": differences[side],
                "min_ms": 1e3 * min(seconds[side]),
                "median_ms": 1e3 * statistics.median(seconds[side]),
            }
            for side in sessions
        },
    }


HEAD = f"{'':23} {'MB':>6} {'other':>6} {'ratio':>6} | {'ms':>7} {'other':>7} {'ratio':>6} | {'differ':>7} {'other':>7}"


def ratios(row: dict[str, Any]) -> tuple[float, float]:
    """Size and time relative to the other's."""
    return row["ours"]["size_bytes"] / row["peer"]["size_bytes"], row["ratio"]


def line(row: dict[str, Any]) -> str:
    """A line of the table."""
    ours, peer = row["ours"], row["peer"]
    larger, slower = ratios(row)
    return (
        f"{row['network']:16} {row['format']:6} {ours['size_bytes'] / 1e6:6.2f} {peer['size_bytes'] / 1e6:6.2f} "
        f"{larger:6.3f} | {ours['min_ms']:7.2f} {peer['min_ms']:7.2f} {slower:6.3f} | {ours['difference']:7.1e} "
        f"{peer['difference']:7.1e}"
    )


if __name__ == "__main__":
    main()
