"""fbnet-profile: measure the candidate blocks of a search space on a device into a latency table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fbnet_mobile.api import devices
from fbnet_mobile.api import profile as api
from fbnet_mobile.cli.common import Lines, Program, run
from fbnet_mobile.recipe import option
from fbnet_mobile.report.console import check_lines, comparison_lines, device_lines, profile_lines

_INSTEAD = "Instead of measuring"


@dataclass(frozen=True, kw_only=True)
class Instead:
    """What fbnet-profile does instead of measuring."""

    show: Path | None = option(None, group=_INSTEAD, shown="none", help="Only print what this table holds.")
    compare: tuple[Path, Path] | None = option(
        None,
        group=_INSTEAD,
        shown="none",
        help="Only print which blocks are faster or slower in the second of two tables.",
    )
    list_devices: bool = option(False, group=_INSTEAD, help="Only print which devices there are.")
    check_device: str | None = option(
        None, group=_INSTEAD, shown="none", metavar="NAME", help="Only print what this device lacks, and the remedies."
    )


def _look(asked: Instead, others: dict[str, Any]) -> tuple[Any, Lines] | None:
    if asked.list_devices:
        return devices.list_devices(), device_lines
    if asked.check_device is not None:
        return devices.check_device(asked.check_device), check_lines
    if asked.show is not None:
        return api.show(asked.show), profile_lines
    if asked.compare is not None:
        return api.compare(*asked.compare), comparison_lines
    return None


PROGRAM = Program(
    name="profile",
    example="fbnet-profile --device host --runtime litert --space small -o host.csv",
    options=api.ProfileOptions,
    work=api.profile,
    lines=profile_lines,
    continues=True,
    instead=Instead,
    look=_look,
)


def main() -> None:
    """Entry point."""
    run(PROGRAM)
