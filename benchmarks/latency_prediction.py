"""Does the sum of a latency table's blocks say how long a whole network takes?

    python benchmarks/latency_prediction.py --table runs/host.csv --seed 0 -o runs/latency_prediction

Profiles the space into the table, unless the table is there, and says how long that took, how much of it went into
building model files, and the memory that all its processes held. The networks to be predicted are drawn with the seed
and measured in the same rounds as the blocks, so that both meet the same machine; the table is then written without
them, and was not calibrated with them. A --budget is made longer by the time that they take, so that the blocks have
what they would have without them. If the table is there already, they are measured afterwards. The published FBNetV2
and FBNet-C networks always are, with those that can be imported from other libraries and that --imported names; each of
their blocks that the space has not is measured alone beside them. Among them are some blocks of the table, and some
networks that it was calibrated with, whose latency says whether the machine is still what it was. Prints for each
method its error, and how well the measurements repeat themselves, and writes results.json and predicted.svg.

With --peer-python it also builds 20 blocks with ours and with litert-torch, which wants an environment of its own:

    python -m venv peer && peer/bin/pip install litert-torch pydantic pyyaml
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results_file import write_results

from fbnet_mobile.api.profile import parse_seconds
from fbnet_mobile.arch import Block
from fbnet_mobile.devices import HostDevice
from fbnet_mobile.formats.base import format_of_runtime
from fbnet_mobile.latency.calibration import prediction_error
from fbnet_mobile.latency.table import BLOCK, MEASURED, NETWORK, LatencyTable, Measurement, RowKey
from fbnet_mobile.measure.artifacts import artifacts
from fbnet_mobile.measure.build import build
from fbnet_mobile.measure.plan import MeasuringPlan
from fbnet_mobile.measure.profile import NETWORK_REPEATS, profile, unusual_networks
from fbnet_mobile.measure.recipe import ProfileRecipe
from fbnet_mobile.measure.rounds import Measured, Model, measure, new_session
from fbnet_mobile.measure.samples import Journal
from fbnet_mobile.report.console import latency
from fbnet_mobile.space import load_space
from fbnet_mobile.zoo import load_network
from fbnet_mobile.zoo.importing import imported

PUBLISHED = ("fbnetv2-f1", "fbnetv2-f2", "fbnetv2-f3", "fbnetv2-f4", "fbnet-c")
IMPORTED = (
    "efficientnet_lite0",
    "timm:efficientnet_b0",
    "timm:hardcorenas_a",
    "timm:hardcorenas_f",
    "timm:lcnet_100",
    "timm:mnasnet_100",
    "timm:mobilenetv1_100",
    "timm:mobilenetv2_050",
    "timm:mobilenetv2_100",
    "timm:mobilenetv2_140",
    "timm:mobilenetv3_large_100",
    "timm:mobilenetv3_small_100",
    "timm:mobilenetv4_conv_small",
    "timm:mobilenetv4_conv_medium",
    "timm:semnasnet_100",
    "timm:spnasnet_100",
    "torchvision:mnasnet1_0",
    "torchvision:mobilenet_v3_large",
)
"""At 224 pixels, of the families that can be imported, from 60 to 900 million multiply-accumulates."""
REFERENCES = {BLOCK: 40, NETWORK: 10}
"""How many of the table's rows are measured again among the networks."""
PEER = """
import json, sys, time
import litert_torch, torch
from fbnet_mobile.arch import Block
for key in json.load(sys.stdin):
    block = Block.parse_key(key)
    begun = time.perf_counter()
    image = torch.zeros(1, block.in_channels, block.resolution, block.resolution)
    litert_torch.convert(block.build().eval(), (image,)).export(sys.argv[1])
    print("seconds", time.perf_counter() - begun, flush=True)
"""


