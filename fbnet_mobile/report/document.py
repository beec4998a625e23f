"""Records as JSON."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any


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
