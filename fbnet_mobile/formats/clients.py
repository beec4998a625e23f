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
        formats: that it opens.
        precisions: that it opens.
        inputs: what a file that it opens may take, the first being what is picked.
        scores: what a file that it opens must give; "" for either.
        because: why it opens nothing else, by the field of the recipe that asks for it.
    """

    title: str
    formats: tuple[str, ...]
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    inputs: tuple[str, ...] = ("float32", "uint8")
    scores: str = ""
    because: Mapping[str, str] | None = None


CLIENTS: Mapping[str, Client] = {
    "mediapipe": Client(
        "MediaPipe's ImageClassifier",
        ("tflite",),
        inputs=("uint8",),
        scores="probabilities",
        because={
            "input": "it normalises all channels by the same numbers, so the file must normalise the pixels itself",
            "scores": "it shows what the file gives as scores from 0 to 1",
        },
    ),
    "openvino": Client("OpenVINO", ("onnx", "tflite")),
    "tflm": Client(
        "TensorFlow Lite for Microcontrollers",
        ("tflite",),
        precisions=("fp32", "int8"),
        inputs=("float32", "int8"),
        because={
            "precision": "it computes with no 16-bit weights",
            "input": "it casts no pixels to floats",
        },
    ),
    "ort-web": Client("onnxruntime-web", ("onnx",)),
    "ml-kit": Client(
        "ML Kit",
        ("tflite",),
        inputs=("uint8",),
        scores="probabilities",
        because={
            "input": "it reads the pixels as they are, so the file must normalise them itself",
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
        ("format", format, client.formats),
        ("precision", precision, client.precisions),
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
