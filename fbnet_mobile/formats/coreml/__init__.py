"""Core ML packages.

fp16: weights and computation. int8: weights per channel; computed in fp16. Integer activations need Core ML to
calibrate, so a Mac.
"""

import math

from fbnet_mobile.formats.base import Conversion, Format, Imported, Runtime

_HERE = "fbnet_mobile.formats.coreml"
_NEEDS = ("coremltools", "fbnet-mobile[coreml]")

FORMAT = Format(
    name="coreml",
    suffix=".mlpackage",
    runtime=Runtime(
        name="coreml",
        formats=("coreml",),
        load=Imported(f"{_HERE}.run:load", *_NEEDS),
        version=Imported(f"{_HERE}.run:version"),
        install="python3 -m pip install coremltools",
        anywhere=False,
    ),
    write=Imported(f"{_HERE}.write:write", *_NEEDS),
    read_metadata=Imported(f"{_HERE}.metadata:read_metadata", *_NEEDS),
    recognises=Imported(f"{_HERE}.metadata:recognises"),
    conversions={
        "fp16": Conversion(Imported(f"{_HERE}.precision:fp16", *_NEEDS), tolerance=1e-2),
        "int8": Conversion(Imported(f"{_HERE}.precision:int8", *_NEEDS), tolerance=math.inf),
    },
)
