"""fbnet-export: turn a trained network into a file that a device runs, and prove that it computes the same."""

from fbnet_mobile.api import export as api
from fbnet_mobile.cli.common import Program, run
from fbnet_mobile.report.console import export_lines

PROGRAM = Program(
    name="export",
    text="Export a network to TFLite, ONNX or Core ML. The file is run in its own runtime and compared with PyTorch "
    "before it is put in place: on test images of --data, or on random inputs without. With --device it is then "
    "measured where it will run.",
    example="fbnet-export --checkpoint runs/train/best.pt --format tflite -o model.tflite",
    options=api.ExportOptions,
    work=api.export,
    lines=export_lines,
    continues=False,
)


def main() -> None:
    """Entry point."""
    run(PROGRAM)
