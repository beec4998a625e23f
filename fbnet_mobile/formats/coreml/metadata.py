"""What a Core ML package says of itself: its user-defined metadata."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.packages import quiet

OWN_KEYS = "com.github.apple.coremltools."
"""Prefix of the metadata that coremltools adds."""
PREVIEW = "com.apple.coreml.model.preview.type"
"""Name of the entry by which Xcode lets one try a model."""

_PARTS = {"Manifest.json", "Data"}
_SCRATCH = re.compile(r"Manifest\.[0-9a-f-]{36}")


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Remove what coremltools leaves in a package that it reads on a full disk: it writes the list of items anew."""
    try:
        yield
    finally:
        for entry in path.iterdir() if path.is_dir() else ():
            if _SCRATCH.fullmatch(entry.name):
                with suppress(OSError):
                    entry.unlink()


def recognises(path: Path) -> bool:
    """Whether a folder is a package: a manifest that names a model's parts, their folder, and nothing besides."""
    try:
        if {entry.name for entry in path.iterdir() if not _SCRATCH.fullmatch(entry.name)} != _PARTS:
            return False
        manifest = json.loads((path / "Manifest.json").read_text(encoding="utf-8"))
        return isinstance(manifest, dict) and "rootModelIdentifier" in manifest and "itemInfoEntries" in manifest
    except (OSError, ValueError):
        return False


def read_metadata(path: Path) -> dict[str, str]:
    """Return the package's user-defined metadata, less what coremltools and Xcode have there."""
    with quiet(), opening(path):
        import coremltools as ct

        try:
            model = ct.models.MLModel(str(path), skip_model_load=True)
            entries = dict(model.user_defined_metadata)
        except Exception as error:  # coremltools raises plain Exception and RuntimeError for what it cannot read
            raise UserError(f"{path} is no Core ML package; export it again") from error
    return {key: value for key, value in entries.items() if not key.startswith(OWN_KEYS) and key != PREVIEW}