def main() -> None:
    """Profile, measure, report."""
    parser = argparse.ArgumentParser(description="Compare predicted with measured latencies of whole networks.")
    parser.add_argument("--table", type=Path, required=True, help="latency table; profiled if it is not there")
    parser.add_argument("--space", default="fbnetv2-f", help="to profile and to draw from (default: fbnetv2-f)")
    parser.add_argument("--runtime", default="litert")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", help="for profiling, such as 3m (default: none)")
    parser.add_argument("--networks", type=int, default=100, help="to draw (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the networks drawn")
    parser.add_argument("--imported", nargs="*", default=list(IMPORTED), help="(default: %(default)s)")
    parser.add_argument("--peer-python", type=Path, help="of an environment with litert-torch")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for results.json and predicted.svg")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    among: dict[RowKey, Measurement] = {}
    if not options.table.exists():
        results["profiling"] = profiled(options)
        among = set_apart(options)
    table = LatencyTable.load(options.table)
    conditions = table.conditions
    own = (conditions.space, conditions.runtime, conditions.precision, conditions.threads)
    if own != (options.space, options.runtime, options.precision, options.threads):
        parser.error(f"{options.table} is for {own}")
    results |= compared(table, among, options)
    report(table, results)
    if options.peer_python is not None:
        results["building"] = built(options)
    results["runtime"] = {"name": conditions.runtime, "version": conditions.runtime_version}
    write_results(options.output / "results.json", results, options)
    (options.output / "predicted.svg").write_text(drawn(results["networks"]))


