"""Writing a file or folder so that it is either whole or not there."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fbnet_mobile.errors import UserError


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to, and move it into place if the block succeeds.

    The temporary path has the suffix of ``path`` and does not exist yet: write a file or make a folder there.
    Whatever stood at ``path`` is replaced; if the block raises, ``path`` is untouched and nothing is left.

    Raises:
        UserError: the folder cannot be created or written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another output path") from error
    try:
        partial = scratch / path.name
        yield partial
        if path.is_dir():
            if not partial.is_dir():
                raise UserError(f"cannot write {path}: a folder of that name exists; choose another output path")
            shutil.rmtree(path)
        partial.replace(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
