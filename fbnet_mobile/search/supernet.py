"""The supernet: every network of a space at once, with a weight for each option of each choice.

A choice between widths is one run at the widest times a sum of column masks weighted by Gumbel-softmax (FBNetV2, arXiv
2004.05565, section 3.1). The masks are multiplied into batch norm's scale and shift or into the weights of the next
convolution, so that they cost no pass over a feature map. The input resolution subsamples, runs and spreads back
(section 3.2). For all other choices of a block there are two modes. ``shared``: one block, in which a 3x3 kernel is the
centre of a larger one, activations are mixed, and squeeze-excite is a gate. ``candidates``: as in the paper, one block
of the widest for each combination of them, in parallel.

A kind of block without a masked form runs as ``Paths`` in both modes: a module for each block that it may become.

With one-hot weights the supernet computes exactly what the network of that assignment computes.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fbnet_mobile.blocks.masks import SuperBlock, Weights, fit_channels, synchronisable
from fbnet_mobile.blocks.network import initialise
from fbnet_mobile.blocks.whole import Whole
from fbnet_mobile.search.recipe import Mode
from fbnet_mobile.space import CANDIDATE, RESOLUTION, Option, Position, SearchSpace


class Candidates(SuperBlock):
    """Parallel blocks, one for each combination of options of some choices, added up by their weights."""

    one: Tensor

    def __init__(self, position: Position, names: Sequence[str], mode: Mode) -> None:
        super().__init__(position)
        self.names = names
        self.index = list(itertools.product(*(range(len(position.variables[name])) for name in names)))
        self.branches = nn.ModuleList(
            super_block(
                position.pin({name: position.variables[name][i] for name, i in zip(names, index, strict=True)}), mode
            )
            for index in self.index
        )
        self.stride = _super_blocks(self.branches)[0].stride
        self.constant("one", torch.ones(1))

    def freeze(self, assignment: Mapping[str, Option]) -> nn.Module:
        """See ``SuperBlock``."""
        index = tuple(self.position.variables[name].index(assignment[name]) for name in self.names)
        return _super_blocks(self.branches)[self.index.index(index)].freeze(assignment)

    def forward(self, features: Tensor, weights: Weights) -> Tensor:
        """See ``SuperBlock``."""
        joint = _joint([weights[name] for name in self.names])
        total: Tensor | None = None
        for weight, branch in zip(joint, _super_blocks(self.branches), strict=True):
            fixed = dict.fromkeys(branch.own.values(), self.one)
            free = {name: weights[name] for name in self.position.names if name not in self.names}
            out = weight * branch(features, {**fixed, **free})
            total = out if total is None else total + out
        assert total is not None
        return total


class Paths(SuperBlock):
    """A module of its own for each block that may stand here, whatever its kind, added up by their weights.

    This is the textbook form of differentiable search (DARTS, FBNet): exact for any block, and as slow as all of them
    together. Modules are made for the largest input resolution and run at any.
    """

    def __init__(self, position: Position) -> None:
        super().__init__(position)
        self.names = [name for name in position.names if name not in (RESOLUTION, position.skip)]
        base: dict[str, Option] = {RESOLUTION: max(position.widths(RESOLUTION))}
        if position.skip is not None:
            base[position.skip] = False
        options = itertools.product(*(position.variables[name] for name in self.names))
        self.index = list(options)
        found = [position.block({**base, **dict(zip(self.names, values, strict=True))}) for values in self.index]
        every = [block for block in found if block is not None]
        self.stride, self.in_channels = every[0].stride, [block.in_channels for block in every]
        self.widest = max(block.out_channels for block in every)
        self.modules_of = nn.ModuleList(synchronisable(block.build()) for block in every)

    def freeze(self, assignment: Mapping[str, Option]) -> nn.Module:
        """See ``SuperBlock``."""
        # A candidate's own choices have one option each, of which an assignment says nothing.
        options = {name: self.variables[name][0] for name in self.names} | dict(assignment)
        here = self.modules_of[self.index.index(tuple(options[name] for name in self.names))]
        block = self.position.block(assignment)
        assert block is not None
        module = block.build()
        module.load_state_dict(here.state_dict())
        return module

    def forward(self, features: Tensor, weights: Weights) -> Tensor:
        """See ``SuperBlock``."""
        joint = _joint([weights[name] for name in self.names])
        total: Tensor | None = None
        for weight, channels, module in zip(joint, self.in_channels, self.modules_of, strict=True):
            out = weight * module(features[:, :channels])
            out = fit_channels(out, self.widest) if out.dim() == 4 else out
            total = out if total is None else total + out
        assert total is not None
        return self.or_skipped(total, features, weights)


def _joint(weights: Sequence[Tensor]) -> Tensor:
    """The product of one weight of each, for every combination in the order of ``itertools.product``."""
    joint = torch.ones(1, device=weights[0].device)
    for weight in weights:
        joint = (joint[:, None] * weight[None, :]).flatten()
    return joint


def super_block(position: Position, mode: Mode) -> SuperBlock:
    """The searchable form of a position; which it is, its kind of block and the mode decide."""
    if position.trained:
        return Whole(position)
    if position.candidates:
        return Candidates(position, [position.own[CANDIDATE]], mode)
    masked = position.kind.masked(position)
    if masked is None or (mode == "paths" and position.between):
        return Paths(position)
    names = [name for choice, name in position.own.items() if choice not in position.kind.width_choices]
    if mode == "candidates" and any(len(position.variables[name]) > 1 for name in names):
        return Candidates(position, names, mode)
    return masked(position)


def _super_blocks(modules: nn.ModuleList) -> list[SuperBlock]:
    return cast(list[SuperBlock], list(modules))


class Supernet(nn.Module):
    """Every network of a space at once: images and weights to logits.

    Args:
        space: the space.
        mode: how the choices of a block that are not widths are run; see the module. ``paths`` runs all between the
            stem and the head as ``Paths``, widths included, to compare with.
    """

    def __init__(self, space: SearchSpace, mode: Mode = "shared") -> None:
        super().__init__()
        self.space = space
        self.parts = nn.ModuleList(super_block(position, mode) for position in space.positions)
        initialise(self)

    @property
    def blocks(self) -> list[SuperBlock]:
        """One for each position of the space."""
        return _super_blocks(self.parts)

    def adopt(self, network: nn.Sequential) -> None:
        """Take the weights of the network that the space is within."""
        for part, module in zip(self.blocks, network, strict=True):
            assert isinstance(part, Whole)
            part.adopt(module)

    def resized(self, images: Tensor, resolution: int) -> Tensor:
        """(N, 3, R, R) images as the supernet makes them smaller; those of a trained network as data are loaded."""
        if self.space.blocks and images.shape[-1] != resolution:
            return F.interpolate(
                images, size=(resolution, resolution), mode="bilinear", antialias=True, align_corners=False
            )
        return _subsample(images, resolution)

    def forward(self, images: Tensor, weights: Weights) -> Tensor:
        """(N, 3, R, R) at the largest resolution, and one weight for each option, to (N, classes).

        For each input resolution the features are subsampled by nearest neighbour, run through the block and spread
        back over the large grid with zeros between. A resolution whose weight is exactly zero is not run; where only
        one runs, all blocks work on its own small grid.
        """
        resolutions = self.space.resolution
        running = [0]
        if len(resolutions) > 1:
            running = [i for i, weight in enumerate(weights[RESOLUTION].tolist()) if weight != 0]
        features = images
        if len(running) == 1:
            features = self.resized(images, resolutions[running[0]])
            for part in self.blocks:
                features = part(features, weights)
                if weights[RESOLUTION].requires_grad:
                    features = weights[RESOLUTION][running[0]] * features
            return features
        grids = dict.fromkeys(running, images.shape[-1])  # the size of the small map before the current block
        for i in running:
            grids[i] = resolutions[i]
        for part in self.blocks:
            total: Tensor | None = None
            large = features.shape[-1]
            for i in running:
                out = part(_subsample(features, grids[i]), weights)
                if out.dim() == 4:
                    grids[i] = out.shape[-1]
                    out = _spread(out, -(-large // part.stride))
                out = weights[RESOLUTION][i] * out
                total = out if total is None else total + out
            assert total is not None
            features = total
        return features


def _subsample(features: Tensor, small: int) -> Tensor:
    """Take (N, C, small, small) of (N, C, H, H) by nearest neighbour."""
    return features if features.shape[-1] == small else F.interpolate(features, size=(small, small))


class _Spread(torch.autograd.Function):
    """Put each value where ``_subsample`` would take it from, with zeros between: the transpose of ``_subsample``."""

    @staticmethod
    def forward(context: Any, features: Tensor, large: int) -> Tensor:
        """(N, C, H, H) to (N, C, large, large)."""
        context.small = features.shape[-1]
        shape = [*features.shape[:2], large, large]
        spread: Tensor = torch.ops.aten.upsample_nearest2d_backward(features, [context.small] * 2, shape)
        return spread

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient at the places that were filled."""
        return _subsample(gradient, context.small), None


def _spread(features: Tensor, large: int) -> Tensor:
    if features.shape[-1] == large:
        return features
    spread: Tensor = _Spread.apply(features, large)
    return spread
