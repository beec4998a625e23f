"""TFLite files and LiteRT.

fp16: weights of layers in fp16, computed as the runtime likes. int8: weights per channel and activations, computed in
integers; what the quantiser has no integers for stays float32.
"""

import math

from fbnet_mobile.formats.base import Conversion, Format, Imported, Runtime

_HERE = "fbnet_mobile.formats.tflite"

FORMAT = Format(
    name="tflite",
    suffix=".tflite",
    runtime=Runtime(
        name="litert",
        formats=("tflite",),
        load=Imported(f"{_HERE}.run:load"),
        version=Imported(f"{_HERE}.run:version"),
        install="python3 -m pip install ai-edge-litert",
    ),
    write=Imported(f"{_HERE}.write:write"),
    read_metadata=Imported(f"{_HERE}.metadata:read_metadata"),
    recognises=Imported(f"{_HERE}.metadata:recognises"),
    finish=Imported(f"{_HERE}.finish:finish"),
    conversions={
        "fp16": Conversion(Imported(f"{_HERE}.precision:fp16"), tolerance=1e-2),
        "int8": Conversion(
            Imported(f"{_HERE}.precision:int8"),
            tolerance=math.inf,
            calibrates=True,
            options=frozenset({"ranges", "keep", "integer_input_and_output"}),
            for_measuring=Imported(f"{_HERE}.precision:int8_for_measuring"),
        ),
    },
)
