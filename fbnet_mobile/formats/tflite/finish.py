"""What a TFLite file needs when it is done, beside what LiteRT needs to run it."""

from collections.abc import Mapping
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema

from fbnet_mobile.formats.metadata import ModelMetadata
from fbnet_mobile.formats.tflite.flatbuffer import is_plain, packed, parsed
from fbnet_mobile.formats.tflite.metadata import recognises
from fbnet_mobile.formats.tflite.standard import STANDARD, append_labels


def finish(path: Path, metadata: Mapping[str, str]) -> None:
    """Put what other readers look for where they do, and add the label file that the standard metadata name."""
    if not recognises(path):  # LiteRT says so
        return
    content = path.read_bytes()
    if not is_plain(content):
        path.write_bytes(packed(parsed(content)))
    model = schema.Model.GetRootAs(content, 0)
    names = {model.Metadata(index).Name() for index in range(model.MetadataLength())}
    known = ModelMetadata.from_strings(metadata)
    if known is not None and STANDARD.encode() in names:
        append_labels(path, known.classes)
