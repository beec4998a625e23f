"""fbnet-search: find the most accurate network of a space within limits, such as a latency on a device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fbnet_mobile.api import search as api
from fbnet_mobile.cli.common import Lines, Program, run
from fbnet_mobile.recipe import option, recipe_fields
from fbnet_mobile.report.console import search_lines, search_plan_lines


@dataclass(frozen=True, kw_only=True)
class Instead:
    """What fbnet-search does instead of searching."""

    plan: bool = option(
        False,
        group="Instead of searching",
        help="Only print what the space reaches: its smallest, middle and largest network, and whether the limits "
        "are inside. Needs no --data and no --output.",
    )


def _look(asked: Instead, others: Mapping[str, Any]) -> tuple[Any, Lines] | None:
    if not asked.plan:
        return None
    known = {item.name for item in recipe_fields(api.PlanOptions)}
    return api.plan(**{name: value for name, value in others.items() if name in known}), search_plan_lines


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
