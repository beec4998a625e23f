"""Options that several commands have, each written once."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    str,
    typer.Option(
        help="Labelled images: a folder of class folders, a torchvision data set's name, or digits.", show_default=False
    ),
]
OptionalData = Annotated[str | None, typer.Option(help="Labelled images, as for fbnet-train.", show_default="none")]
DataRoot = Annotated[Path | None, typer.Option(help="Where torchvision keeps its data sets.", show_default="./data")]
SplitSeed = Annotated[
    int,
    typer.Option(
        min=0, help="Decides which images are held out where the data have no val/ or test/: the same for all commands."
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Use about this many training images.", show_default="all")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images a step, over all processes.")]
RunFolder = Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.", show_default=False)]
Accelerator = Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")]
Devices = Annotated[str, typer.Option(help="How many accelerators or processes, or auto.")]
Precision = Annotated[str, typer.Option(help="32-true, bf16-mixed or 16-mixed.")]
DeviceName = Annotated[
    str,
    typer.Option(
        help="Where to measure: host is this machine; ssh:user@board, adb, coreml, or a name of devices.yaml."
    ),
]
BenchmarkBinary = Annotated[
    Path | None,
    typer.Option(help="Google's benchmark_model for the device, for Android without Python.", show_default="none"),
]
DeviceThreads = Annotated[
    int | None, typer.Option(min=1, help="Threads of the runtime.", show_default="as devices.yaml says, or 1")
]
