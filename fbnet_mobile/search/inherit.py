"""A stand-alone network with the supernet's weights, sliced."""

from collections.abc import Mapping

from fbnet_mobile.blocks.network import Network
from fbnet_mobile.search.supernet import Supernet
from fbnet_mobile.space import Option


def inherit(supernet: Supernet, assignment: Mapping[str, Option]) -> Network:
    """The network of an assignment with the first channels and kernel centres of the supernet's weights.

    Its outputs equal the supernet's for the one-hot weights of the assignment.
    """
    parts = zip(supernet.blocks, supernet.space.positions, strict=True)
    return Network(*(part.freeze(assignment) for part, position in parts if position.block(assignment) is not None))
