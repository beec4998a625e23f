"""Records as JSON."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fbnet_mobile.documents import to_json


@dataclass(frozen=True)
class Row:
    loss: float
    name: str


@dataclass(frozen=True)
class Record:
    path: Path
    rows: tuple[Row, ...]
    by_name: dict[str, Any]


def test_numbers_that_json_has_not_are_null_and_paths_are_text() -> None:
    rows = (Row(math.nan, "a"), Row(-math.inf, "b"), Row(0.5, "c"))
    by_name = {"count": np.int64(3), "share": np.float32("nan"), "none": None, "yes": True}
    assert json.loads(to_json(Record(Path("a/b"), rows, by_name)), parse_constant=pytest.fail) == {
        "path": "a/b",
        "rows": [{"loss": None, "name": "a"}, {"loss": None, "name": "b"}, {"loss": 0.5, "name": "c"}],
        "by_name": {"count": 3, "share": None, "none": None, "yes": True},
    }


def test_what_has_no_form_in_json_is_refused_and_not_written_as_its_address() -> None:
    with pytest.raises(TypeError, match="object has no form in JSON"):
        to_json(object())
