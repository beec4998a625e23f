"""fbnet-report: what runs left, as one page that opens anywhere."""

from fbnet_mobile.api import report as api
from fbnet_mobile.cli.common import Program, run
from fbnet_mobile.report.console import report_lines

PROGRAM = Program(
    name="report",
    example="fbnet-report runs/search runs/train benchmark.json -o report.html",
    options=api.ReportOptions,
    work=api.report,
    lines=report_lines,
    continues=False,
)


def main() -> None:
    """Entry point."""
    run(PROGRAM)
