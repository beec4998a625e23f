"""What an ONNX file says of itself: the strings of ``metadata_props``."""

from pathlib import Path

import onnx

from fbnet_mobile.errors import UserError


def recognises(path: Path) -> bool:
    """Whether a file is an ONNX model; what is none may still parse as one, an empty file for instance."""
    try:
        model = _load(path)
    except UserError:
        return False
    return model.ir_version > 0 and len(model.graph.node) > 0


def read_metadata(path: Path) -> dict[str, str]:
    """Return the model's ``metadata_props``."""
    return {entry.key: entry.value for entry in _load(path).metadata_props}


def _load(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load_model(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError, which is no more precise
        raise UserError(f"{path} is no ONNX file; export it again") from error
