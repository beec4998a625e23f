"""fbnet-train: train the network of an architecture file, or a published one."""

from fbnet_mobile.api import train as api
from fbnet_mobile.cli.common import Program, run
from fbnet_mobile.report.console import train_lines

PROGRAM = Program(
    name="train",
    example="fbnet-train --architecture runs/search/architecture.yaml --data path/to/images -o runs/train",
    options=api.TrainOptions,
    work=api.train,
    lines=train_lines,
    continues=True,
)


def main() -> None:
    """Entry point."""
    run(PROGRAM)
