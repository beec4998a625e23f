"""Are imported networks the same? Every one of timm's and torchvision's that can be, against the library itself.

    python benchmarks/imports.py -o benchmarks/results/imports.json
    python benchmarks/imports.py --list fbnet_mobile/zoo/importable.csv

Each network has random weights, batch norms of random affines and calibrated statistics, and is compared at a small
resolution: the largest difference of a logit in evaluation and in training mode, relative to the largest logit, and how
far the logits of the library's network are apart between the inputs, in the same unit; the multiply-accumulates of the
library's network, counted while it runs, and its parameters, beside those of the architecture. Then a file in each
format is written and compared with PyTorch in its own runtime. The results file is written after each network, and what
it holds is not done again. The exit code is 1 if outputs differ by more than 1e-5, or a count at all.

With --list only the table of names and counts is written that fbnet-benchmark --list-models shows.
"""

import argparse
import contextlib
import gc
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from calibrated import calibrated
from results_file import write_results
from torch import Tensor, nn

from fbnet_mobile.blocks.network import restore
from fbnet_mobile.errors import FbnetError, UserError
from fbnet_mobile.formats.base import get_format
from fbnet_mobile.formats.verify import export
from fbnet_mobile.zoo import efficientnet_lite, importable
from fbnet_mobile.zoo.importing import import_module, imported
from fbnet_mobile.zoo.peers import load_peer

TIMM = ("efficientnet", "mobilenetv3", "hardcorenas")
"""The modules of timm whose networks its EfficientNet and MobileNetV3 builder makes."""
TORCHVISION = ("efficientnet", "mnasnet", "mobilenet")
TOLERANCE = 1e-5


