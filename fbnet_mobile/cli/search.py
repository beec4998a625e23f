"""fbnet-search: find the most accurate network of a space within limits, such as a latency on a device."""

from fbnet_mobile.api import search as api
from fbnet_mobile.cli.common import Program, run
from fbnet_mobile.report.console import search_lines

PROGRAM = Program(
    name="search",
    example="fbnet-search --latency-table host.csv --data path/to/images --target-latency 0.3ms -o runs/search",
    options=api.SearchOptions,
    work=api.search,
    lines=search_lines,
    continues=True,
)


def main() -> None:
    """Entry point."""
    run(PROGRAM)
