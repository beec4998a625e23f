"""ONNX files and ONNX Runtime.

fp16: weights and computation. int8: weights per channel (7 bits) and activations of the operations that ONNX Runtime
has integers for.
"""

import math

from fbnet_mobile.formats.base import Conversion, Format, Imported, Runtime

_HERE = "fbnet_mobile.formats.onnx"
_NEEDS = ("onnx", "fbnet-mobile[onnx]")

FORMAT = Format(
    name="onnx",
    suffix=".onnx",
    runtime=Runtime(
        name="onnxruntime",
        formats=("onnx",),
        load=Imported(f"{_HERE}.run:load"),
        version=Imported(f"{_HERE}.run:version"),
        install="python3 -m pip install onnxruntime",
        operation_times_us=Imported(f"{_HERE}.profile:operation_times_us"),
    ),
    write=Imported(f"{_HERE}.write:write", *_NEEDS),
    read_metadata=Imported(f"{_HERE}.metadata:read_metadata", *_NEEDS),
    recognises=Imported(f"{_HERE}.metadata:recognises", *_NEEDS),
    conversions={
        "fp16": Conversion(
            Imported(f"{_HERE}.precision:fp16", *_NEEDS),
            tolerance=1e-2,
            for_measuring=Imported(f"{_HERE}.precision:fp16_for_measuring", *_NEEDS),
        ),
        "int8": Conversion(
            Imported(f"{_HERE}.precision:int8", *_NEEDS),
            tolerance=math.inf,
            calibrates=True,
            options=frozenset({"ranges", "keep"}),
            for_measuring=Imported(f"{_HERE}.precision:int8_for_measuring", *_NEEDS),
        ),
    },
    options=frozenset({"opset", "dynamic_batch"}),
)