def main() -> None:
    """Compare, and write what was found."""
    parser = argparse.ArgumentParser(description="Compare imported networks with their libraries'.")
    parser.add_argument("--networks", nargs="*", help="names (default: all)")
    parser.add_argument("--resolution", type=int, default=64, help="at which they are compared (default: 64)")
    parser.add_argument("--formats", nargs="*", default=["tflite", "onnx", "coreml"], help="(default: %(default)s)")
    parser.add_argument("--most-params", type=float, default=150e6, help="of a network to export (default: 150e6)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after these; call again to continue")
    parser.add_argument("--list", type=Path, help="write the table of names and counts here, and nothing else")
    parser.add_argument("-o", "--output", type=Path, help="results file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    params = {network.name: network.params for network in importable()}
    chosen = list(options.networks or sorted(names(), key=lambda name: params.get(name, 0)))
    if options.list is not None:
        pd.DataFrame(listed([*efficientnet_lite.NAMES, *names()])).to_csv(options.list, index=False)
        return
    if options.output is None:
        parser.error("-o or --list is needed")
    rows: list[dict[str, Any]] = json.loads(options.output.read_text())["rows"] if options.output.exists() else []
    done, started = {row["network"] for row in rows}, time.monotonic()
    for name in chosen:
        if name in done or time.monotonic() - started > options.minutes * 60:
            continue
        rows.append(row := {"network": name, **compared(name, options)})
        print(said(row), flush=True)
        write_results(options.output, {"rows": rows}, options, ("timm", "torchvision"))
    print(summary(rows, len(list(names()))))
    sys.exit(any(row.get("wrong") for row in rows))


def names() -> Iterator[str]:
    """Every name that might be imported."""
    import timm
    from torchvision import models

    for module in TIMM:
        yield from (f"timm:{name}" for name in timm.list_models(module=module))
    known = models.list_models(module=models)
    yield from (f"torchvision:{name}" for name in known if name.startswith(TORCHVISION))


def listed(chosen: list[str]) -> Iterator[dict[str, Any]]:
    """Of each that can be imported its input, and what it costs there."""
    for name in chosen:
        with torch.device("meta"), contextlib.suppress(UserError):
            network = imported(name).architecture
            yield {"name": name, "resolution": network.resolution, "macs": network.macs, "params": network.params}


def compared(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a network's comparison found; ``refused`` where it cannot be imported."""
    with torch.device("meta"):
        peer = load_peer(name)
    try:
        import_module(peer.module, name, options.resolution)
    except UserError as error:
        return {"refused": str(error)}
    torch.manual_seed(0)
    module = without_chance(load_peer(name).module)
    calibrated(module, 3, options.resolution)
    architecture, state, _ = import_module(module, name, options.resolution)
    network = restore(architecture, state, name)
    images = torch.randn(4, 3, options.resolution, options.resolution, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs, ours = module(images), network(images)
        macs = measured_macs(module, images[:1])
        found: dict[str, Any] = {
            "evaluation": difference(ours, theirs),
            "between_inputs": difference(theirs, theirs[:1]),
            "params": architecture.params,
            "macs": architecture.macs,
            "blocks": sorted({block.kind for block in architecture.blocks}),
        }
        found["training"] = difference(network.train()(images), module.train()(images))
    counts = macs == architecture.macs and sum(p.numel() for p in module.parameters()) == architecture.params
    outputs = max(found["evaluation"], found["training"]) <= TOLERANCE and found["between_inputs"] > 1e-3
    del module, theirs
    gc.collect()
    found["files"] = {}
    for chosen in options.formats if architecture.params <= options.most_params else ():
        found["files"][chosen] = exported(restore(architecture, state, name), chosen, architecture.input_shape, images)
    files = all(isinstance(value, float) and value <= 1e-3 for value in found["files"].values())
    return {**found, "wrong": not (counts and outputs and files)}


def without_chance(module: nn.Module) -> nn.Module:
    """The module with nothing in it that is drawn in training."""
    part: Any
    for part in module.modules():
        if type(part).__name__ in ("Dropout", "StochasticDepth"):
            part.p = 0.0
        if type(part).__name__ == "DropPath":
            part.drop_prob = 0.0
    return module


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest, relative to the largest value that is expected."""
    return float((found - expected).abs().max() / expected.abs().max())


def measured_macs(module: nn.Module, images: Tensor) -> int:
    """Multiply-accumulates of convolutions and linear layers, counted while a module runs on one image."""
    macs = 0

    def count(part: Any, _: object, out: Tensor) -> None:
        nonlocal macs
        macs += part.weight.numel() * (out[0, 0].numel() if out.dim() == 4 else 1)

    hooks = [part.register_forward_hook(count) for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    module(images)
    for hook in hooks:
        hook.remove()
    return macs


def exported(module: nn.Module, chosen: str, shape: tuple[int, int, int, int], images: Tensor) -> float | str:
    """How far a file's logits are from PyTorch's, relative to the largest; or why there is none."""
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            path = Path(f"network{get_format(chosen).suffix}")
            report = export(module, path, format=chosen, input_shape=shape, inputs=images.numpy()[:2])
            return report.relative_difference
    except FbnetError as error:
        return str(error)


def said(row: dict[str, Any]) -> str:
    """A line for a network."""
    if "refused" in row:
        return str(row["refused"])
    shown = {name: f"{value:.1e}" if isinstance(value, float) else value for name, value in row["files"].items()}
    return (
        f"{row['network']:45} {'WRONG ' if row['wrong'] else ''}evaluation {row['evaluation']:.1e}, training "
        f"{row['training']:.1e}, between inputs {row['between_inputs']:.2f}; {row['params'] / 1e6:.2f} M parameters; "
        f"files: {', '.join(f'{name} {value}' for name, value in shown.items()) or 'none'}"
    )


def summary(rows: list[dict[str, Any]], of: int) -> str:
    """How many there are, and the largest differences."""
    taken = [row for row in rows if "refused" not in row]
    worst = {mode: max((row[mode] for row in taken), default=0.0) for mode in ("evaluation", "training")}
    files = [value for row in taken for value in row["files"].values() if isinstance(value, float)]
    return (
        f"{len(rows)} of {of} names: {len(taken)} imported, {len(rows) - len(taken)} refused, "
        f"{sum(row['wrong'] for row in taken)} wrong; largest difference {worst['evaluation']:.1e} in evaluation, "
        f"{worst['training']:.1e} in training, {max(files, default=0.0):.1e} of {len(files)} files"
    )


if __name__ == "__main__":
    main()
