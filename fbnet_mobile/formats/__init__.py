"""From a network's graph to a file a device runs, checked against PyTorch.

Each folder holds a format; :mod:`base` what a format is, and the registry; :mod:`verify` exports and proves the result.
Nothing heavy is imported here.
"""

from fbnet_mobile.formats import coreml, onnx, tflite
from fbnet_mobile.formats.base import FORMATS

for _entry in (tflite.FORMAT, onnx.FORMAT, coreml.FORMAT):
    FORMATS.add(_entry.name, _entry)
