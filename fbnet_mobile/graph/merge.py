"""Networks as they are deployed: branches that were trained beside one another become the one layer they equal.

RepVGG (arXiv 2101.03697), MobileOne (arXiv 2206.04040) and their like train several convolutions in parallel, whose sum
is a convolution. Their modules merge themselves; what they offer for it is called as timm's ``reparameterize_model``
calls it: ``fuse`` returns another module, ``reparameterize`` and ``switch_to_deploy`` change the module in place.
"""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fbnet_mobile.graph.trace import evaluation

_OTHER = "fuse"
_IN_PLACE = ("reparameterize", "switch_to_deploy")


def merge_branches(module: nn.Module) -> tuple[nn.Module, dict[str, int]]:
    """Return a network with the branches merged that merge themselves, and how many modules of each class did.

    The module given is left as it was; it is returned itself if there is nothing to merge.
    """
    parts = [part for part in module.modules() if part is not module]
    if not any(_own(part, name) for part in parts for name in (_OTHER, *_IN_PLACE)):
        return module, {}
    merged: Counter[str] = Counter()
    module = copy.deepcopy(module)
    with evaluation(module), torch.no_grad():
        _merge(module, merged)
    return module.eval(), dict(sorted(merged.items()))


def _merge(module: nn.Module, merged: Counter[str]) -> None:
    """Merge, in place, what can be within a module."""
    for name, child in module.named_children():
        before = _parts(child)
        if (fuse := _own(child, _OTHER)) is not None:
            setattr(module, name, fuse())
        elif (change := next(filter(None, (_own(child, each) for each in _IN_PLACE)), None)) is not None:
            change()
        if _parts(getattr(module, name)) != before:
            merged[type(child).__name__] += 1
        _merge(getattr(module, name), merged)


def _parts(module: nn.Module) -> int:
    return sum(1 for _ in module.modules())


def _own(module: nn.Module, name: str) -> Callable[[], Any] | None:
    """Return a method of the module's class; a part that is called so is none."""
    return getattr(module, name) if callable(getattr(type(module), name, None)) else None