def profiled(options: argparse.Namespace) -> dict[str, float]:
    """Profile the space; what that cost."""
    own_s = seconds_of_networks(options) if options.budget else 0.0
    budget_s = parse_seconds(options.budget) + own_s if options.budget else None
    plan = MeasuringPlan(budget_s=budget_s, seed=options.seed)
    seconds: dict[str, float] = defaultdict(float)
    begun = last = time.monotonic()

    def progress(step: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        seconds[step] += now - last
        last = now
        if done == total:
            print(f"{now - begun:6.0f} s: {step}: {done} of {total}", flush=True)

    with memory() as peak_mb:
        profile(
            load_space(options.space),
            options.space,
            HostDevice(),
            options.runtime,
            options.table,
            threads=options.threads,
            precision=options.precision,
            networks=ProfileRecipe.networks + options.networks,
            plan=plan,
            progress=progress,
        )
    whole = time.monotonic() - begun
    cost = {"seconds": whole, "building_seconds": seconds["building model files"], "peak_memory_mb": max(peak_mb)}
    if own_s:
        print(f"{own_s:.0f} s were added to the budget for the {options.networks} networks to be predicted")
        cost["seconds_added_to_the_budget"] = own_s
    print(
        f"profiled in {whole / 60:.1f} minutes, {cost['building_seconds'] / whole:.1%} of it building model files; "
        f"at most {cost['peak_memory_mb']:.0f} MB in memory, children included"
    )
    return cost


def seconds_of_networks(options: argparse.Namespace, trial: int = 40) -> float:
    """How long the networks to be predicted take to build and to measure, by a round of some others."""
    space, rng = load_space(options.space), random.Random(f"networks for their time, {options.seed}")
    wanted: dict[RowKey, Sequence[Block]] = {}
    while len(wanted) < trial:
        blocks = space.architecture(space.draw(rng)).blocks
        wanted[LatencyTable.row_key(NETWORK, blocks)] = blocks
    once = MeasuringPlan(min_rounds=1, max_rounds=1)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        models = built_models(wanted, Path(folder), options)
        built_s = time.monotonic() - begun
        measured(models, "min", once, options)
        round_s = time.monotonic() - begun - built_s
    return (built_s + MeasuringPlan().min_rounds * round_s) * float(options.networks) / trial


def built_models(wanted: Mapping[RowKey, Sequence[Block]], folder: Path, options: argparse.Namespace) -> list[Model]:
    """The model files of rows, to be measured as often as a profile would; each has the name of its row."""
    format_ = format_of_runtime(options.runtime).name
    rows = {(kind, tuple(blocks)): f"{kind} {keys}" for (kind, keys), blocks in wanted.items()}
    files = build(artifacts(rows, format_, options.precision), folder)
    return [
        Model(rows[a.kind, a.blocks], path, a.kind, NETWORK_REPEATS if a.kind == NETWORK else 1)
        for a, path in files.items()
    ]


def measured(models: list[Model], statistic: str, plan: MeasuringPlan, options: argparse.Namespace) -> Measured:
    """Measure them here, in rounds."""
    device = HostDevice()
    journal = Journal(None, new_session(device, options.runtime, options.threads, plan))
    return measure(device, options.runtime, options.threads, models, statistic, plan, journal)


def set_apart(options: argparse.Namespace) -> dict[RowKey, Measurement]:
    """Take as many networks, of those drawn at random, out of the table to be predicted; the others calibrate it."""
    table = LatencyTable.load(options.table)
    unusual = {LatencyTable.row_key(NETWORK, blocks) for blocks in unusual_networks(load_space(options.space))}
    networks = [key for key in table.rows if key[0] == NETWORK and key not in unusual]
    chosen = set(random.Random(options.seed).sample(networks, options.networks))
    kept = {key: row for key, row in table.rows.items() if key not in chosen}
    LatencyTable(table.conditions, kept).save(options.table)
    return {key: table.rows[key] for key in sorted(chosen)}


class memory:  # noqa: N801  # used as a function
    """The memory of this process and its children, in MB, every two seconds while the block runs.

    It is the proportional set size: a page that processes share is counted once.
    """

    def __enter__(self) -> list[float]:
        self.found, self.ended = [0.0], threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self.found

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.ended.wait(2.0):
            parents: dict[int, int] = {}
            for path in Path("/proc").glob("[0-9]*/stat"):
                with contextlib.suppress(OSError):  # it has ended
                    parents[int(path.parent.name)] = int(path.read_text().rsplit(")", 1)[1].split()[1])
            family = {os.getpid()}
            while more := {process for process, parent in parents.items() if parent in family} - family:
                family |= more
            kilobytes = 0
            for process in family:
                with contextlib.suppress(OSError):
                    text = Path(f"/proc/{process}/smaps_rollup").read_text()
                    kilobytes += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
            self.found.append(kilobytes / 1e3)


def compared(table: LatencyTable, among: dict[RowKey, Measurement], options: argparse.Namespace) -> dict[str, Any]:
    """Measure what was not measured among the blocks, some blocks again, and predict the networks."""
    space, rng = load_space(options.space), random.Random(f"networks that none has seen, {options.seed}")
    networks = {key: (f"random{number}", LatencyTable.parse_blocks(key[1])) for number, key in enumerate(among)}
    calibrated = {blocks for blocks, _ in table.networks()}
    while len(networks) < options.networks:
        blocks = space.architecture(space.draw(rng)).blocks
        if blocks not in calibrated:
            networks[LatencyTable.row_key(NETWORK, blocks)] = f"random{len(networks)}", blocks
    known = {name: load_network(name) for name in PUBLISHED}
    with torch.device("meta"):
        known |= {name: imported(name, resolution=224).architecture for name in options.imported}
    for name, network in known.items():
        networks[LatencyTable.row_key(NETWORK, network.blocks)] = name, network.blocks
    own = [key for key, row in table.blocks().items() if row.source == MEASURED]
    rows_of = {BLOCK: [(BLOCK, key) for key in own], NETWORK: [key for key in table.rows if key[0] == NETWORK]}
    references = {
        key: LatencyTable.parse_blocks(key[1])
        for kind, keys in rows_of.items()
        for key in rng.sample(keys, min(REFERENCES[kind], len(keys)))
    }
    # The published and imported networks hold blocks that are not in the space.
    outside = {
        LatencyTable.row_key(BLOCK, [block]): (block,)
        for _, blocks in networks.values()
        for block in table.missing(blocks)
    }

    plan = MeasuringPlan(min_rounds=6, max_rounds=8, repeatability=0.005, seed=options.seed)
    with tempfile.TemporaryDirectory() as folder:
        later = {key: blocks for key, (_, blocks) in networks.items() if key not in among}
        print(f"building and measuring {len(later)} networks", flush=True)
        wanted = {**later, **references, **outside}
        found = measured(built_models(wanted, Path(folder), options), table.conditions.statistic, plan, options)
    if found.failed:
        sys.exit(f"{len(found.failed)} models could not be run: {next(iter(found.failed.values()))}")
    names = {f"{kind} {keys}": (kind, keys) for kind, keys in wanted}
    rows = among | {names[name]: row for name, row in found.rows().items()}
    table = LatencyTable(table.conditions, {**table.rows, **{key: rows[key] for key in outside}})
    results = []
    for key, (name, blocks) in networks.items():
        alone = [table.rows[BLOCK, block.key] for block in blocks]
        medians = sum(row.median_us for row in alone)
        results.append(
            {
                "network": name,
                "measured_us": rows[key].latency_us,
                "measured_median_us": rows[key].median_us,
                "uncertainty": rows[key].uncertainty,
                "predicted_us": table.fixed_us + sum(map(table.block_us, blocks)),
                "sum_us": sum(row.latency_us for row in alone),
                "sum_of_medians_us": None if np.isnan(medians) else medians,
            }
        )
    again = {
        kind: summary_of([rows[key].latency_us / table.rows[key].latency_us for key in references if key[0] == kind])
        for kind, keys in rows_of.items()
        if keys
    }
    return {
        "measured_among_the_blocks": len(among),
        "networks": results,
        "blocks_outside_the_space": len(outside),
        "again": again,
    }


def summary_of(values: list[float]) -> dict[str, float]:
    """Median and outer tenths."""
    low, middle, high = np.percentile(values, [10, 50, 90])
    return {"p10": float(low), "median": float(middle), "p90": float(high)}


def report(table: LatencyTable, results: dict[str, Any]) -> None:
    """Print the errors of each method."""
    drawn_networks = [row for row in results["networks"] if row["network"].startswith("random")]
    print(f"{'method':38} {'networks':>8} {'mean':>7} {'5 %':>6} {'10 %':>6} {'Spearman':>9}")
    results["errors"] = {}
    for name, predicted, measured in (
        ("calibrated sum of minima (ours)", "predicted_us", "measured_us"),
        ("sum of minima, not calibrated", "sum_us", "measured_us"),
        ("sum of stand-alone medians (naive)", "sum_of_medians_us", "measured_median_us"),
    ):
        known = [row for row in drawn_networks if row[predicted] is not None]
        if not known:
            print(f"{name:38} not known: some blocks were not measured")
            continue
        error = prediction_error([row[predicted] for row in known], [row[measured] for row in known])
        results["errors"][name] = asdict(error)
        print(_line(name, error))
    differences = np.array([row["uncertainty"] for row in drawn_networks])
    repeated = {
        "mean": differences.mean(),
        "within_5_percent": (differences <= 0.05).mean(),
        "within_10_percent": (differences <= 0.10).mean(),
    }
    results["errors"]["repeatability of the measurement"] = {name: float(value) for name, value in repeated.items()}
    print(
        f"{'measured again (halves of the rounds)':38} {len(differences):>8} {repeated['mean']:>7.2%} "
        f"{repeated['within_5_percent']:>6.0%} {repeated['within_10_percent']:>6.0%}"
    )
    left_out = table.error()
    if left_out is not None:
        results["errors"]["the table's own"] = asdict(left_out)
        print(_line("the table's own, leave-one-out", left_out))
    for kind, again in results["again"].items():
        print(
            f"{REFERENCES[kind]} {kind}s of the table measured again took {again['median']:.3f} of their time in it "
            f"(10th to 90th percentile {again['p10']:.3f} to {again['p90']:.3f})"
        )
    others = [row for row in results["networks"] if row not in drawn_networks]
    for row in others:
        error_of_it = row["predicted_us"] / row["measured_us"] - 1
        print(f"{row['network']:30} measured {latency(row['measured_us'])}, predicted {error_of_it:+.1%}")
    error = prediction_error([row["predicted_us"] for row in others], [row["measured_us"] for row in others])
    results["errors"]["published and imported networks"] = asdict(error)
    print(_line("published and imported networks", error))


def _line(name: str, error: Any) -> str:
    return (
        f"{name:38} {error.networks:>8} {error.mean:>7.2%} {error.within_5_percent:>6.0%} "
        f"{error.within_10_percent:>6.0%} {error.spearman:>9.4f}"
    )


def built(options: argparse.Namespace, blocks: int = 20) -> dict[str, float]:
    """Seconds for each of some blocks, by ours and by litert-torch, one core each."""
    keys = [
        block.key for block in random.Random(options.seed).sample(load_space(options.space).candidates(), blocks + 1)
    ]
    from fbnet_mobile.measure.build import graph_of
    from fbnet_mobile.measure.quantise import write

    ours = []
    with tempfile.TemporaryDirectory() as folder:
        for number, key in enumerate(keys):
            begun = time.perf_counter()
            write(graph_of([Block.parse_key(key)]), Path(folder) / f"{number}.tflite", "tflite", "fp32")
            ours.append(time.perf_counter() - begun)
        done = subprocess.run(
            [str(options.peer_python), "-c", PEER, str(Path(folder) / "peer.tflite")],
            input=json.dumps(keys), capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip
    if done.returncode != 0:
        print(f"litert-torch not compared: {(done.stderr.strip() or 'it said nothing').splitlines()[-1]}")
        return {}
    peers = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("seconds ")]
    # The first of each is left out: it waits for imports.
    mine, theirs = float(np.mean(ours[1:])), float(np.mean(peers[1:]))
    print(f"building a block: {1e3 * mine:.0f} ms, by litert-torch {theirs:.2f} s: {theirs / mine:.0f} times as long")
    return {"blocks": blocks, "seconds_each": mine, "litert_torch_seconds_each": theirs}


def drawn(rows: list[dict[str, Any]], size: int = 480, border: int = 50) -> str:
    """Predicted against measured latency as an SVG, with the lines of 5 % too much and too little."""
    top = 1.05 * max(max(row["predicted_us"], row["measured_us"]) for row in rows) / 1e3
    step = max(round(top / 6), 1) if top > 3 else top / 6

    def at(milliseconds: float) -> float:
        return float(border + milliseconds / top * (size - 2 * border))

    marks = []
    for factor in (0.95, 1.0, 1.05):
        end = top / max(factor, 1)
        colour = "#999" if factor == 1 else "#ccc"
        marks.append(
            f'<line x1="{at(0)}" y1="{size - at(0)}" x2="{at(end):.1f}" y2="{size - at(end * factor):.1f}" '
            f'stroke="{colour}"/>'
        )
    for number in range(int(top / step) + 1):
        place = at(number * step)
        marks.append(f'<text x="{place:.1f}" y="{size - border + 16}" text-anchor="middle">{number * step:.3g}</text>')
        marks.append(f'<text x="{border - 6}" y="{size - place + 4:.1f}" text-anchor="end">{number * step:.3g}</text>')
    for row in rows:
        colour = "#1f77b4" if row["network"].startswith("random") else "#d62728"
        x, y = at(row["measured_us"] / 1e3), size - at(row["predicted_us"] / 1e3)
        marks.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}" fill-opacity="0.7">'
            f"<title>{row['network']}</title></circle>"
        )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{size}" '
            'font-family="sans-serif" font-size="12">',
            f'<rect width="{size}" height="{size}" fill="white"/>',
            *marks,
            f'<text x="{size / 2}" y="{size - 12}" text-anchor="middle">measured, ms</text>',
            f'<text x="14" y="{size / 2}" text-anchor="middle" '
            f'transform="rotate(-90 14 {size / 2})">predicted, ms</text>',
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    main()
