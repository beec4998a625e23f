"""What a TFLite file needs when it is done, beside what LiteRT needs to run it."""

import struct
from collections.abc import Mapping
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema

from fbnet_mobile.formats.metadata import ModelMetadata
from fbnet_mobile.formats.tflite.metadata import recognises
from fbnet_mobile.formats.tflite.standard import STANDARD, append_labels

_ELSEWHERE = 127
"""As the old code of an operation: it is one whose code did not fit the old field, of one byte."""
_OPERATOR_CODES = 6
"""Place of the operations' codes in the table of a model, in bytes: its second field."""


def finish(path: Path, metadata: Mapping[str, str]) -> None:
    """Add the label file that the standard metadata name, and the old codes of operations."""
    if not recognises(path):  # LiteRT says so
        return
    content = path.read_bytes()
    model = schema.Model.GetRootAs(content, 0)
    codes = [model.OperatorCodes(index) for index in range(model.OperatorCodesLength())]
    if any(code.DeprecatedBuiltinCode() != min(code.BuiltinCode(), _ELSEWHERE) for code in codes):
        path.write_bytes(_with_old_codes(content))
    names = {model.Metadata(index).Name() for index in range(model.MetadataLength())}
    known = ModelMetadata.from_strings(metadata)
    if known is not None and STANDARD.encode() in names:
        append_labels(path, known.classes)


def _with_old_codes(content: bytes) -> bytes:
    """Return a model with both codes of each operation.

    litert-quantizer leaves the old one of what it adds at 0, which is an addition to a reader that looks at the old
    one first, as OpenVINO's does. A field that was left out has no place in its table, so another table is put behind
    the model, where what else is there (weights, by their places in the file) stays where it is.
    """
    model, made = schema.Model.GetRootAs(content, 0), bytearray(content)
    table = model._tab
    vector = table.Vector(table.Offset(_OPERATOR_CODES))
    for index in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(index)
        old = min(code.BuiltinCode(), _ELSEWHERE)
        if code.DeprecatedBuiltinCode() == old or code.CustomCode() is not None:
            continue
        made += b"\0" * (-len(made) % 4)
        # Its table of places: their size, the table's size, and where the fields are: old code, name, version, code.
        made += struct.pack("<6H", 12, 16, 12, 0, 8, 4)
        entry = vector + 4 * index
        struct.pack_into("<I", made, entry, len(made) - entry)
        made += struct.pack("<3ib3x", 12, code.BuiltinCode(), code.Version(), old)
    return bytes(made)
