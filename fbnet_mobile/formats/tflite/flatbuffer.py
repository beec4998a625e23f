"""TFLite files as objects, and back."""

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

_ELSEWHERE = 127
"""As the old code of an operation: it is one whose code did not fit the old field, of one byte."""


def is_plain(content: bytes) -> bool:
    """Whether a file is one that :func:`packed` might have written, as far as its readers differ."""
    model = schema.Model.GetRootAs(content, 0)
    codes = [model.OperatorCodes(index) for index in range(model.OperatorCodesLength())]
    old = all(code.DeprecatedBuiltinCode() == min(code.BuiltinCode(), _ELSEWHERE) for code in codes)
    return old and not any(model.Buffers(index).Offset() for index in range(model.BuffersLength()))


def parsed(content: bytes) -> schema.ModelT:
    """Read a file, with weights that are behind it."""
    return flatbuffer_utils.read_model_from_bytearray(content)


def packed(model: schema.ModelT) -> bytes:
    """Write a file that all readers understand.

    litert-quantizer puts weights, where they are more than 256 KiB, behind the file, where LiteRT finds them; to TFLite
    Micro's interpreter they are zeros. And it leaves the old code of the operations that it adds at 0, which is an
    addition to a reader that looks at the old one first, as OpenVINO's does.
    """
    for buffer in model.buffers:
        if buffer.data is not None:
            buffer.data = np.frombuffer(buffer.data, np.uint8)  # anything else is written byte by byte
    for code in model.operatorCodes:
        code.deprecatedBuiltinCode = min(code.builtinCode, _ELSEWHERE)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
