"""What a recipe may hold, checked in one place."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fbnet_mobile.api.call import described
from fbnet_mobile.errors import UserError
from fbnet_mobile.recipe import build, check, option, recipe_fields


@dataclass(frozen=True, kw_only=True)
class Recipe:
    epochs: int = option(3, help="Passes.", low=1, high=10)
    rate: float = option(0.1, help="Of learning.", above=0, below=1)
    decay: float | None = option(None, help="Of weights.", low=0)
    mode: str = option("one", help="How.", choices=("one", "other"))
    names: tuple[str, ...] = option((), help="Several.")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs is 0; give a whole number from 1 to 10"),
        ({"epochs": 10**400}, "epochs is 10000"),
        ({"epochs": 10**5000}, "epochs is a number of thousands of digits; give"),
        ({"epochs": True}, "epochs is True; give a whole number"),
        ({"epochs": 2.0}, "epochs is 2.0; give a whole number"),
        ({"rate": 0}, "rate is 0; give a finite number above 0 and below 1"),
        ({"rate": math.nan}, "rate is nan; give a finite number above 0 and below 1"),
        ({"decay": math.inf}, "decay is inf; give a finite number of at least 0"),
        ({"mode": "oen"}, "unknown mode 'oen'; did you mean 'one'?"),
        ({"mode": "a\nb" * 999}, "unknown mode"),
        ({"mode": 3}, "mode is 3; give a text"),
        ({"names": ("a", 3)}, "names is 3; give a text"),
    ],
)
def test_a_field_that_cannot_be_is_one_short_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        check(Recipe(**values))
    said = str(refused.value)
    assert said.startswith(message)
    assert "\n" not in said
    assert len(said) < 200


def test_bounds_themselves_none_and_whole_numbers_for_fractions_are_taken() -> None:
    check(Recipe(epochs=10, decay=0, mode="other", names=("a", "b")))
    check(Recipe(epochs=1, rate=0.999))


@dataclass(frozen=True, kw_only=True)
class Depends:
    within: Path | None = option(None, help="A start.")
    epochs: int = option(90, given={"within": 8}, help="Passes.")


@pytest.mark.parametrize(
    ("given", "epochs"),
    [({}, 90), ({"within": None}, 90), ({"within": "best.pt"}, 8), ({"within": "best.pt", "epochs": 90}, 90)],
)
def test_a_default_may_be_another_where_something_is_given(given: dict[str, Any], epochs: int) -> None:
    assert build(Depends, given).epochs == epochs
    (item,) = (item for item in recipe_fields(Depends) if item.name == "epochs")
    assert described(item) == "[default: 90, with --within 8]"
