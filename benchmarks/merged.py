"""Are networks of many branches exported as their authors deploy them?

    pip install litert-torch onnxscript
    python benchmarks/merged.py -o runs/merged

Ours is ``fbnet_mobile.formats.verify.export``, as ``fbnet-export --model timm:NAME`` calls it, of the network as it is
trained, branches and all; the other's is ``litert_torch.convert`` or ``torch.onnx.export(dynamo=True)`` of the network
that timm's ``reparameterize_model`` merged. Batch norms have random affines and calibrated statistics. The files are
measured as ``benchmarks/export.py`` measures its own: in interleaved rounds of one process, by fbnet-mobile's own
runner; the ratio is the median over the rounds of the ratio within one. Prints a table and writes results.json, network
by network, and goes on where it was. The exit code is 1 if a file of ours is more than 1.02 of the other's in latency
or size.
"""

import argparse
import copy
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import timm
import torch
from calibrated import calibrated
from export import PEERS, Side, compare, timed
from results_file import write_results
from timm.utils.model import reparameterize_model
from torch import nn

from fbnet_mobile.formats.verify import export

NETWORKS = ("mobileone_s0", "repvgg_a0", "repghostnet_100", "fastvit_t8", "repvit_m0_9")
LARGER = 1.02


def main() -> None:
    """Export, measure and report."""
    parser = argparse.ArgumentParser(description="Compare exports of networks of branches with those of merged ones.")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="of timm")
    parser.add_argument("--formats", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--repeats", type=int, default=1, help="exports by each side (default: 1)")
    parser.add_argument("--rounds", type=int, default=30, help="rounds of timing, at least (default: 30)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for results.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = options.output / "results.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    done = {(row["network"], row["format"]) for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        for format_ in options.formats:  # what either side imports is no part of its seconds
            small = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.Flatten()).eval()
            for side in sides(format_).values():
                timed(side, small, (1, 3, 8, 8), Path(folder) / f"small{PEERS[format_][1]}")
        print(HEAD, flush=True)
        for name in options.networks:
            torch.manual_seed(0)
            module: Any = timm.create_model(name)
            shape = (1, *module.pretrained_cfg["input_size"])
            module = calibrated(module, *shape[1:3])
            for format_ in options.formats:
                if (name, format_) not in done:
                    measured = compare(module, shape, format_, sides(format_), Path(folder), options)
                    rows.append({"network": name, "format": format_, **measured})
                    packages = ("timm", "litert-torch", "onnxscript", "onnxruntime", "ai-edge-litert")
                    write_results(path, {"rows": rows}, options, packages)
    for row in rows:
        print(line(row), flush=True)
    sys.exit(max(max(ratios(row)) for row in rows) > LARGER)


def sides(format_: str) -> dict[str, Side]:
    """Ours, of the network as it is, and the other's, of the merged one."""
    peer = PEERS[format_][0]
    return {
        "ours": lambda module, shape, path: export(module, path, format=format_, input_shape=shape),
        "peer": lambda module, shape, path: peer(reparameterize_model(copy.deepcopy(module)).eval(), shape, path),
    }


HEAD = (
    f"{'':18} {'':6} {'MB':>6} {'other':>6} {'ratio':>6} | {'ms':>7} {'other':>7} {'ratio':>6} | {'differ':>7} "
    f"{'other':>7} | {'seconds':>7} {'other':>7}"
)


def ratios(row: dict[str, Any]) -> tuple[float, float]:
    """Size and latency relative to the other's."""
    return row["ours"]["size_bytes"] / row["peer"]["size_bytes"], row["latency_ratio"]


def line(row: dict[str, Any]) -> str:
    """A line of the table."""
    ours, peer = row["ours"], row["peer"]
    larger, slower = ratios(row)
    return (
        f"{row['network']:18} {row['format']:6} {ours['size_bytes'] / 1e6:6.2f} {peer['size_bytes'] / 1e6:6.2f} "
        f"{larger:6.3f} | {ours['min_us'] / 1e3:7.3f} {peer['min_us'] / 1e3:7.3f} {slower:6.3f} | "
        f"{ours['difference']:7.1e} {peer['difference']:7.1e} | {ours['seconds']:7.1f} {peer['seconds']:7.1f}"
    )


if __name__ == "__main__":
    main()
