"""Exported files in the clients that apps use: labels and scores on photographs, in every format and precision.

The app code that runs is that of ``docs/apps``. What ``fbnet-export --for`` promises is what is seen here.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from calibrated import calibrated
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn

from fbnet_mobile.formats.clients import CLIENTS
from fbnet_mobile.formats.metadata import ModelMetadata
from fbnet_mobile.formats.verify import export
from fbnet_mobile.graph.pixels import Normalisation
from tests.formats.networks import MBConv

pytestmark = pytest.mark.clients

APPS = Path(__file__).parents[2] / "docs" / "apps"
CACHE = Path(os.environ.get("CLIENTS_CACHE", APPS.parents[1] / ".clients-cache"))
NAMES = ("tench", "Äpfel", "梨", "great white shark", *"abcdef")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = 96
KINDS = {"float32": "float32", "alike": "float32", "uint8": "uint8"}
"""What files take; alike are channels normalised by the same numbers."""


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Of as many weights, in eight bits too, as litert-quantizer puts behind a file."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Hardswish(), MBConv(8, 16, 5, 2), MBConv(16, 16, 3, 1)]
    layers += [nn.Conv2d(16, 600, 1), nn.Hardswish(), nn.Conv2d(600, 480, 1), nn.Hardswish()]
    head = nn.Linear(480, len(NAMES))
    head.weight.data *= 8  # confident
    return calibrated(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head), 3, SIZE)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photographs")
    paths = []
    for number, image in enumerate(load_sample_images().images):
        path = folder / f"{number}.png"
        Image.fromarray(image).resize((SIZE, SIZE)).save(path)
        paths.append(path)
    return paths


def numbers(kind: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the pixels."""
    return ((0.5,) * 3, (0.25,) * 3) if kind == "alike" else (MEAN, STD)


def pixels(paths: list[Path]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(Image.open(path)).transpose(2, 0, 1) for path in paths])


