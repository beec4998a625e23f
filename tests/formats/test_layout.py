import random

import numpy as np

from fbnet_mobile.formats.tflite.layout import arranged, permuted, plain, reshaped, same_order, usual, without


def factors(number: int, rng: random.Random) -> list[int]:
    """Some sizes whose product is the number, ones among them."""
    found = []
    while number > 1:
        size = rng.choice([size for size in range(2, number + 1) if number % size == 0])
        found.append(size)
        number //= size
    for _ in range(rng.randint(0, 2)):
        found.insert(rng.randint(0, len(found)), 1)
    return found


def test_views_and_permutations_of_what_is_kept_in_any_order_give_what_numpy_gives() -> None:
    rng = random.Random(0)
    moved = 0
    for _ in range(300):
        size = rng.choice([12, 24, 36, 60])
        value = np.arange(size).reshape(factors(size, rng))
        kept, layout = value, plain(value.ndim)
        for _ in range(4):
            if rng.random() < 0.5:
                axes = tuple(rng.sample(range(value.ndim), value.ndim))
                value, layout = value.transpose(axes), permuted(layout, axes)
            else:
                after = tuple(factors(size, rng))
                needed, found = reshaped(value.shape, layout, after)
                if needed != layout:
                    assert not same_order(value.shape, layout, needed)
                    moved += 1
                kept = kept.transpose([layout.index(axis) for axis in needed]).reshape(arranged(after, found))
                value, layout = value.reshape(after), found
            assert np.array_equal(kept, value.transpose(layout))
    assert moved > 50, "the test would prove nothing"


def test_a_feature_map_becomes_tokens_and_comes_back_without_being_moved() -> None:
    layout, shape = usual(4), (1, 6, 4, 5)
    needed, tokens = reshaped(shape, layout, (1, 6, 20))
    assert needed == layout
    assert arranged((1, 6, 20), tokens) == (1, 20, 6)
    assert reshaped((1, 6, 20), tokens, shape) == (tokens, layout)
    assert reshaped(shape, layout, (1, 120)) == (plain(4), (0, 1)), "the order of its numbers shows"
    assert reshaped((1, 6), plain(2), (1, 6, 1, 1)) == (plain(2), layout)
    assert without(layout, (2, 3)) == (0, 1)
