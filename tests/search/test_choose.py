"""Which space is searched where none is named."""

from collections.abc import Sequence

import pytest

from fbnet_mobile.cost.constraint import Constraint, limit_on
from fbnet_mobile.data.data import Glimpse
from fbnet_mobile.errors import UserError
from fbnet_mobile.search.choose import choose_space
from fbnet_mobile.space import SearchSpace


@pytest.mark.parametrize(
    ("side", "training", "most", "chosen", "why"),
    [
        (32, 50_000, None, "small", "space small, for 50,000 images of 32 pixels"),
        (84, 2_000, None, "photo", "space photo, for 2,000 images of 84 pixels"),
        (400, 5_000, None, "photo", "space photo, for 5,000 images of 400 pixels"),
        (400, 10**6, None, "fbnetv2-f", "space fbnetv2-f, for 1,000,000 images of 400 pixels"),
        (84, 2_000, 10e6, "photo", "space photo, for 2,000 images of 84 pixels"),
        (84, 2_000, 200e6, "fbnetv2-f", "images of 84 pixels; photo, made for such images, does not reach the limits"),
        (84, 2_000, 0.8e6, "small", "images of 84 pixels; photo, made for such images, does not reach the limits"),
        (84, 2_000, 1e12, "fbnetv2-f", "the limits are above all of its networks"),
    ],
)
def test_a_space_is_chosen_by_the_images_and_the_limits(
    side: int, training: int, most: float | None, chosen: str, why: str
) -> None:
    def limits(space: SearchSpace) -> Sequence[Constraint]:
        return [] if most is None else [limit_on(space, "macs", most)]

    space, said = choose_space(Glimpse(("a", "b", "c"), training, side), limits)
    assert (space.name, space.classes) == (chosen, 3)
    assert said.endswith(why)


def test_limits_below_every_network_are_refused() -> None:
    with pytest.raises(UserError, match="no space that ships has a network within these limits"):
        choose_space(Glimpse(("a", "b"), 100, 84), lambda space: [limit_on(space, "macs", 1.0)])
