"""What a program says of itself: the strings of one method that returns them, a JSON object."""

import json
from pathlib import Path

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.packages import needs, quiet

METADATA = "fbnet_mobile"
"""Name of the method, beside ``forward``, that our own files have."""

_IDENTIFIER = b"ET"


def recognises(path: Path) -> bool:
    """Whether a file begins as every program does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(6)[4:] == _IDENTIFIER


def read_metadata(path: Path) -> dict[str, str]:
    """Return the strings of the method :data:`METADATA`."""
    if not recognises(path):
        raise UserError(f"{path} is no ExecuTorch program; export it again")
    with needs("executorch", "fbnet-mobile[executorch]"), quiet():
        from executorch.runtime import Runtime
    try:
        with quiet():
            program = Runtime.get().load_program(path)
            if METADATA not in program.method_names:
                return {}
            (text,) = program.load_method(METADATA).execute([])
        return {str(key): str(value) for key, value in json.loads(text).items()}
    except Exception as error:  # RuntimeError, or whatever a method of another kind gives
        raise UserError(f"{path} is damaged, so its metadata cannot be read; export it again") from error
