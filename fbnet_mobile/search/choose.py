"""Which search space fits the images and the limits, where none was named, and why."""

from collections.abc import Callable, Sequence

from fbnet_mobile.cost.bounds import cost_range
from fbnet_mobile.cost.constraint import Constraint
from fbnet_mobile.data.data import Glimpse
from fbnet_mobile.errors import UserError
from fbnet_mobile.space import SearchSpace, load_space

SMALL, PHOTO, LARGE = "small", "photo", "fbnetv2-f"
_SMALL_SIDE, _LARGE_SIDE = 48, 200
"""Pixels of the shorter side up to which images show little more than at 32, and from which they fill 224."""
_MANY = 100_000
"""Training images from which networks for 224 pixels are worth the days that their search takes."""


def choose_space(
    images: Glimpse, limits: Callable[[SearchSpace], Sequence[Constraint]] = lambda _: ()
) -> tuple[SearchSpace, str]:
    """The packaged space for some images, or another one if that does not reach the limits.

    Args:
        images: what is known of them.
        limits: on the networks of a space; none if they are not known yet.

    Returns:
        The space, with as many classes as the images, and why it, in one line.

    Raises:
        UserError: no packaged space has a network within the limits.
    """
    if images.side <= _SMALL_SIDE:
        first, others = SMALL, (PHOTO, LARGE)
    elif images.side < _LARGE_SIDE or images.training < _MANY:
        first, others = PHOTO, (LARGE, SMALL)
    else:
        first, others = LARGE, (PHOTO, SMALL)
    why = f"for {images.training:,} images of {images.side} pixels"
    reachable = {}
    for name in (first, *others):
        space = load_space(name).with_classes(len(images.classes))
        found = [(limit, cost_range(space, limit)) for limit in limits(space)]
        if any(limit.limit < reach.lowest for limit, reach in found):
            continue
        reachable[name] = space
        if not found or any(limit.limit <= reach.highest for limit, reach in found):
            beside = "" if name == first else f"; {first}, made for such images, does not reach the limits"
            return space, f"space {name}, {why}{beside}"
    if not reachable:
        raise UserError("no space that ships has a network within these limits; raise them, or name one with --space")
    name = LARGE if LARGE in reachable else next(iter(reachable))
    return reachable[name], f"space {name}, the largest that ships: the limits are above all of its networks"
