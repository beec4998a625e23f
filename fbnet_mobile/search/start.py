"""A trained network that a search begins with, and learns from."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from lightning_fabric import Fabric

from fbnet_mobile.arch import Architecture
from fbnet_mobile.blocks.network import Network
from fbnet_mobile.data.augment import normalise
from fbnet_mobile.data.data import Data
from fbnet_mobile.data.split import Split
from fbnet_mobile.engine.checkpoint import Checkpoint, load_checkpoint
from fbnet_mobile.engine.losses import Loss, Teacher, make_loss
from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.search.importance import by_images, by_weights, sort_channels
from fbnet_mobile.search.recipe import SearchRecipe
from fbnet_mobile.space import SearchSpace

_IMAGES = 1024
"""To order channels by."""
_BATCH = 64


@dataclass(frozen=True)
class Start:
    """A checkpoint, read.

    Attributes:
        path: of the file.
        checkpoint: its content.
        architecture: of the network.
        digest: changes where the file does.
    """

    path: Path
    checkpoint: Checkpoint
    architecture: Architecture
    digest: str

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a checkpoint.

        Raises:
            UserError: it is none.
        """
        checkpoint = load_checkpoint(path)
        architecture = Architecture.from_yaml(checkpoint.architecture, str(path))
        return cls(path, checkpoint, architecture, hashlib.sha256(path.read_bytes()).hexdigest())

    def require(self, space: SearchSpace, name: str) -> None:
        """Refuse a space that is not within this network.

        Raises:
            UserError: it is not; says where they part.
        """
        again = f"write it anew with fbnet-profile --within {shown(self.path)}"
        if not space.blocks:
            raise UserError(f"space {name} is not written block by block, as one within a network is; {again}")
        if max(space.resolution) != self.architecture.resolution:
            raise UserError(
                f"the largest resolution of space {name} is {max(space.resolution)}, that of {shown(self.path)} "
                f"{self.architecture.resolution}; {again}"
            )
        if len(space.blocks) != len(self.architecture.blocks):
            raise UserError(
                f"space {name} has {len(space.blocks)} blocks, {shown(self.path)} {len(self.architecture.blocks)}; "
                f"{again}"
            )
        for position, block in zip(space.positions, self.architecture.blocks, strict=True):
            first = position.block({key: options[0] for key, options in position.variables.items()})
            if first != block or position.largest() != block:
                raise UserError(
                    f"{position.name} of space {name} is not, with the first and largest options, that of "
                    f"{shown(self.path)}, '{block.key}'; {again}"
                )

    def require_classes(self, classes: Sequence[str], source: str) -> None:
        """Refuse images that are not of the classes that the network tells from one another.

        Raises:
            UserError: they are not.
        """
        if tuple(classes) != self.checkpoint.classes:
            raise UserError(
                f"{shown(self.path)} tells {len(self.checkpoint.classes)} classes from one another, {shown(source)} "
                f"has {len(classes)}, or others; give the images that it was trained on, or train it on these first"
            )

    def colours(self, data: Data) -> Data:
        """The data with the normalisation that the network was trained with."""
        mean, std = self.checkpoint.mean, self.checkpoint.std
        return replace(data, mean=(mean[0], mean[1], mean[2]), std=(std[0], std[1], std[2]))

    def sorted_network(self, space: SearchSpace, data: Data, images: Split, recipe: SearchRecipe) -> Network:
        """The network with its channels in the order in which they are kept."""
        network = self.checkpoint.network(str(self.path))
        if recipe.channel_order == "weights":
            sort_channels(network, space, by_weights(network, space))
            return network
        some = images.limit(_IMAGES, recipe.seed)
        with torch.enable_grad():
            batches = ((normalise(pixels, data.mean, data.std), labels) for pixels, labels in some.batches(_BATCH))
            sort_channels(network, space, by_images(network, space, batches))
        return network

    def loss(self, recipe: SearchRecipe, data: Data, fabric: Fabric) -> tuple[Loss, Teacher]:
        """The loss of the weights, with the network as the teacher."""
        settings = _Distillation(str(self.path), recipe.distillation_weight, recipe.distillation_temperature)
        loss, teacher = make_loss(settings, data, fabric)
        assert teacher is not None
        return loss, teacher


@dataclass(frozen=True)
class _Distillation:
    """See ``LossSettings``."""

    teacher: str
    distillation_weight: float
    distillation_temperature: float
    loss: str = "distillation"
    distillation: str = "soft"
    class_weights: str = ""
    label_smoothing: float = 0.0
