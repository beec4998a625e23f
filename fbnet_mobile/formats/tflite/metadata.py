"""What a TFLite file says of itself: the strings of one metadata buffer, a JSON object."""

import json
import math
from pathlib import Path

from fbnet_mobile.errors import UserError

METADATA = "fbnet_mobile"
"""Name of the metadata buffer that our own files have."""
SIGNATURE = "serving_default"
"""Name of the one signature of our own files."""

_IDENTIFIER = b"TFL3"
_MOST_VALUES = 2**28
"""In a tensor; a file that is damaged may say any number, and its runtime would ask for the memory."""


def recognises(path: Path) -> bool:
    """Whether a file begins as every TFLite file does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(8)[4:] == _IDENTIFIER


def read_metadata(path: Path) -> dict[str, str]:
    """Return the strings of the buffer :data:`METADATA`.

    Raises:
        UserError: it is no TFLite file, or damaged, so that a tensor would be larger than any memory.
    """
    if not recognises(path):
        raise UserError(f"{path} is no TFLite file; export it again")
    from ai_edge_litert import schema_py_generated as schema  # not there beside an old tflite_runtime

    try:
        model = schema.Model.GetRootAs(path.read_bytes(), 0)
        graphs = [model.Subgraphs(index) for index in range(model.SubgraphsLength())]
        tensors = [graph.Tensors(index) for graph in graphs for index in range(graph.TensorsLength())]
        shapes = [[tensor.Shape(axis) for axis in range(tensor.ShapeLength())] for tensor in tensors]
        if (largest := max(map(math.prod, shapes), default=0)) > _MOST_VALUES:
            raise UserError(f"{path} is damaged: a tensor in it would have {largest:,} values; export it again")
        for index in range(model.MetadataLength()):
            entry = model.Metadata(index)
            if entry.Name() == METADATA.encode():
                strings = json.loads(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
                return {str(key): str(value) for key, value in strings.items()}
    except UserError:
        raise
    except Exception as error:  # whatever offsets that point anywhere end in
        raise UserError(f"{path} is damaged, so its metadata cannot be read; export it again") from error
    return {}
