"""What can be limited, as a user names it."""

import subprocess
import sys
from typing import Any

import pytest

from fbnet_mobile.arch import Block
from fbnet_mobile.cost.constraint import limit_on
from fbnet_mobile.cost.quantity import QUANTITIES, Quantity
from fbnet_mobile.errors import UserError
from fbnet_mobile.space import load_space


@pytest.mark.parametrize(
    ("name", "text", "value", "readable"),
    [
        ("latency", "12ms", 12_000.0, "12000.0 us"),
        ("latency", " 350 us ", 350.0, "350.0 us"),
        ("latency", "0.1s", 100_000.0, "100000.0 us"),
        ("macs", "60M", 60e6, "60,000,000"),
        ("params", "1.5M", 1.5e6, "1,500,000"),
        ("peak_activations", "300k", 300e3, "300,000"),
    ],
)
def test_limits_as_a_user_writes_them(name: str, text: str, value: float, readable: str) -> None:
    quantity = QUANTITIES.get(name)
    assert quantity.parse(text) == value
    assert quantity.readable(value) == readable


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "1e9", "3 apples", "5ms", "9" * 400, "1,5M", "٣M"])
def test_what_is_no_count_is_refused_in_a_short_line(text: str) -> None:
    with pytest.raises(UserError, match=r"is not a count; write a number such as 1\.5M or 300k") as refused:
        QUANTITIES.get("macs").parse(text)
    assert len(str(refused.value)) < 120


def test_names_columns_and_options() -> None:
    assert [QUANTITIES.get(name).option for name in ("macs", "params", "peak_activations")] == [
        "--max-macs", "--max-params", "--max-peak-activations",
    ]  # fmt: skip
    assert [QUANTITIES.get(name).column for name in ("latency", "macs")] == ["latency_us", "macs"]
    assert limit_on(load_space("small"), "macs", 60e6).short == "60000000macs"
    with pytest.raises(UserError, match=r"unknown cost 'mac'; did you mean 'macs'\?"):
        limit_on(load_space("small"), "mac", 1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_cost_that_cannot_be_added_up_is_refused(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(Quantity):
        name, example, help = "odd", "1", "Most of it."

        def block_cost(self, block: Block, table: Any) -> float:
            return value if block.kind == "head" else 1.0

    monkeypatch.setitem(QUANTITIES._entries, "odd", Odd())
    with pytest.raises(UserError, match="the odd of head is negative or not finite"):
        limit_on(load_space("small"), "odd", 1.0)


def test_options_are_made_without_what_is_slow_to_load() -> None:
    code = """
import sys
from fbnet_mobile.cost.quantity import QUANTITIES
assert "macs" in QUANTITIES
print({"torch", "numpy", "pandas", "pydantic"} & set(sys.modules))
import fbnet_mobile.cost.bounds
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\nFalse\n"
