"""Ranges against what they are by definition, worked out from all the values at once."""

import numpy as np
import pytest

from fbnet_mobile.formats.ranges import METHODS, Histogram, observe


def values() -> np.ndarray:
    """A hard swish of normal values with a few outliers: (8, 5000)."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 5000)) * 2
    x[3, :3] = 40, 50, 60
    return (x * np.clip(x + 3, 0, 6) / 6).astype(np.float32)


def error(x: np.ndarray, low: float, high: float) -> float:
    step = (high - low) / 255
    zero = np.round(-low / step)
    return float((((np.clip(np.round(x / step) + zero, 0, 255) - zero) * step - x) ** 2).mean())


def histogram(x: np.ndarray) -> Histogram:
    return observe({"layer": row} for row in x)["layer"]


def test_a_histogram_holds_what_was_seen_however_it_grew() -> None:
    x = values()
    for rows in (x, x[::-1]):
        seen = histogram(rows)
        assert (seen.low, seen.high, seen.counts.sum()) == (x.min(), x.max(), x.size)
        assert seen.reach == 64
        assert seen.counts[seen.centres() > 39].sum() == 3
        assert seen.centres() @ seen.counts / x.size == pytest.approx(x.mean(), abs=seen.reach / 8192)


def test_what_stands_for_infinity_is_not_part_of_a_range() -> None:
    """TFLite pads before a max pool with the least number there is."""
    x = values()
    padded = np.concatenate([x, np.full((8, 50), np.finfo(np.float32).min), np.full((8, 1), np.inf)], axis=1)
    padded = np.concatenate([padded.astype(np.float32), np.full((1, 5051), -np.inf, np.float32)])
    for method in METHODS.values():
        assert method(histogram(padded)) == method(histogram(x))


def test_percentiles_are_those_of_the_values() -> None:
    x = values()
    for part in (0.999, 0.9999):
        low, high = METHODS[f"percentile-{part:.4%}".rstrip("%").rstrip("0")](histogram(x))
        lower, upper = np.quantile(x, [(1 - part) / 2, (1 + part) / 2], method="inverted_cdf")
        assert (low, high) == pytest.approx((lower, upper), abs=2 * 64 / 4096)


def test_mean_square_beats_every_other_range() -> None:
    x = values()
    found = {name: method(histogram(x)) for name, method in METHODS.items()}
    errors = {name: error(x, *each) for name, each in found.items()}
    assert found["min-max"] == (x.min(), x.max())
    assert min(errors, key=lambda name: errors[name]) == "mse"
    others = [error(x, a * x.min(), b * x.max()) for a in np.linspace(0.1, 1, 19) for b in np.linspace(0.05, 1, 39)]
    assert errors["mse"] < 1.1 * min(others)


def test_entropy_clips_outliers_and_keeps_the_body() -> None:
    low, high = METHODS["entropy"](histogram(values()))
    assert low < -0.3
    assert 5 < high < 40


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "x", [np.zeros((2, 9)), np.full((2, 9), -3.0), np.array([[0.0, 1e-30]]), np.array([[1.0, 2.0, 3.0]])]
)
def test_few_and_equal_values_have_a_range_that_holds_zero_and_all(method: str, x: np.ndarray) -> None:
    low, high = METHODS[method](histogram(x.astype(np.float32)))
    assert low <= 0 <= high
    if "percentile" not in method and method != "mse":
        assert (low, high) == pytest.approx((min(x.min(), 0), max(x.max(), 0)))
