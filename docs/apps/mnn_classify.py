"""Convert a .tflite or .onnx file to MNN's format, as mnnconvert does, and classify a picture with it.

    python mnn_classify.py model.tflite picture.png

pip install MNN onnx pillow
"""

import contextlib
import json
import sys
import tempfile
from pathlib import Path

import _tools  # MNN's converter; its command mnnconvert would install another package, to report its use
import MNN
import numpy as np
from PIL import Image


def said(path):
    """What the file says of itself: a JSON object in a .tflite file, strings by name in an .onnx file."""
    content = path.read_bytes()
    if path.suffix == ".onnx":
        import onnx

        return {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    text = content[content.index(b'{"architecture": ') :].split(b"\0")[0].decode()
    return json.JSONDecoder().raw_decode(text)[0]


model, picture = (Path(name).absolute() for name in sys.argv[1:])
strings = said(model)
with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # it leaves a file where it is run
    converted = f"{folder}/model.mnn"
    kind = {".tflite": "TFLITE", ".onnx": "ONNX"}[model.suffix]
    _tools.mnnconvert(["mnnconvert", "-f", kind, "--modelFile", str(model), "--MNNModel", converted])
    interpreter = MNN.Interpreter(converted)
session = interpreter.createSession({"backend": "CPU", "precision": "high"})
given = interpreter.getSessionInput(session)
first = model.suffix == ".onnx"  # channels first in .onnx, last in .tflite
_, *size = given.getShape()
height, width = size[1:] if first else size[:2]
pixels = np.asarray(Image.open(picture).convert("RGB").resize((width, height)))
if strings["input"] == "float32":
    mean, std = (np.array(json.loads(strings[name]), np.float32) for name in ("mean", "std"))
    pixels = (pixels.astype(np.float32) / 255 - mean) / std
pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1) if first else pixels)[None]
layout = MNN.Tensor_DimensionType_Caffe if first else MNN.Tensor_DimensionType_Tensorflow
given.copyFrom(MNN.Tensor(pixels.shape, given.getDataType(), pixels, layout))
if code := interpreter.runSession(session):
    sys.exit(f"Error: MNN does not run the network ({code})")
classes = json.loads(strings["classes"])
result = interpreter.getSessionOutput(session)
scores = MNN.Tensor((1, len(classes)), MNN.Halide_Type_Float, np.zeros((1, len(classes)), np.float32), layout)
result.copyToHostTensor(scores)
print(json.dumps(dict(zip(classes, map(float, scores.getNumpyData().reshape(-1))))))
