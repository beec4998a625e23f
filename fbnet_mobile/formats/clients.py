"""What apps open files with, and what each needs of a file: which ``tests/clients`` saw, but for ML Kit.

The table in ``docs/export.md`` is this one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fbnet_mobile.errors import UserError


@dataclass(frozen=True)
class Client:
    """What opens a file in an app.

    Attributes:
        title: its name in a message.
        formats: that it opens, each with the precisions that it opens of it.
        inputs: what a file that it opens may take, the first being what is picked.
        scores: what a file that it opens must give; "" for either.
        because: why it opens nothing else, by the field of the recipe that asks for it.
    """

    title: str
    formats: Mapping[str, tuple[str, ...]]
    inputs: tuple[str, ...] = ("float32", "uint8")
    scores: str = ""
    because: Mapping[str, str] | None = None


_ALL = ("fp32", "fp16", "int8")

CLIENTS: Mapping[str, Client] = {
    "mediapipe": Client(
        "MediaPipe's ImageClassifier",
        {"tflite": _ALL},
        inputs=("uint8",),
        scores="probabilities",
        because={
            "input": "it normalises all channels by the same numbers, so the file must normalise the pixels itself",
            "scores": "it shows what the file gives as scores from 0 to 1",
        },
    ),
    "openvino": Client("OpenVINO", {"onnx": _ALL, "tflite": _ALL}),
    "tflm": Client(
        "TensorFlow Lite for Microcontrollers",
        {"tflite": ("fp32", "int8")},
        inputs=("float32", "int8"),
        because={
            "precision": "it computes with no 16-bit weights",
            "input": "it casts no pixels to floats",
        },
    ),
    "ort-web": Client("onnxruntime-web", {"onnx": _ALL}),
    "mnn": Client(
        "MNN's converter",
        {"onnx": ("fp32", "fp16"), "tflite": ("fp32",)},
        because={"precision": "it fails on it; its own mnnquant makes fewer bits of the converted file"},
    ),
    "ml-kit": Client(
        "ML Kit",
        {"tflite": _ALL},
        inputs=("uint8",),
        scores="probabilities",
        because={
            "input": "its documentation asks for metadata then, which nobody saw it read; pixels need none",
            "scores": "it shows what the file gives as scores from 0 to 1",
        },
    ),
}
"""By the names that users write. ML Kit's needs are those that its documentation states; nobody ran it here."""


def suit(name: str, *, format: str, precision: str, input: str | None, scores: str | None) -> tuple[str, str | None]:  # noqa: A002
    """Return what a file for a client takes and what it gives for each class; None for what suits the network.

    Args:
        name: a key of :data:`CLIENTS`.
        format: of the file.
        precision: of the file.
        input: what was asked that it takes; None to pick.
        scores: what was asked that it gives; None to pick.

    Raises:
        UserError: the client opens no such file; the message has the reason.
    """
    client = CLIENTS[name]
    chosen_input, chosen_scores = input or client.inputs[0], scores or client.scores or None
    for field, value, opened in (
        ("format", format, tuple(client.formats)),
        ("precision", precision, client.formats.get(format, ())),
        ("input", chosen_input, client.inputs),
        ("scores", chosen_scores, (client.scores,) if client.scores else (chosen_scores,)),
    ):
        if value not in opened:
            reason = (client.because or {}).get(field)
            raise UserError(
                f"{client.title} does not open files with {field} {value}{f': {reason}' if reason else ''}; give "
                f"{' or '.join(map(str, opened))}, or leave out --for"
            )
    return chosen_input, chosen_scores
