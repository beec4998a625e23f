"""The order of channels: those that matter most come first, so that every width keeps the best of them.

Channels that residuals join have one order; a block's own channels have theirs. The order changes nothing of what a
network computes.
"""

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from fbnet_mobile.blocks.axes import INPUT, OUTPUT, axes
from fbnet_mobile.blocks.network import Network
from fbnet_mobile.space import Position, SearchSpace

Importance = Mapping[str, Tensor]
"""For each width of a space that is a choice one number, at least 0, for each of its channels."""


def by_images(network: Network, space: SearchSpace, batches: Iterable[tuple[Tensor, Tensor]]) -> Importance:
    """What the loss would lose by each channel, to first order, summed over all that carries it.

    The sum, over the batches, of the square of the derivative by a factor on the channel (Molchanov et al. 2019, arXiv
    1906.10771, equations 7 and 8), which is the sum of derivative x value over the scales and shifts of batch norms, or
    without one the weights, that make the channel; over all blocks of a group at once, as they would all lose it.

    Args:
        network: the network that the space is within; left as it was, but in evaluation mode.
        space: within it.
        batches: normalised images, (B, 3, R, R), and labels.
    """
    network.eval()
    found: dict[str, Tensor] = {}
    for images, labels in batches:
        network.zero_grad()
        torch.autograd.backward(F.cross_entropy(network(images), labels))
        factors: dict[str, Tensor] = {}
        for position, module in zip(space.positions, network, strict=True):
            names = _variables(position)
            made = {
                name: places[0] for name, places in axes(position.largest()).items() if places and places[0] in names
            }
            for width, name in names.items():
                own = [each for each, first in made.items() if first == width]
                state = dict(module.named_parameters())
                norms = [each for each in own if each in state and f"{each.rpartition('.')[0]}.running_mean" in made]
                for each in norms or [each for each in own if each in state]:
                    value = state[each]
                    assert value.grad is not None
                    total = (
                        (value.detach() * value.grad).flatten(1).sum(1)
                        if value.dim() > 1
                        else value.detach() * value.grad
                    )
                    factors[name] = factors.get(name, torch.zeros_like(total)) + total
        for name, factor in factors.items():
            found[name] = found.get(name, torch.zeros_like(factor)) + factor.square()
    network.zero_grad()
    return found


def by_weights(network: Network, space: SearchSpace) -> Importance:
    """The sum of the sizes of all weights that read a channel (Once-for-All, arXiv 1908.09791, section 3.3)."""
    found: dict[str, Tensor] = {}
    for position, module in zip(space.positions, network, strict=True):
        names, places = _variables(position), axes(position.largest())
        for each, value in module.named_parameters():
            for axis, width in enumerate(places[each]):
                if axis >= 1 and width in names:
                    others = [other for other in range(value.dim()) if other != axis]
                    total = value.detach().abs().sum(others)
                    name = names[width]
                    found[name] = found.get(name, torch.zeros_like(total)) + total
    return found


@torch.no_grad()
def sort_channels(network: Network, space: SearchSpace, importance: Importance) -> None:
    """Put the channels of a network into the order of their importance, in place."""
    orders = {name: values.argsort(descending=True, stable=True) for name, values in importance.items()}
    for position, module in zip(space.positions, network, strict=True):
        names = _variables(position)
        found = axes(position.largest())
        for each, value in module.state_dict().items():
            for axis, width in enumerate(found[each]):
                if width is not None and names.get(width) in orders:
                    value.copy_(value.index_select(axis, orders[names[width]].to(value.device)))


def _variables(position: Position) -> dict[str, str]:
    """The variable of each width of a position that has a choice."""
    widths = {INPUT: position.in_channels, OUTPUT: position.out_channels, **position.own}
    return {
        width: name for width, name in widths.items() if isinstance(name, str) and len(position.variables[name]) > 1
    }
