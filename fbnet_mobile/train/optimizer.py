"""Optimisers, and which learning rate and weight decay each parameter has."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from fbnet_mobile.formats.packages import needs
from fbnet_mobile.train.recipe import TrainRecipe

SCALE = "scale"
"""Of a group of parameters: the factor on its learning rate."""


def make_optimizer(module: nn.Module, recipe: TrainRecipe) -> Optimizer:
    """The optimiser of a recipe; each of its groups has its factor on the learning rate under ``SCALE``.

    Raises:
        UserError: timm, whose RMSprop it is, is not installed.
    """
    groups = parameter_groups(module, recipe.weight_decay, recipe.layer_decay)
    rate, momentum = recipe.learning_rate, recipe.momentum
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=(momentum, 0.999))
    if recipe.optimizer == "rmsprop":
        with needs("timm", "fbnet-mobile[timm]"):
            from timm.optim.rmsprop_tf import RMSpropTF
        made: Optimizer = RMSpropTF(groups, lr=rate, alpha=0.9, eps=1e-3, momentum=momentum)
        return made
    return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=momentum > 0)


def parameter_groups(module: nn.Module, weight_decay: float, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Weights of two and more dimensions with weight decay; biases and batch norm without (He et al. 2019).

    Args:
        module: the network; its children are its layers, in the order in which they are run.
        weight_decay: of the former.
        layer_decay: factor on the learning rate of a child for each child that follows it.
    """
    layers: Sequence[nn.Module] = [module] if layer_decay == 1 else list(module.children())
    groups = []
    for number, layer in enumerate(layers, start=1):
        parameters = [item for item in layer.parameters() if item.requires_grad]
        scale = layer_decay ** (len(layers) - number)
        for decayed in (True, False):
            chosen = [item for item in parameters if (item.ndim > 1) is decayed]
            if chosen or layer_decay == 1:
                groups.append({"params": chosen, "weight_decay": weight_decay if decayed else 0.0, SCALE: scale})
    return groups


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Give each group its share of a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[SCALE]
