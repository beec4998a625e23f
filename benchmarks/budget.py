"""Does the network that is found take what was asked for?

    python benchmarks/budget.py --latency-table host.csv --data digits -o runs/budget [options of fbnet-search]

Runs fbnet-search once, with its default settings and --device, for three targets spread over what the table's space can
reach; exports what it found; and measures the files anew, in rounds, in the table's runtime and by its statistic. The
table must have been measured on this machine. With --within CHECKPOINT it is the space within that network; with such
options as --limit and --epochs a search is shorter, and meets its target as any. Prints target, prediction, what the
search measured in each of its rounds, and what is measured anew, and writes results.json.

The exit code is 1 if the search's own measurement is not at most the target and within 3 % under it, or the new one not
within 3 % of that. Finished, the same command measures again; interrupted, the search goes on.
"""

import argparse
import json
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
        "search", "--latency-table", options.latency_table, "--data", options.data, "--device", conditions.device,
        "--target-latency", ",".join(f"{target:g}us" for target in targets), "-o", options.output / "search", *more,
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
    print(f"{'target':>10} {'predicted':>11}  {'measured in each round, of target':34} {'anew':>11} {'of target':>9}")
    for target, network, path, row in zip(targets, networks, paths, measured.measurements, strict=True):
        rounds = json.loads((path.parent / "result.json").read_text())["measured"]
        shares = [each["measured_us"] / target - 1 for each in rounds]
        rows.append(
            {
                "target_us": target,
                "predicted_us": table.total(network),
                "rounds": rounds,
                "measured_anew_us": row.latency_us,
            }
        )
        said = ", ".join(f"{share:+.1%}" for share in shares)
        print(
            f"{target:>7.1f} us {rows[-1]['predicted_us']:>8.1f} us  {said:34} {row.latency_us:>8.1f} us "
            f"{row.latency_us / target - 1:>+9.1%}"
        )
    results = {
        "runtime": {"name": runtime.name, "version": runtime.runtime.version()},
        "search_options": more,
        "rows": rows,
    }
    write_results(options.output / "results.json", results, options)
    good = True
    for each in rows:
        under = [one["measured_us"] / each["target_us"] for one in each["rounds"]]
        taken = max((share for share in under if share <= 1), default=min(under))
        good &= 0.97 <= taken <= 1 and abs(each["measured_anew_us"] / each["target_us"] / taken - 1) <= 0.03
    sys.exit(not good)


if __name__ == "__main__":
    main()
