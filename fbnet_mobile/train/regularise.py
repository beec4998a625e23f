"""What makes training harder than evaluation: dropout, stochastic depth, mixed images."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import stochastic_depth
from torchvision.transforms import v2

from fbnet_mobile.train.recipe import TrainRecipe


def classifier(module: nn.Module) -> nn.Module:
    """The last linear layer, which gives the logits; the module itself if it has none."""
    linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
    return linear[-1] if linear else module


def regularise(module: nn.Module, dropout: float, drop_path: float) -> None:
    """Drop inputs of the classifier, and residual branches, while the module is in training mode with gradients.

    They are hooks, so that the module's weights and what is exported know nothing of them. Without gradients nothing is
    dropped: statistics of batch norm are estimated in training mode, too.

    Args:
        module: the network. A part whose ``residual`` is true adds to its input what its ``project`` gives, or its
            ``end`` if it has that.
        dropout: share of the classifier's inputs that are zeroed.
        drop_path: probability with which the last residual branch of an image is zeroed; it rises from 0 linearly with
            the number of the branch.
    """
    if dropout:
        classifier(module).register_forward_pre_hook(partial(_drop_inputs, dropout))
    parts = [part for part in module.modules() if getattr(part, "residual", False) is True]
    branches = [getattr(part, "end", getattr(part, "project", None)) for part in parts]
    for number, branch in enumerate(branches, start=1):
        if drop_path and isinstance(branch, nn.Module):
            branch.register_forward_hook(partial(_drop_branch, drop_path * number / len(branches)))


def _learns(layer: nn.Module) -> bool:
    return layer.training and torch.is_grad_enabled()


def _drop_inputs(share: float, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (F.dropout(inputs[0], share, _learns(layer)), *inputs[1:])


def _drop_branch(probability: float, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    kept: Tensor = stochastic_depth(output, probability, "row", _learns(layer))
    return kept


class Mixing:
    """Mixup (arXiv 1710.09412) and cutmix (1905.04899) of torchvision; of both, each step draws one.

    Partners are of the same process, so the number of processes decides which images are mixed.
    """

    def __init__(self, recipe: TrainRecipe, classes: int) -> None:
        kinds = ((recipe.mixup, v2.MixUp), (recipe.cutmix, v2.CutMix))
        self._mixes = [kind(alpha=alpha, num_classes=classes) for alpha, kind in kinds if alpha]
        self._last_epoch = recipe.mix_epochs * recipe.epochs

    def __call__(self, images: Tensor, labels: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Images as they were, and labels as they were or as (B, classes) shares; draws of torch's own generator."""
        if not self._mixes or epoch > self._last_epoch:
            return images, labels
        chosen = self._mixes[int(torch.randint(len(self._mixes), ()))]
        mixed, shares = chosen(images, labels)
        return mixed, shares
