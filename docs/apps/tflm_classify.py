"""Classify a picture with TensorFlow Lite for Microcontrollers' interpreter, as a microcontroller would.

    python tflm_classify.py model.tflite picture.png

pip install tflite-micro pillow
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tflite_micro import runtime

model, picture = map(Path, sys.argv[1:])
content = model.read_bytes()
text = content[content.index(b'{"architecture": ') :].split(b"\0")[0].decode()
strings = json.JSONDecoder().raw_decode(text)[0]  # what the file says of itself
interpreter = runtime.Interpreter.from_file(str(model), arena_size=8 << 20)
_, height, width, _ = interpreter.get_input_details(0)["shape"]
pixels = np.asarray(Image.open(picture).convert("RGB").resize((width, height)), np.float32)
mean, std = (np.array(json.loads(strings[name]), np.float32) for name in ("mean", "std"))
interpreter.set_input(((pixels / 255 - mean) / std)[None], 0)
interpreter.invoke()
print(json.dumps(dict(zip(json.loads(strings["classes"]), map(float, interpreter.get_output(0)[0])))))
