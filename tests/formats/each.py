"""The formats as tests go through them: ExecuTorch's, whose package brings twenty others, in ``make test-clients``."""

from typing import Any

import pytest

from fbnet_mobile.formats.base import FORMATS

APART = ("executorch",)
TOGETHER = tuple(entry for entry in FORMATS.values() if entry.name not in APART)
"""Those whose packages every test has."""


def each(name: str, *more: str) -> Any:
    """A case of a format or a runtime, left to ``make test-clients`` if its package is apart."""
    return pytest.param(name, *more, marks=pytest.mark.clients if name in APART else ())


EACH = [each(name) for name in FORMATS]
