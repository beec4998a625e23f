"""fbnet-search: find the most accurate network of a space within limits, such as a latency on a device."""

from dataclasses import dataclass
from typing import Any

from fbnet_mobile.api import search as api
from fbnet_mobile.cli.common import Lines, Program, run
from fbnet_mobile.recipe import option
from fbnet_mobile.report.console import plan_lines, search_lines


@dataclass(frozen=True, kw_only=True)
class Instead:
    """What fbnet-search does instead of searching."""

    plan: bool = option(
        False,
        group="Instead of searching",
        help="Only print what the space reaches: its smallest, middle and largest network, and whether the limits "
        "are inside. Needs no --data and no --output.",
    )
    options: api.PlanOptions


def _look(asked: Instead, _others: dict[str, Any]) -> tuple[Any, Lines] | None:
    return (api.plan_of(asked.options), plan_lines) if asked.plan else None


PROGRAM = Program(
    name="search",
    example="fbnet-search --latency-table host.csv --data path/to/images --target-latency 0.3ms -o runs/search",
    options=api.SearchOptions,
    work=api.search,
    lines=search_lines,
    continues=True,
    instead=Instead,
    look=_look,
)


def main() -> None:
    """Entry point."""
    run(PROGRAM)
