"""What a TFLite file says of itself: the strings of one metadata buffer, a JSON object."""

import json
from pathlib import Path

from fbnet_mobile.errors import UserError

METADATA = "fbnet_mobile"
"""Name of the metadata buffer that our own files have."""
SIGNATURE = "serving_default"
"""Name of the one signature of our own files."""

_IDENTIFIER = b"TFL3"


def recognises(path: Path) -> bool:
    """Whether a file begins as every TFLite file does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(8)[4:] == _IDENTIFIER


def read_metadata(path: Path) -> dict[str, str]:
    """Return the strings of the buffer :data:`METADATA`."""
    if not recognises(path):
        raise UserError(f"{path} is no TFLite file; export it again")
    from ai_edge_litert import schema_py_generated as schema  # not there beside an old tflite_runtime

    try:
        content = path.read_bytes()
        model = schema.Model.GetRootAs(content, 0)
        for index in range(model.MetadataLength()):
            entry = model.Metadata(index)
            if entry.Name() == METADATA.encode():
                buffer = model.Buffers(entry.Buffer())
                start, size = buffer.Offset(), buffer.Size()
                # litert-quantizer puts what is not small behind the model and says where; 0 and 1 say that it does not.
                text = content[start : start + size] if start > 1 else buffer.DataAsNumpy().tobytes()
                strings = json.loads(text)
                return {str(key): str(value) for key, value in strings.items()}
    except Exception as error:  # whatever offsets that point anywhere end in
        raise UserError(f"{path} is damaged, so its metadata cannot be read; export it again") from error
    return {}
