"""The masked form of a trained block: the block itself, of which some channels are not read.

What a channel holds makes no difference if nothing reads it. So a width is a mask over the axes along which weights
read it, here and in the blocks that follow; the block's own arithmetic stays what it was.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fbnet_mobile.blocks.axes import INPUT, OUTPUT, axes, kernels, parts, take_slice
from fbnet_mobile.blocks.masks import SuperBlock, Weights, column_masks, kernel_masks, synchronisable
from fbnet_mobile.space import Option, Position


class Whole(SuperBlock):
    """The largest block of a position, run with masks over what its weights read.

    With the largest of everything it computes what that block does, bit for bit.
    """

    def __init__(self, position: Position) -> None:
        super().__init__(position)
        block = position.largest()
        self.block, self.stride = block, block.stride
        self.module = synchronisable(block.build())
        widths = {INPUT: position.in_channels, OUTPUT: position.out_channels, **self.own}
        chosen = {width: name for width, name in widths.items() if isinstance(name, str)}
        self.choices = {width: name for width, name in chosen.items() if len(self.variables[name]) > 1}
        found, named = axes(block), dict(self.module.named_parameters())
        read = {
            name: [(axis, width) for axis, width in enumerate(found[name]) if axis >= 1 and width in self.choices]
            for name in named
        }
        self.read = {name: places for name, places in read.items() if places}
        for width in {width for places in self.read.values() for _, width in places}:
            self.constant(f"{width}_masks", column_masks(position.widths(widths[width])))
        self.kernels = {field: name for field, name in kernels(block).items() if field in self.choices}
        for field in self.kernels:
            self.constant(f"{field}_masks", kernel_masks(position.widths(self.own[field])))
        # What the last batch norm gives is what a residual adds.
        self.last = [name for name in named if found[name] == (OUTPUT,)] if position.skip is not None else []
        self._shares: dict[str, Tensor] = {}
        self.parts = {field: name for field, name in parts(block).items() if field in self.choices}
        for field, name in self.parts.items():
            self.constant(
                f"{field}_kept", torch.tensor([float(option != 0) for option in self.variables[self.own[field]]])
            )
            self.module.get_submodule(name).register_forward_hook(self._left_out(field))

    def forward(self, features: Tensor, weights: Weights) -> Tensor:
        """See ``SuperBlock``."""
        skip = weights[self.position.skip] if self.position.skip is not None else None
        named = dict(self.module.named_parameters())
        changed: dict[str, Tensor] = {}
        for name, places in self.read.items():
            weight = named[name]
            for axis, width in places:
                mask = weights[self.choices[width]] @ getattr(self, f"{width}_masks")
                weight = weight * mask.view(-1, *[1] * (weight.dim() - axis - 1))
            changed[name] = weight
        for field, name in self.kernels.items():
            mask = torch.einsum("k,kyx->yx", weights[self.choices[field]], getattr(self, f"{field}_masks"))
            changed[name] = changed.get(name, named[name]) * mask
        if skip is not None:
            changed |= {name: named[name] * skip[0] for name in self.last}
        for field in self.parts:
            self._shares[field] = weights[self.choices[field]] @ getattr(self, f"{field}_kept")
        out: Tensor = functional_call(self.module, changed, (features,))
        return out

    def _left_out(self, field: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> Tensor:
            return torch.lerp(inputs[0], out, self._shares[field].to(out.dtype))

        return hook

    def adopt(self, module: nn.Module) -> None:
        """Take the weights of the trained block."""
        self.module.load_state_dict(module.state_dict())

    def freeze(self, assignment: Mapping[str, Option]) -> nn.Module:
        """See ``SuperBlock``."""
        block = self.position.block(assignment)
        assert block is not None
        module = block.build()
        take_slice(module, self.module.state_dict())
        return module
