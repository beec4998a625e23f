"""The published networks, as architecture files: FBNetV2, the dmasking networks before it, and FBNet.

Each file was written from the network that its ``description`` names, as that source builds it: widths are those after
its rounding, and what it calls a skip is a 1x1 convolution where the width changes and is left out where nothing does.
"""

import csv
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from fbnet_mobile.arch import Architecture, Block
from fbnet_mobile.blocks.head import Head
from fbnet_mobile.blocks.inverted_residual import InvertedResidual
from fbnet_mobile.errors import UserError
from fbnet_mobile.files import exists
from fbnet_mobile.registry import unknown

SOURCE = "facebookresearch/mobile-vision"
"""The repository that the networks and the published numbers come from."""


class Accuracy(NamedTuple):
    """A published accuracy.

    Attributes:
        top1: of the source's own weights on ImageNet's validation images, in percent, rounded to one decimal.
        source: where it is stated, in ``SOURCE``.
    """

    top1: float
    source: str


_FBNETV2 = "model_info_fbnet_v2.json@bb8465c"
_DMASKING = "model_info_dmasking.json@a21b5e2"
_FBNET = "model_info_fbnet.json@bb8465c"

PUBLISHED_ACCURACY = {
    "fbnetv2-f1": Accuracy(68.3, _FBNETV2),
    "fbnetv2-f2": Accuracy(71.0, _FBNETV2),
    "fbnetv2-f3": Accuracy(73.0, _FBNETV2),
    "fbnetv2-f4": Accuracy(75.8, _FBNETV2),
    "fbnetv2-l1": Accuracy(77.0, _FBNETV2),
    "fbnetv2-l2": Accuracy(78.2, _FBNETV2),
    "dmasking-f1": Accuracy(68.3, _DMASKING),
    "dmasking-f4": Accuracy(75.5, _DMASKING),
    "dmasking-l2-hs": Accuracy(77.7, _DMASKING),
    "dmasking-l3": Accuracy(78.9, _DMASKING),
    "fbnet-a": Accuracy(73.3, _FBNET),
    "fbnet-b": Accuracy(74.5, _FBNET),
    "fbnet-c": Accuracy(75.2, _FBNET),
}
"""By the network's name; there is none for fbnetv2-f0."""


def zoo_names() -> tuple[str, ...]:
    """Names of the networks that ship with the package, in alphabetical order."""
    files = resources.files("fbnet_mobile.zoo").iterdir()
    return tuple(sorted(Path(file.name).stem for file in files if file.name.endswith(".yaml")))


def load_network(name: str) -> Architecture:
    """The architecture of a published network.

    Raises:
        UserError: no such network; the message has the nearest name and the list.
    """
    known = zoo_names()
    if name not in known:
        raise UserError(unknown("network", name, known))
    text = (resources.files("fbnet_mobile.zoo") / f"{name}.yaml").read_text(encoding="utf-8")
    return Architecture.from_yaml(text, f"network {name}")


def load_architecture(name_or_path: str) -> Architecture:
    """An architecture by the name of a published network, or by the path of a YAML file.

    Raises:
        UserError: neither exists, or the file is not an architecture.
    """
    known = zoo_names()
    if name_or_path in known:
        return load_network(name_or_path)
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1 or exists(path):
        return Architecture.load(path)
    raise UserError(f"{unknown('network', name_or_path, known)}; or give the path of a YAML file")


class Importable(NamedTuple):
    """A network of others that becomes ours, see ``fbnet_mobile.zoo.importing``.

    Attributes:
        name: that ``--model`` takes.
        resolution: height and width of its input, in pixels, as its weights were trained.
        macs: multiply-accumulates of convolutions and linear layers there.
        params: trainable parameters.
    """

    name: str
    resolution: int
    macs: int
    params: int


def importable() -> tuple[Importable, ...]:
    """The networks of timm 1.0.31, torchvision 0.29.1 and the packages that can be imported (benchmarks/imports.py)."""
    text = (resources.files("fbnet_mobile.zoo") / "importable.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return tuple(
        Importable(row["name"], *(int(row[field]) for field in ("resolution", "macs", "params"))) for row in rows
    )


def published_macs(architecture: Architecture) -> int:
    """Multiply-accumulates for one image as the source counts its "flops".

    They are those of convolutions and linear layers, and one for each element that a global average pool reads.
    """
    return architecture.macs + sum(_pooled_elements(block) for block in architecture.blocks)


def published_params(architecture: Architecture) -> int:
    """Parameters as the source counts them: weights of convolutions and linear layers, no biases, no batch norm."""
    return sum(convolution.weights for block in architecture.blocks for convolution in block.convolutions())


def _pooled_elements(block: Block) -> int:
    """Elements that global average pools read in the source: squeeze-excite's, the head's, the classifier's.

    The source's classifier begins with a pool of its own. After a hidden layer that is a second one, over a single
    pixel, which changes nothing and so is no part of our ``Head``, but is counted there.
    """
    if isinstance(block, InvertedResidual) and block.se_channels is not None:
        return block.depthwise_channels * block.out_resolution**2
    if isinstance(block, Head):
        return block.pooled_channels * block.resolution**2 + (block.hidden_channels or 0)
    return 0
