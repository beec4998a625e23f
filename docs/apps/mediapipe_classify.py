"""Classify a picture with MediaPipe Tasks, which takes labels, normalisation and threshold from the file itself.

    python mediapipe_classify.py model.tflite picture.png

pip install mediapipe
"""

import json
import sys

from mediapipe import Image
from mediapipe.tasks.python import BaseOptions
from mediapipe.tasks.python.vision import ImageClassifier, ImageClassifierOptions

model, picture = sys.argv[1:]
options = ImageClassifierOptions(base_options=BaseOptions(model_asset_path=model))
with ImageClassifier.create_from_options(options) as classifier:
    (found,) = classifier.classify(Image.create_from_file(picture)).classifications
print(json.dumps({category.category_name: category.score for category in found.categories}))
