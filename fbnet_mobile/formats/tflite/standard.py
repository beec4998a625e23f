"""TFLite's standard metadata: what MediaPipe Tasks, ML Kit and Android Studio read of a file.

A FlatBuffer of the schema ``metadata_schema.fbs`` of TensorFlow Lite Support, in the file's metadata buffer
:data:`STANDARD`; the label file that it names stands behind the model, as a ZIP archive. See
https://ai.google.dev/edge/litert/conversion/tensorflow/metadata.
"""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np

from fbnet_mobile.formats.metadata import ModelMetadata
from fbnet_mobile.graph.operations import Graph

STANDARD = "TFLITE_METADATA"
"""Name of the metadata buffer."""
LABELS = "labels.txt"
"""Name of the label file: a name a line, in the order of the outputs."""

_IDENTIFIER = b"M001"
_PARSER = "1.0.0"  # the oldest reader of the schema, which has all that is used here

# Numbers of the schema: of names in its enumerations, and of tables in its unions.
_COLOURS = {1: np.int8(2), 3: np.int8(1)}
_FEATURE, _IMAGE = np.uint8(1), np.uint8(2)
_NORMALISATION, _THRESHOLD = np.uint8(1), np.uint8(3)
_AXIS_LABELS = np.int8(2)

Table = dict[int, Any]
"""A table of the schema: its fields by their place in it, where a union has two, its kind and its table."""


def describes(graph: Graph, metadata: ModelMetadata) -> bool:
    """Whether a network is what the metadata can describe: of one picture, which gives one number a class."""
    output = graph.shapes()[graph.output]
    return len(graph.input_shape) == 4 and graph.input_shape[1] in _COLOURS and output == (1, len(metadata.classes))


def pack(graph: Graph, metadata: ModelMetadata) -> bytes:
    """Return the content of the buffer for a network that it :func:`describes`."""
    _, channels, height, width = graph.input_shape
    mean, std = (np.array(numbers, np.float32) * np.float32(255) for numbers in (metadata.mean, metadata.std))
    low, high = np.zeros(channels, np.float32), np.full(channels, 255, np.float32)
    image: Table = {
        0: "image",
        1: "The picture to be classified.",
        3: {0: _IMAGE, 1: {0: _COLOURS[channels], 1: {0: np.uint32(width), 1: np.uint32(height)}}},
    }
    if metadata.input == "float32":
        image[4] = [{0: _NORMALISATION, 1: {0: mean, 1: std}}]
        low, high = (low - mean) / std, (high - mean) / std
    image[5] = {0: high, 1: low}
    scores: Table = {
        0: metadata.scores,
        1: f"The {'probability' if metadata.scores == 'probabilities' else 'logit'} of each class.",
        3: {0: _FEATURE, 1: {}},
        6: [{0: LABELS, 1: "The name of each class.", 2: _AXIS_LABELS}],
    }
    if metadata.scores == "probabilities":
        scores[5] = {0: np.ones(1, np.float32), 1: np.zeros(1, np.float32)}
    if metadata.score_threshold:
        scores[4] = [{0: _THRESHOLD, 1: {0: np.float32(metadata.score_threshold)}}]
    model: Table = {
        0: "image classifier",
        1: metadata.description,
        2: metadata.version,
        3: [{2: [image], 3: [scores]}],
        4: metadata.author,
        5: metadata.license,
        7: _PARSER,
    }
    builder = flatbuffers.Builder()
    builder.Finish(_table(builder, model), _IDENTIFIER)
    return bytes(builder.Output())


def append_labels(path: Path, classes: Sequence[str]) -> None:
    """Put the label file behind the model in a file."""
    entry = zipfile.ZipInfo(LABELS, (1980, 1, 1, 0, 0, 0))
    entry.create_system, entry.external_attr = 3, 0o644 << 16  # whatever the system that writes it
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, "".join(f"{' '.join(name.split())}\n" for name in classes))


def _table(builder: Any, fields: Table) -> int:
    """Write a table after all that it refers to, and return where it is; fields of no text are left out."""
    kept: Mapping[int, Any] = {place: value for place, value in fields.items() if not isinstance(value, str) or value}
    parts = {place: _part(builder, value) for place, value in kept.items() if not isinstance(value, np.generic)}
    builder.StartObject(max(kept, default=-1) + 1)
    for place, value in kept.items():
        if place in parts:
            builder.PrependUOffsetTRelativeSlot(place, parts[place], 0)
        else:
            getattr(builder, f"Prepend{type(value).__name__.capitalize()}Slot")(place, value.item(), 0)
    return int(builder.EndObject())


def _part(builder: Any, value: Any) -> int:
    """Write a text, a vector of numbers, a table or a vector of tables, and return where it is."""
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, np.ndarray):
        return int(builder.CreateNumpyVector(value))
    if isinstance(value, dict):
        return _table(builder, value)
    tables = [_table(builder, each) for each in value]
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return int(builder.EndVector())
