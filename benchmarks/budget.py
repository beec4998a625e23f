"""Does the network that is found take what was asked for?

    python benchmarks/budget.py --latency-table host.csv --data digits -o runs/budget [options of fbnet-search]

Runs fbnet-search once, with its default settings, for three targets spread over what the table's space can reach;
exports what it found; and measures the files in rounds, in the table's runtime and by its statistic. The table must
have been measured on this machine. Prints target, prediction and measurement, and writes results.json. The exit code is
1 if a prediction is not within 2 % under its target, or a measurement not within 5 % of it. Finished, the same command
measures again; interrupted, the search goes on.
"""

import argparse
import math
import sys
from pathlib import Path

from results_file import write_results
from search_quality import fbnet

from fbnet_mobile.arch import Architecture
from fbnet_mobile.blocks.network import build
from fbnet_mobile.cost.bounds import cost_range
from fbnet_mobile.cost.constraint import latency_constraint
from fbnet_mobile.cost.quantity import QUANTITIES
from fbnet_mobile.devices import get_device
from fbnet_mobile.formats.base import format_of_runtime, write
from fbnet_mobile.graph.trace import trace
from fbnet_mobile.latency.table import LatencyTable
from fbnet_mobile.measure.benchmark import benchmark
from fbnet_mobile.space import load_space


def main() -> None:
    """Search, measure and report."""
    parser = argparse.ArgumentParser(description="Compare what found networks take with what was asked for.")
    parser.add_argument("--latency-table", type=Path, required=True)
    parser.add_argument("--data", default="digits", help="as for fbnet-search (default: digits)")
    parser.add_argument("--targets", nargs="+", help="latencies (default: three over the reachable range)")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options, more = parser.parse_known_args()
    table = LatencyTable.load(options.latency_table)
    conditions = table.conditions
    if options.targets:
        targets = [QUANTITIES.get("latency").parse(text) for text in options.targets]
    else:
        space = load_space(conditions.space)
        reach = cost_range(space, latency_constraint(space, table, math.inf))
        ratio = math.log(reach.highest / reach.lowest)
        targets = [float(f"{reach.lowest * math.exp(ratio * part):.2g}") for part in (0.3, 0.5, 0.7)]
    fbnet(
        "search", "--latency-table", options.latency_table, "--data", options.data, "--target-latency",
        ",".join(f"{target:g}us" for target in targets), "-o", options.output / "search", *more,
    )  # fmt: skip

    runtime = format_of_runtime(conditions.runtime)
    networks, paths = [], []
    for target in targets:
        folder = options.output / "search" / (f"{target:g}us" if len(targets) > 1 else "")
        networks.append(Architecture.load(folder / "architecture.yaml"))
        paths.append(folder / f"network{runtime.suffix}")
        write(trace(build(networks[-1]).eval(), networks[-1].input_shape), paths[-1], runtime.name)
    measured = benchmark(
        paths,
        get_device(conditions.device),
        conditions.runtime,
        threads=conditions.threads,
        statistic=conditions.statistic,
    )
    rows = []
    print(f"{'target':>10} {'predicted':>11} {'of target':>9} {'measured':>11} {'of target':>9}")
    for target, network, row in zip(targets, networks, measured.measurements, strict=True):
        rows.append({"target_us": target, "predicted_us": table.total(network), "measured_us": row.latency_us})
        predicted_us = rows[-1]["predicted_us"]
        print(
            f"{target:>7.1f} us {predicted_us:>8.1f} us {predicted_us / target - 1:>+9.1%} {row.latency_us:>8.1f} us "
            f"{row.latency_us / target - 1:>+9.1%}"
        )
    results = {
        "runtime": {"name": runtime.name, "version": runtime.runtime.version()},
        "search_options": more,
        "rows": rows,
    }
    write_results(options.output / "results.json", results, options)
    good = all(
        0.98 <= row["predicted_us"] / row["target_us"] <= 1 and abs(row["measured_us"] / row["target_us"] - 1) <= 0.05
        for row in rows
    )
    sys.exit(not good)


if __name__ == "__main__":
    main()
