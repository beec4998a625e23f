"""A network's feature maps instead of its logits: the backbone of a detector or of a segmenter."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from fbnet_mobile.arch import Architecture
from fbnet_mobile.errors import UserError
from fbnet_mobile.registry import unknown


class FeatureMaps(nn.Module):
    """A network that returns what some of its parts give, by the names that they are to have.

    Attributes:
        network: is run as it is.
        places: the path of a part, as in ``get_submodule``, by the name of what it gives.
    """

    def __init__(self, network: nn.Module, places: Mapping[str, str]) -> None:
        super().__init__()
        self.network, self.places = network, dict(places)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, channels, height, width) images to a feature map for each name."""
        found: dict[str, Tensor] = {}

        def keep(name: str) -> object:
            def hook(part: nn.Module, given: object, made: Tensor) -> None:
                found[name] = made

            return self.network.get_submodule(self.places[name]).register_forward_hook(hook)

        hooks = [keep(name) for name in self.places]
        try:
            self.network(images)
        finally:
            for hook in hooks:
                hook.remove()  # type: ignore[attr-defined]
        return {name: found[name] for name in self.places}


class NamedMaps(nn.Module):
    """A network that returns a list, with names for some of it.

    Attributes:
        network: as timm's ``features_only`` makes it.
        places: which of the list it is, by name.
    """

    def __init__(self, network: nn.Module, places: Mapping[str, int]) -> None:
        super().__init__()
        self.network, self.places = network, dict(places)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, channels, height, width) images to a feature map for each name."""
        maps = self.network(images)
        return {name: maps[place] for name, place in self.places.items()}


def backbone(architecture: Architecture, network: nn.Sequential, asked: Sequence[str]) -> nn.Module:
    """The network up to the last of the feature maps that are asked for.

    Args:
        architecture: of the network.
        network: its blocks, one after the other.
        asked: ``stride8`` for the last feature map of an eighth of the image's height and width, and so on; or the
            number of a block, from 0.

    Raises:
        UserError: there is no such feature map; the message lists those there are.
    """
    strides: dict[str, str] = {}
    stride = 1
    for number, block in enumerate(architecture.blocks[:-1]):
        stride *= block.stride
        strides[f"stride{stride}"] = str(number)
    known = {**strides, **{f"{number}": f"{number}" for number in range(len(architecture.blocks) - 1)}}
    places = {called(name): known[name] for name in chosen(asked, known)}
    last = max(int(place) for place in places.values())
    return FeatureMaps(network[: last + 1], places)


def chosen(asked: Sequence[str], known: Mapping[str, object]) -> Sequence[str]:
    """Return what was asked for; UserError for a name that is not known, or that is there twice."""
    for number, name in enumerate(asked):
        if name not in known:
            raise UserError(unknown("feature map", name, tuple(known)))
        if name in asked[:number]:
            raise UserError(f"the feature map {name} is asked for twice; name each once")
    return asked


def called(name: str) -> str:
    """Return how files call the feature map of a part: formats have letters, digits and _ in names alone."""
    name = name.replace(".", "_")
    return name if name.isidentifier() else f"block{name}"
