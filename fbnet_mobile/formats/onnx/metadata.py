"""What an ONNX file says of itself: the strings of ``metadata_props``, ours and those that others look for."""

import json
from pathlib import Path

import onnx

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.metadata import ModelMetadata
from fbnet_mobile.graph.operations import Graph

_USUAL = frozenset(
    {"model_author", "model_license", "Image.BitmapPixelFormat", "Image.ColorSpaceGamma", "Image.NominalPixelRange"}
    | {"task", "names", "imgsz"}
)
"""The names of https://github.com/onnx/onnx/blob/main/docs/MetadataProps.md, and those that ultralytics' files have."""


def usual(graph: Graph, metadata: ModelMetadata) -> dict[str, str]:
    """Return what the metadata say under the names that others look for; those of nothing are left out."""
    channels = graph.input_shape[1]
    pictures = len(graph.input_shape) == 4 and channels in (1, 3)
    found = {"model_author": metadata.author, "model_license": metadata.license}
    if pictures:
        found["Image.BitmapPixelFormat"] = "Rgb8" if channels == 3 else "Gray8"
        found["Image.ColorSpaceGamma"] = "SRGB"
        found["Image.NominalPixelRange"] = "NominalRange_0_255" if metadata.input == "uint8" else ""
    if pictures and graph.shapes()[graph.output] == (1, len(metadata.classes)):
        found["task"] = "classify"
        found["names"] = repr(dict(enumerate(metadata.classes)))
        found["imgsz"] = json.dumps(graph.input_shape[2:])
    return {name: text for name, text in found.items() if text}


def recognises(path: Path) -> bool:
    """Whether a file is an ONNX model; what is none may still parse as one, an empty file for instance."""
    try:
        model = _load(path)
    except UserError:
        return False
    return model.ir_version > 0 and len(model.graph.node) > 0


def read_metadata(path: Path) -> dict[str, str]:
    """Return the model's ``metadata_props``, less what :func:`usual` repeats."""
    return {entry.key: entry.value for entry in _load(path).metadata_props if entry.key not in _USUAL}


def _load(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load_model(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError, which is no more precise
        raise UserError(f"{path} is no ONNX file; export it again") from error
