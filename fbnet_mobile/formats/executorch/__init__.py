"""ExecuTorch programs: what XNNPACK has is computed by it, in float32, and the rest by portable operations."""

from pathlib import Path

from fbnet_mobile.formats.base import Format, Imported, Runtime

_HERE = "fbnet_mobile.formats.executorch"
_NEEDS = ("executorch", "fbnet-mobile[executorch]")

FORMAT = Format(
    name="executorch",
    suffix=".pte",
    runtime=Runtime(
        name="executorch",
        formats=("executorch",),
        load=Imported(f"{_HERE}.run:load", *_NEEDS),
        version=Imported(f"{_HERE}.loader:version", *_NEEDS),
        install="python3 -m pip install executorch",
        loader=Path(__file__).with_name("loader.py"),
    ),
    write=Imported(f"{_HERE}.write:write", *_NEEDS),
    read_metadata=Imported(f"{_HERE}.metadata:read_metadata", *_NEEDS),
    recognises=Imported(f"{_HERE}.metadata:recognises"),
)