@pytest.fixture(scope="module")
def files(network: nn.Module, photographs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of each format and precision that takes float32, and one that takes pixels."""
    folder, images = tmp_path_factory.mktemp("files"), pixels(photographs)
    images = np.concatenate([images, images[..., ::-1], images[..., ::-1, :]])
    for suffix, name in (("tflite", "tflite"), ("onnx", "onnx")):
        for precision in ("fp32", "fp16", "int8"):
            for kind in KINDS:
                normalisation = Normalisation(*numbers(kind))
                taken = normalisation if kind == "uint8" else None
                said = ModelMetadata("", NAMES, *normalisation, KINDS[kind], precision, "probabilities")
                given = images if taken else normalisation.normalise(images)
                export(
                    network,
                    folder / f"{precision}-{kind}.{suffix}",
                    format=name,
                    input_shape=(1, 3, SIZE, SIZE),
                    metadata=said.to_strings(),
                    precision=precision,
                    inputs=given,
                    calibration=given,
                    pixels=taken,
                    probabilities=True,
                )
    return folder


def classify(client: str, model: Path, photograph: Path) -> dict[str, float]:
    """What the app code of a client prints."""
    image: bytes | None = None
    if client == "ort_web":
        script = CACHE / "node" / "ort_web_classify.mjs"  # beside the packages that it imports
        script.write_bytes((APPS / script.name).read_bytes())
        command = ["node", str(script), str(model), str(SIZE), str(SIZE)]
        image = Image.open(photograph).tobytes()
    else:
        command = [str(CACHE / "venv/bin/python"), str(APPS / f"{client}_classify.py"), str(model), str(photograph)]
    done = subprocess.run(command, input=image, capture_output=True, check=False, timeout=300)
    if done.returncode:
        raise ValueError(done.stderr.decode()[-2000:] if done.returncode > 0 else f"Error: signal {-done.returncode}")
    scores: dict[str, float] = json.loads(done.stdout.decode().splitlines()[-1])
    return scores


ALL = [f"{precision}-{kind}" for precision in ("fp32", "fp16", "int8") for kind in KINDS]
OPENED = {
    ("mediapipe", "tflite"): {name for name in ALL if not name.endswith("float32")},
    ("openvino", "tflite"): set(ALL),
    ("openvino", "onnx"): set(ALL),
    ("tflm", "tflite"): {"fp32-float32", "fp32-alike", "int8-float32", "int8-alike"},
    ("ort_web", "onnx"): set(ALL),
    ("mnn", "tflite"): {name for name in ALL if name.startswith("fp32")},
    ("mnn", "onnx"): {name for name in ALL if not name.startswith("int8")},
}
"""What each client opens; what is not named it refuses."""


TITLES = {
    "mediapipe": "MediaPipe `ImageClassifier` 1.2.3",
    "openvino": "OpenVINO 2026.4",
    "tflm": "TensorFlow Lite for Microcontrollers",
    "ort_web": "onnxruntime-web 1.30",
    "mnn": "MNN's converter 3.6",
}


def table() -> list[str]:
    """The lines of the table in ``docs/export.md``."""
    columns = [(precision, kind) for precision in ("fp32", "fp16", "int8") for kind in KINDS]
    words = {"float32": "float32", "alike": "float32, channels alike", "uint8": "uint8"}
    lines = ["| client | file | " + " | ".join(f"{precision}, {words[kind]}" for precision, kind in columns) + " |"]
    lines.append("| --- " * (len(columns) + 2) + "|")
    for (client, suffix), opened in OPENED.items():
        seen = ["yes" if f"{precision}-{kind}" in opened else "no" for precision, kind in columns]
        lines.append(f"| {TITLES[client]} | .{suffix} | " + " | ".join(seen) + " |")
    return lines


def test_the_table_in_the_documentation_is_what_is_seen_here() -> None:
    text = (APPS.parent / "export.md").read_text(encoding="utf-8")
    assert "\n".join(table()) in text


def test_what_is_picked_for_a_client_is_what_it_opens() -> None:
    for (client, suffix), opened in OPENED.items():
        known = CLIENTS[client.replace("_", "-")]
        assert suffix in known.formats
        for precision in ("fp32", "fp16", "int8"):
            for takes in ("float32", "uint8"):
                promised = precision in known.formats[suffix] and takes in known.inputs
                assert not promised or f"{precision}-{takes}" in opened


def cases() -> Iterator[tuple[str, str, str]]:
    for client, suffix in OPENED:
        yield from ((client, suffix, name) for name in ALL)


@pytest.mark.parametrize(("client", "suffix", "name"), list(cases()))
def test_labels_and_scores_are_those_of_pytorch_or_the_file_is_refused(
    client: str, suffix: str, name: str, network: nn.Module, photographs: list[Path], files: Path
) -> None:
    model = files / f"{name}.{suffix}"
    if name not in OPENED[client, suffix]:
        with pytest.raises(ValueError, match=r"Error|xception"):
            classify(client, model, photographs[0])
        return
    inputs = torch.tensor(Normalisation(*numbers(name.split("-")[1])).normalise(pixels(photographs)))
    with torch.no_grad():
        expected = network.eval()(inputs).softmax(1).numpy()
    for photograph, row in zip(photographs, expected, strict=True):
        scores = classify(client, model, photograph)
        assert set(scores) == set(NAMES)
        found = np.array([scores[label] for label in NAMES])
        assert NAMES[found.argmax()] == NAMES[row.argmax()]
        assert np.abs(found - row).max() < {"fp32": 1e-4, "fp16": 5e-3, "int8": 0.15}[name[:4]]


JAVA = {
    "android.content.Context": "class Context {}",
    "android.graphics.Bitmap": "class Bitmap {}",
    "androidx.camera.core.ImageInfo": "interface ImageInfo { int getRotationDegrees(); }",
    "androidx.camera.core.ImageProxy": "interface ImageProxy {"
    "  ImageInfo getImageInfo(); android.graphics.Bitmap toBitmap(); }",
    "com.google.mediapipe.framework.image.MPImage": "class MPImage {}",
    "com.google.mediapipe.framework.image.BitmapImageBuilder": "class BitmapImageBuilder {"
    "  public BitmapImageBuilder(android.graphics.Bitmap bitmap) {}  public MPImage build() { return null; } }",
    "com.google.mediapipe.tasks.core.BaseOptions": "abstract class BaseOptions {"
    "  public static Builder builder() { return null; }"
    "  public abstract static class Builder {"
    "    public abstract Builder setModelAssetPath(String value);"
    "    public final BaseOptions build() { return null; } } }",
    "com.google.mediapipe.tasks.vision.core.RunningMode": "enum RunningMode { IMAGE, VIDEO, LIVE_STREAM }",
    "com.google.mediapipe.tasks.vision.core.ImageProcessingOptions": "abstract class ImageProcessingOptions {"
    "  public static Builder builder() { return null; }"
    "  public abstract static class Builder {"
    "    public abstract Builder setRotationDegrees(int value);"
    "    public final ImageProcessingOptions build() { return null; } } }",
    "com.google.mediapipe.tasks.components.containers.Category": "abstract class Category {"
    "  public abstract float score();  public abstract String categoryName(); }",
    "com.google.mediapipe.tasks.components.containers.Classifications": "abstract class Classifications {"
    "  public abstract java.util.List<Category> categories(); }",
    "com.google.mediapipe.tasks.components.containers.ClassificationResult": "abstract class ClassificationResult {"
    "  public abstract java.util.List<Classifications> classifications(); }",
    "com.google.mediapipe.tasks.vision.imageclassifier.ImageClassifierResult": "abstract class ImageClassifierResult {"
    "  public abstract com.google.mediapipe.tasks.components.containers.ClassificationResult classificationResult(); }",
    "com.google.mediapipe.tasks.vision.imageclassifier.ImageClassifier": "class ImageClassifier {"
    "  public static ImageClassifier createFromOptions("
    "    android.content.Context context, ImageClassifierOptions options) { return null; }"
    "  public ImageClassifierResult classify(com.google.mediapipe.framework.image.MPImage image,"
    "    com.google.mediapipe.tasks.vision.core.ImageProcessingOptions options) { return null; }"
    "  public void close() {}"
    "  public abstract static class ImageClassifierOptions {"
    "    public static Builder builder() { return null; }"
    "    public abstract static class Builder {"
    "      public abstract Builder setBaseOptions(com.google.mediapipe.tasks.core.BaseOptions options);"
    "      public abstract Builder setRunningMode(com.google.mediapipe.tasks.vision.core.RunningMode mode);"
    "      public abstract Builder setMaxResults(Integer number);"
    "      public final ImageClassifierOptions build() { return null; } } } }",
}
"""What the Kotlin uses of Android, CameraX and MediaPipe Tasks, as their sources declare it; their own packages are not
to be had where the tests run."""


def test_the_kotlin_compiles(tmp_path: Path) -> None:
    for name, body in JAVA.items():
        package, _, _ = name.rpartition(".")
        source = tmp_path / "declared" / Path(*name.split(".")).with_suffix(".java")
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(f"package {package};\npublic {body}\n")
    compiler = CACHE / "node/node_modules/kotlin-compiler/bin/kotlinc"
    command = [
        "bash",
        str(compiler),
        str(APPS / "Classifier.kt"),
        str(tmp_path / "declared"),
        "-Werror",
        "-d",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "Classifier.class").exists()


def test_the_swift_is_grammatical() -> None:
    read = (
        "import sys, tree_sitter, tree_sitter_swift; language = tree_sitter.Language(tree_sitter_swift.language());"
        "print(tree_sitter.Parser(language).parse(sys.stdin.buffer.read()).root_node.has_error)"
    )
    text = (APPS / "Classifier.swift").read_bytes()
    for content, expected in ((text, "False"), (text.replace(b"throws {", b"throws"), "True")):
        command = [str(CACHE / "venv/bin/python"), "-c", read]
        done = subprocess.run(command, input=content, capture_output=True, check=True, timeout=60)
        assert done.stdout.decode().strip() == expected
