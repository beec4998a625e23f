"""fbnet-benchmark: latency of exported files on a device, next to the prediction, and their accuracy."""

from dataclasses import dataclass
from typing import Any

from fbnet_mobile.api import benchmark as api
from fbnet_mobile.cli.common import Lines, Program, run
from fbnet_mobile.recipe import option
from fbnet_mobile.report.console import benchmark_lines, zoo_lines


@dataclass(frozen=True, kw_only=True)
class Instead:
    """What fbnet-benchmark does instead of measuring."""

    list_models: bool = option(
        False,
        group="Instead of measuring",
        help="Only list the networks that there are, and what they cost.",
    )


def _look(asked: Instead, others: dict[str, Any]) -> tuple[Any, Lines] | None:
    return (api.published(), zoo_lines) if asked.list_models else None


PROGRAM = Program(
    name="benchmark",
    example="fbnet-benchmark model.tflite --device host --latency-table host.csv --data path/to/images",
    options=api.BenchmarkOptions,
    work=api.benchmark,
    lines=benchmark_lines,
    continues=False,
    instead=Instead,
    look=_look,
)


def main() -> None:
    """Entry point."""
    run(PROGRAM)
