"""What the way to a device costs: one space profiled on this machine, over ssh to it, and over adb to it.

    tools/device_lab.sh .venv/bin/python benchmarks/remote_profile.py

The same machine and runtime behind all three, so the tables should agree within the repeatability that they state, and
the wall times differ by connecting, pushing and starting Python once a round. Outside device_lab.sh, without adb.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from results_file import write_results  # noqa: E402

from fbnet_mobile.latency.table import BLOCK, INVOCATION, NETWORK, LatencyTable, Measurement  # noqa: E402
from tests.devices import lab  # noqa: E402


def main() -> None:
    """Profile, compare, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="small")
    parser.add_argument("--rounds", default="4", help="made by each profile, no more and no fewer")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "remote_profile.json")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        transports = {"host": "host"}
        (folder / "sshd").mkdir()
        sshd = lab.Sshd(folder / "sshd")
        stack.callback(sshd.stop)
        os.environ["PATH"] = f"{sshd.path}{os.pathsep}{os.environ['PATH']}"
        transports["ssh"] = sshd.name
        if "DEVICES_CACHE" in os.environ:
            (folder / "adb").mkdir()
            stack.enter_context(lab.adb_server(folder / "adb"))
            adbd = lab.Adbd(5601, None, os.environ)
            stack.callback(adbd.stop)
            transports["adb"] = f"adb:{adbd.serial}"
        os.environ["FBNET_DEVICES"] = str(folder / "devices.yaml")
        entries = {
            f"this-over-{name}": {"transport": transport, "python": sys.executable, "folder": str(folder)}
            for name, transport in transports.items()
        }
        (folder / "devices.yaml").write_text(json.dumps(entries))  # JSON is YAML
        results = []
        for name in transports:
            table = folder / f"{name}.csv"
            code = "from fbnet_mobile.cli.profile import main; main()"
            command = [sys.executable, "-c", code, "--device", f"this-over-{name}", "--space", options.space]
            begun = time.monotonic()
            command += ["--rounds", options.rounds, "-o", str(table)]
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
            subprocess.run(command, check=True, stdout=sys.stderr, env=environment)
            results.append(_result(name, time.monotonic() - begun, table, folder / "host.csv"))
            results[-1]["relative_wall"] = results[-1]["wall_s"] / results[0]["wall_s"]
            shown = "{device:5} {wall_s:7.1f} s, {relative_wall:.2f} of the host's; {rows} rows, which differ from "
            shown += (
                "the host's by {difference:.2%} (median), {bias:+.2%} overall; stated repeatability {repeatability:.2%}"
            )
            print(shown.format(**results[-1]))
    write_results(options.output, {"results": results}, options)


def _result(name: str, wall_s: float, path: Path, host: Path) -> dict[str, Any]:
    table = LatencyTable.load(path)
    own, reference = _latencies(table), _latencies(LatencyTable.load(host))
    assert own.keys() == reference.keys()
    ratios = [own[key].latency_us / reference[key].latency_us for key in own if key[0] == BLOCK]
    return {
        "device": name,
        "runtime": f"{table.conditions.runtime} {table.conditions.runtime_version}",
        "date": table.conditions.date,
        "wall_s": round(wall_s, 1),
        "rows": len(own),
        "difference": statistics.median(abs(ratio - 1) for ratio in ratios),
        "bias": statistics.median(ratios) - 1,
        "repeatability": statistics.median(row.uncertainty for row in own.values()),
    }


def _latencies(table: LatencyTable) -> dict[tuple[str, str], Measurement]:
    return {key: row for key, row in table.rows.items() if key[0] in (INVOCATION, BLOCK, NETWORK)}


if __name__ == "__main__":
    main()
