"""Files of the user's: written whole or not at all, read with errors of one line."""

import difflib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from fbnet_mobile.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


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


def read_text(path: Path) -> str:
    """The text of a user's file.

    Raises:
        UserError: it is missing, not readable or not text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: not a text file") from error


def parse_yaml(text: str, where: str) -> object:
    """Parse YAML without tags.

    Raises:
        UserError: it is not YAML; the message has ``where`` and the line.
    """
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{where}{line}: not valid YAML ({error.problem or error.context})") from error
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML") from error


def validated(model: type[Model], data: object, where: str) -> Model:
    """Check ``data`` against a pydantic model.

    Raises:
        UserError: the first thing that is wrong, in one line; a misspelt field gets the nearest known one.
    """
    try:
        return model.model_validate(data)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except ValidationError as error:
        raise UserError(f"{where}: {first_problem(error, tuple(model.model_fields))}") from error


def first_problem(error: ValidationError, known_fields: Sequence[str] = ()) -> str:
    """One line for the first thing that pydantic found wrong; a misspelt field before one that is then missing."""
    problems = error.errors(include_url=False)
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    field = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), known_fields, n=1)
        message = "unknown field" + (f"; did you mean {near[0]!r}?" if near else "")
    return f"{field}: {message}" if field else message
