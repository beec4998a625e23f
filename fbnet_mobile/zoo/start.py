"""What a training starts from: a network's architecture, with weights or without."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fbnet_mobile.arch import Architecture
from fbnet_mobile.blocks.network import Network, build
from fbnet_mobile.engine.checkpoint import load_checkpoint
from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.zoo import load_architecture
from fbnet_mobile.zoo.importing import imported


@dataclass(frozen=True)
class Start:
    """A network to train.

    Attributes:
        name: what it is called in remarks.
        architecture: with as many classes as the weights were trained for.
        weights: under the names of a ``Network``; none to draw them. Those of the classifier may be missing.
        classes: names of the weights' classes; none where nobody knows them, so that their number has to do.
        mean: of each channel, what the weights' images were normalised with; none: as the data have it.
        std: likewise.
    """

    name: str
    architecture: Architecture
    weights: Mapping[str, Tensor] | None = None
    classes: tuple[str, ...] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    def for_classes(self, classes: tuple[str, ...]) -> tuple[Architecture, list[str]]:
        """The network for these classes, and what to say of a classifier that is not that of the start."""
        have, want = self.architecture.classes, len(classes)
        if self.keeps_classifier(classes):
            return self.architecture, []
        if self.weights is None:
            return self.architecture.with_classes(want), [
                f"{self.name} has {have} classes, the data {want}: its classifier is changed"
            ]
        if not self._classifier:
            why = "has no weights for a classifier"
        elif have == want:
            why = f"tells apart {have} other classes than the data"
        else:
            why = f"has {have} classes, the data {want}"
        unused = f"; not used: {', '.join(self._classifier)}" if self._classifier else ""
        return self.architecture.with_classes(want), [f"{self.name} {why}: its classifier begins anew{unused}"]

    def keeps_classifier(self, classes: tuple[str, ...]) -> bool:
        """Whether the classifier of the start is of use for these classes."""
        if self.weights is not None and not self._classifier:
            return False
        return classes == self.classes if self.classes is not None else len(classes) == self.architecture.classes

    def network(self, classes: tuple[str, ...]) -> Network:
        """The network for these classes, with the start's weights; those that it has none for are drawn."""
        network = build(self.for_classes(classes)[0])
        weights = dict(self.weights or {})
        if not self.keeps_classifier(classes):
            for name in self._classifier:
                del weights[name]
        network.load_state_dict({**network.state_dict(), **weights})
        return network

    @property
    def _classifier(self) -> list[str]:
        """The names of the classifier's weights."""
        start = f"{len(self.architecture.blocks) - 1}.classifier."
        return [name for name in self.weights or {} if name.startswith(start)]


def from_architecture(name_or_path: str) -> Start:
    """A published network, or one of an architecture file, with random weights.

    Raises:
        UserError: as for ``load_architecture``.
    """
    return Start(name_or_path, load_architecture(name_or_path))


def from_model(name: str, *, pretrained: bool = False, weights: Path | None = None) -> Start:
    """A network by its name (see ``imported``), with its published weights, those of a file, or random ones.

    Raises:
        UserError: as for ``imported``.
    """
    found = imported(name, pretrained=pretrained, weights=weights)
    metadata = found.metadata
    if (not pretrained and weights is None) or metadata is None:
        return Start(name, found.architecture)
    if len(metadata.mean) != 3:
        raise UserError(f"{name} takes {len(metadata.mean)} channels; images have 3")
    return Start(
        name if weights is None else shown(weights),
        found.architecture,
        found.state_dict,
        mean=_of_colours(metadata.mean),
        std=_of_colours(metadata.std),
    )


def from_checkpoint(path: Path) -> Start:
    """A network that was trained here, with its weights.

    Raises:
        UserError: it is no checkpoint, or a damaged one.
    """
    checkpoint = load_checkpoint(path)
    weights = checkpoint.network(str(path)).state_dict()  # which sees that they fit
    architecture = Architecture.from_yaml(checkpoint.architecture, str(path))
    return Start(
        shown(path),
        architecture,
        weights,
        checkpoint.classes,
        _of_colours(checkpoint.mean),
        _of_colours(checkpoint.std),
    )


def _of_colours(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue
