"""From a network's graph to a file a device runs, checked against PyTorch.

Each folder holds a format, or a runtime of others' formats; :mod:`base` what these are, and the registries;
:mod:`verify` exports and proves the result. Nothing heavy is imported here.
"""

from fbnet_mobile.formats import coreml, executorch, onnx, openvino, tflite
from fbnet_mobile.formats.base import FORMATS, RUNTIMES

for _entry in (tflite.FORMAT, onnx.FORMAT, coreml.FORMAT, executorch.FORMAT):
    FORMATS.add(_entry.name, _entry)
RUNTIMES.add(openvino.RUNTIME.name, openvino.RUNTIME)
