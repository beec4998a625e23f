"""OpenVINO, which runs ONNX and TFLite files on a processor as they are.

It computes fp32 in float32 here: left to itself it takes bfloat16 where the processor has it, another
precision.
"""

from pathlib import Path

from fbnet_mobile.formats.base import Imported, Runtime

_HERE = "fbnet_mobile.formats.openvino"

RUNTIME = Runtime(
    name="openvino",
    formats=("onnx", "tflite"),
    load=Imported(f"{_HERE}.run:load"),
    version=Imported(f"{_HERE}.run:version"),
    install="python3 -m pip install openvino",
    loader=Path(__file__).with_name("loader.py"),
    operation_times_us=Imported(f"{_HERE}.profile:operation_times_us"),
)
