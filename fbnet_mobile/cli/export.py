"""fbnet-export: turn a trained network into a file that a device runs, and prove that it computes the same."""

from fbnet_mobile.api import export as api
from fbnet_mobile.cli.common import Program, run
from fbnet_mobile.report.console import export_lines

PROGRAM = Program(
    name="export",
    example="fbnet-export --checkpoint runs/train/best.pt --format tflite -o model.tflite",
    options=api.ExportOptions,
    work=api.export,
    lines=export_lines,
    continues=False,
)


def main() -> None:
    """Entry point."""
    run(PROGRAM)
