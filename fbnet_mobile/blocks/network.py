"""From an architecture to a module."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from fbnet_mobile.arch import Architecture
from fbnet_mobile.errors import UserError


class Network(nn.Sequential):
    """The modules of a chain of blocks, one after the other: (N, channels, R, R) images to (N, classes) logits."""


def build(architecture: Architecture) -> Network:
    """A freshly initialised network."""
    network = Network(*(block.build() for block in architecture.blocks))
    initialise(network)
    return network


def restore(architecture: Architecture, weights: Mapping[str, Tensor], where: str) -> Network:
    """A network with trained weights, ready for evaluation; ``where`` names their source in error messages.

    Raises:
        UserError: the weights are those of another network.
    """
    network = build(architecture)
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise UserError(
            f"{where}: its weights do not fit its architecture {architecture.name}; train it again"
        ) from error
    return network.eval()


def initialise(module: nn.Module) -> None:
    """Draw weights as torchvision's MobileNetV2 does: He normal (fan out) convolutions, N(0, 0.01) linear layers."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.01)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def calibrate_batch_norm(module: nn.Module, images: Tensor) -> None:
    """Give every batch norm the statistics of ``images``, (N, channels, height, width), and leave evaluation mode on.

    A fresh network's statistics are those of no data: after a few dozen layers its values are too small for 16 bits.
    """
    update_bn([images], module)
    module.eval()
