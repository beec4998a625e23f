"""A stand-alone network with the supernet's weights, sliced."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from fbnet_mobile.arch import Block, InvertedResidual
from fbnet_mobile.blocks import ConvBNAct, HeadModule, InvertedResidualModule, Network, SqueezeExcite, build
from fbnet_mobile.search.supernet import (
    Candidates,
    Paths,
    SuperBlock,
    SuperConv,
    SuperHead,
    SuperInvertedResidual,
    Supernet,
)
from fbnet_mobile.space import Option


@torch.no_grad()
def inherit(supernet: Supernet, assignment: Mapping[str, Option]) -> Network:
    """The network of an assignment with the first channels and kernel centres of the supernet's weights.

    Its outputs equal the supernet's for the one-hot weights of the assignment.
    """
    network = build(supernet.space.architecture(assignment))
    modules = iter(network)
    for part, position in zip(supernet.parts, supernet.space.positions, strict=True):
        block = position.block(assignment)
        if block is None:
            continue
        _copy(next(modules), cast(SuperBlock, part), block, assignment)
    return network


def _copy(module: nn.Module, part: SuperBlock, block: Block, assignment: Mapping[str, Option]) -> None:
    match part:
        case Candidates():
            _copy(module, part.branch(assignment), block, assignment)
        case Paths():
            module.load_state_dict(part.module(assignment).state_dict())
        case SuperConv():
            _conv_and_norm(cast(ConvBNAct, module), part.conv, part.norm)
        case SuperHead():
            _head(cast(HeadModule, module), part)
        case SuperInvertedResidual():
            _inverted_residual(cast(InvertedResidualModule, module), part, cast(InvertedResidual, block))


def _inverted_residual(module: InvertedResidualModule, part: SuperInvertedResidual, block: InvertedResidual) -> None:
    if block.expanded_channels is not None:
        assert part.expand is not None
        assert part.expand_norm is not None
        _conv_and_norm(cast(ConvBNAct, module.expand), part.expand, part.expand_norm)
    _conv_and_norm(module.depthwise, part.depthwise, part.depthwise_norm)
    if block.se_channels is not None:
        assert part.squeeze is not None
        excite = cast(SqueezeExcite, module.squeeze_excite)
        _slice(excite.reduce, part.squeeze)
        _slice(excite.expand, part.unsqueeze)
    _conv_and_norm(module.project, part.project, part.project_norm)


def _head(module: HeadModule, part: SuperHead) -> None:
    _conv_and_norm(module.conv, part.conv, part.norm)
    if part.hidden is not None:
        _slice(cast(nn.Conv2d, cast(nn.Sequential, module.hidden)[0]), part.hidden)
    _slice(module.classifier, part.classifier)


def _conv_and_norm(target: ConvBNAct, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    _slice(cast(nn.Conv2d, target[0]), conv)
    own = cast(nn.BatchNorm2d, target[1])
    for name in ("weight", "bias", "running_mean", "running_var"):
        cast(Tensor, getattr(own, name)).copy_(cast(Tensor, getattr(norm, name))[: own.num_features])


def _slice(target: nn.Conv2d | nn.Linear, source: nn.Conv2d | nn.Linear) -> None:
    weight = source.weight[: target.weight.shape[0], : target.weight.shape[1]]
    if weight.dim() == 4:
        size = target.weight.shape[-1]
        edge = (weight.shape[-1] - size) // 2
        weight = weight[..., edge : edge + size, edge : edge + size]
    target.weight.copy_(weight)
    if target.bias is not None:
        assert source.bias is not None
        target.bias.copy_(source.bias[: target.bias.shape[0]])
