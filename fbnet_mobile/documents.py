"""YAML and JSON: a user's text to checked records, and records to text."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path, PurePath
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.files import is_regular, write_whole
from fbnet_mobile.registry import nearest

Model = TypeVar("Model", bound=BaseModel)

_YAML_CHARACTERS, _YAML_DEPTH, _YAML_NODES, _YAML_DIGITS = 2**18, 40, 50_000, 18


class _Loader(yaml.SafeLoader):
    """Plain YAML of bounded depth, size and digits; a date stays text."""

    # Without dates: 2026-02-30 is then text like any other, and refused by the field that it stands in.
    yaml_implicit_resolvers = {  # noqa: RUF012  (yaml's own name for it)
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """One value, counted as often as aliases repeat it."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        mark, self._depth = event.start_mark, self._depth + 1
        if self._depth > _YAML_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested more than {_YAML_DEPTH} deep", problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise yaml.MarkedYAMLError(problem="a value inside itself", problem_mark=mark)
            return node
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        else:
            children = node.value if isinstance(node, yaml.SequenceNode) else []
        size = 1 + sum(self._sizes[id(child)] for child in children)
        self._sizes[id(node)] = size
        if size > _YAML_NODES:
            raise yaml.MarkedYAMLError(problem=f"more than {_YAML_NODES:,} values", problem_mark=mark)
        return node

    def construct_scalar(self, node: Any) -> Any:
        """Text, but no halves of characters."""
        value = super().construct_scalar(node)
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise yaml.MarkedYAMLError(problem="half of a surrogate pair", problem_mark=node.start_mark)
        return value

    def construct_yaml_int(self, node: Any) -> int:
        """A number of at most 18 digits."""
        if len(node.value) > _YAML_DIGITS + 2:
            raise yaml.MarkedYAMLError(
                problem=f"a number of more than {_YAML_DIGITS} digits", problem_mark=node.start_mark
            )
        return int(super().construct_yaml_int(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def parse_yaml(text: str, where: str) -> object:
    """Parse YAML without tags: at most 256 Ki characters, 40 levels, 50,000 values, and 18 digits of an integer.

    Raises:
        UserError: it is not YAML, or exceeds these bounds; the message has ``where`` and the line.
    """
    where = shown(where)
    if len(text) > _YAML_CHARACTERS:
        raise UserError(f"{where}: {len(text):,} characters; at most {_YAML_CHARACTERS:,} are read")
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{where}{line}: not valid YAML ({shown(error.problem or error.context)})") from error
    # What constructors raise for values that an explicit tag does not fit, such as `!!int x`.
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{where}: not valid YAML") from error


def validated(model: type[Model], data: object, where: str) -> Model:
    """Check ``data`` against a pydantic model.

    Raises:
        UserError: the first thing that is wrong, in one line; a misspelt field gets the nearest known one.
    """
    where = shown(where)
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
    field = shown(".".join(str(part) for part in first["loc"]))
    message = shown(first["msg"].removeprefix("Value error, "))
    if first["type"] == "extra_forbidden":
        message = f"unknown field{nearest(str(first['loc'][-1]), known_fields)}"
    return f"{field}: {message}" if field else message


def to_plain(record: Any) -> Any:
    """A record as what JSON has: fields by name, tuples as lists, paths as text, null for what is no finite number."""
    if is_dataclass(record) and not isinstance(record, type):
        return {item.name: to_plain(getattr(record, item.name)) for item in fields(record)}
    if isinstance(record, Mapping):
        return {str(name): to_plain(value) for name, value in record.items()}
    if isinstance(record, list | tuple | set | frozenset):
        return [to_plain(value) for value in record]
    if isinstance(record, PurePath):
        return str(record)
    if isinstance(record, float):
        return record if math.isfinite(record) else None
    if record is None or isinstance(record, bool | int | str):
        return record
    if hasattr(record, "item"):  # a number of numpy's or torch's
        return to_plain(record.item())
    raise TypeError(f"{type(record).__name__} has no form in JSON; give records fields that have")


def to_json(record: Any) -> str:
    """A record as one JSON document, with a line's end."""
    return json.dumps(to_plain(record), indent=2, allow_nan=False) + "\n"


def write_json(path: Path, record: Any, *, replaces: Callable[[Path], bool] = is_regular) -> None:
    """Write a record as JSON; see ``to_plain`` and ``write_whole``.

    Raises:
        UserError: see ``write_whole``.
        JobError: see ``write_whole``.
    """
    with write_whole(path, replaces=replaces) as partial:
        partial.write_text(to_json(record), encoding="utf-8")


def read_record(path: Path, kind: str) -> dict[str, Any] | None:
    """A record that was written as JSON and says its ``kind``; None where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and content.get("kind") == kind else None
