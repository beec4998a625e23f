"""Classify a picture with OpenVINO, from a .tflite or .onnx file.

    python openvino_classify.py model.onnx picture.png

pip install openvino pillow
"""

import json
import sys
from pathlib import Path

import numpy as np
import openvino
from PIL import Image


def said(path):
    """What the file says of itself: a JSON object in a .tflite file, strings by name in an .onnx file."""
    if path.suffix == ".onnx":
        strings = openvino.Core().read_model(path).get_rt_info("framework").astype(dict)
        return {name: text.value for name, text in strings.items()}
    text = path.read_bytes()
    text = text[text.index(b'{"architecture": ') :].split(b"\0")[0].decode()
    return json.JSONDecoder().raw_decode(text)[0]


model, picture = map(Path, sys.argv[1:])
strings = said(model)
network = openvino.Core().compile_model(
    model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
)  # bfloat16 otherwise, where there is
first = model.suffix == ".onnx"  # channels first in .onnx, last in .tflite
_, *size = network.input(0).shape
height, width = size[1:] if first else size[:2]
pixels = np.asarray(Image.open(picture).convert("RGB").resize((width, height)))
if strings["input"] == "float32":
    mean, std = (np.array(json.loads(strings[name]), np.float32) for name in ("mean", "std"))
    pixels = (pixels.astype(np.float32) / 255 - mean) / std
scores = network(np.ascontiguousarray(pixels.transpose(2, 0, 1) if first else pixels)[None])[0][0]
print(json.dumps(dict(zip(json.loads(strings["classes"]), map(float, scores)))))
