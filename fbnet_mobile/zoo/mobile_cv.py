"""Weights of the published networks from a checkpoint that Facebook's mobile_cv saved.

The names follow from the public definitions, and were the same whenever they were read (facebookresearch/mobile-vision
at b95ef33, of early 2020, and later: in mobile_cv/arch/fbnet_v2, fbnet_builder.py at 28788a6, irf_block.py at 066d626
and basic_blocks.py at 1ee8518; mobile_cv/model_zoo/models/fbnet_v2.py at 12d8629):

- the file holds ``state_dict``, and perhaps ``model_ema``, which is then the one to use; a name may start with
  ``module.``
- block b of stage s is ``backbone.stages.xif{s}_{b}``; one that computes nothing has a number but no weights
- in it are ``conv`` and ``bn`` (convolution), ``conv.conv`` and ``conv.bn`` (skip that changes the width), ``pw``,
  ``dw``, ``se.se.0``, ``se.se.1`` and ``pwl`` (inverted residual), ``pw`` and ``pwl`` (last convolution and hidden
  layer)
- the classifier is ``head.conv``, a 1x1 convolution
"""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fbnet_mobile.arch import Architecture, Block
from fbnet_mobile.blocks.conv import ConvBlock
from fbnet_mobile.blocks.head import Head
from fbnet_mobile.blocks.inverted_residual import InvertedResidual
from fbnet_mobile.blocks.network import Network, build
from fbnet_mobile.errors import UserError
from fbnet_mobile.zoo.weights import read_weights

MEAN = (0.485, 0.456, 0.406)
"""Of each channel, on the scale from 0 to 1: what the source normalises its images with (preprocess.py)."""
STD = (0.229, 0.224, 0.225)
"""Standard deviation of each channel, on the same scale."""

# Beginnings of names within a block, theirs and ours; the first that fits counts.
_NAMES: dict[type[Block], dict[str, str]] = {
    ConvBlock: {"conv.conv.": "0.", "conv.bn.": "1.", "conv.": "0.", "bn.": "1."},
    InvertedResidual: {
        "pw.conv.": "expand.0.",
        "pw.bn.": "expand.1.",
        "dw.conv.": "depthwise.0.",
        "dw.bn.": "depthwise.1.",
        "se.se.0.conv.": "squeeze_excite.reduce.",
        "se.se.1.": "squeeze_excite.expand.",
        "pwl.conv.": "project.0.",
        "pwl.bn.": "project.1.",
    },
    Head: {
        "pw.conv.": "conv.0.",
        "pw.bn.": "conv.1.",
        "pwl.conv.": "hidden.0.",
        "conv.": "conv.0.",
        "bn.": "conv.1.",
    },
}


def load_mobile_cv(path: Path, architecture: Architecture) -> Network:
    """A published network with the weights that mobile_cv saved for it, ready for evaluation.

    Raises:
        UserError: the file is missing, damaged, no checkpoint of mobile_cv, or one of another network.
    """
    content = read_weights(path)
    refusal = f"{path} is not a checkpoint that mobile_cv saved for {architecture.name}"
    network = build(architecture)
    try:
        network.load_state_dict(own_names(content, architecture))
    except ValueError as error:
        raise UserError(f"{refusal}: {error}") from error
    except RuntimeError as error:
        raise UserError(f"{refusal}: weights are missing, or have another shape") from error
    return network.eval()


def own_names(weights: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """The weights of mobile_cv's network under the names of a ``Network`` of ``architecture``.

    Raises:
        ValueError: a name that no published network has, or weights of more or fewer blocks than there are.
    """
    head: dict[str, Tensor] = {}
    found: dict[tuple[int, int], dict[str, Tensor]] = {}
    for full, tensor in weights.items():
        name = full.removeprefix("module.")
        if name in ("head.conv.weight", "head.conv.bias"):
            head[f"classifier.{name.removeprefix('head.conv.')}"] = tensor.flatten(1) if tensor.dim() == 4 else tensor
        elif match := re.fullmatch(r"backbone\.stages\.xif(\d+)_(\d+)\.(.+)", name):
            found.setdefault((int(match[1]), int(match[2])), {})[match[3]] = tensor
        else:
            raise ValueError(f"it has weights named {full!r}")
    if len(found) != len(architecture.blocks):
        raise ValueError(f"it has weights of {len(found)} blocks instead of {len(architecture.blocks)}")
    own = {f"{len(found) - 1}.{name}": tensor for name, tensor in head.items()}
    for number, (block, place) in enumerate(zip(architecture.blocks, sorted(found), strict=True)):
        for name, tensor in found[place].items():
            theirs = next((start for start in _NAMES[type(block)] if name.startswith(start)), None)
            if theirs is None:
                raise ValueError(f"block xif{place[0]}_{place[1]} has weights named {name!r}")
            own[f"{number}.{_NAMES[type(block)][theirs]}{name.removeprefix(theirs)}"] = tensor
    return own
