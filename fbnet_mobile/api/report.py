"""From what runs left to one page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fbnet_mobile.api.call import check_output, takes
from fbnet_mobile.errors import FbnetError, UserError
from fbnet_mobile.recipe import option, output_option
from fbnet_mobile.remarks import say
from fbnet_mobile.report.records import ReportResult


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What is reported on."""

    runs: tuple[Path, ...] = option(
        (),
        argument=True,
        shown="none",
        help="Folders of runs, or folders of such folders; latency tables; results of fbnet-benchmark.",
    )
    output: Path = output_option(Path("report.html"), group="Result", help="The page to write.")


@takes(ReportOptions)
def report(options: ReportOptions) -> ReportResult:
    """Write what runs left into one page of HTML: accuracy against latency, the network drawn, how it was found.

    The page needs no network and no server, and its tables no scripts. What the runs do not have is not on it.
    """
    if not options.runs:
        raise UserError("nothing to report on; give folders that fbnet-search or fbnet-train wrote")

    from fbnet_mobile.report.page import is_report, write_report

    check_output(options.output, inputs=[path for path in options.runs if not path.is_dir()], replaces=is_report)
    found = write_report(options.output, options.runs)
    return ReportResult(
        page=options.output,
        size=options.output.stat().st_size,
        searches=len(found.searches),
        trainings=len(found.trainings),
        tables=len(found.tables),
        benchmarks=len(found.benchmarks),
        left_out=tuple(found.left_out),
    )


def write_page(path: Path, runs: Sequence[Path]) -> None:
    """Report on a run that has just ended, and say where; what hinders that is said too, and is no fault of the run."""
    from fbnet_mobile.report.page import write_report

    try:
        write_report(path, runs)
    except FbnetError as error:
        say(f"no report: {error}")
    else:
        say(f"report: {path}")
