"""Networks that a user would otherwise pick, those of timm and torchvision, to hold a searched one against.

They are named ``timm:NAME`` and ``torchvision:NAME``, with the names of ``timm.list_models`` and
``torchvision.models.list_models``. What their input looks like is read from what comes with their weights: timm's
``pretrained_cfg``, and the ``transforms`` of torchvision's default weights.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.metadata import ModelMetadata
from fbnet_mobile.formats.packages import needs, quiet
from fbnet_mobile.registry import unknown
from fbnet_mobile.zoo.features import NamedMaps, called, chosen


class Peer(NamedTuple):
    """A network that is not ours.

    Attributes:
        module: takes (1, channels, height, width) float images and returns logits.
        input_shape: (1, channels, height, width).
        metadata: the normalisation and the classes; the architecture is empty.
    """

    module: nn.Module
    input_shape: tuple[int, int, int, int]
    metadata: ModelMetadata


def load_peer(
    name: str,
    *,
    pretrained: bool = False,
    resolution: int | tuple[int, int] | None = None,
    channels: int | None = None,
    classes: int | None = None,
    features: Sequence[str] = (),
) -> Peer:
    """Build a network of timm or torchvision.

    Args:
        name: ``timm:NAME`` or ``torchvision:NAME``; timm's may end in the tag of its weights, as in
            ``timm:mobilenetv3_large_100.ra_in1k``.
        pretrained: with its weights, downloaded unless they were before; freshly initialised otherwise.
        resolution: height and width of the input, in pixels, one number for both; by default that which its weights
            were trained for.
        channels: of the input, for timm's; by default that which its weights were trained for.
        classes: how many logits it has; by default as many as its weights.
        features: feature maps to give instead of logits, of timm's: ``stride8`` for that of an eighth of the height and
            width, or names of modules, as timm's ``features_only`` has them.

    Raises:
        UserError: no such network (the message has the nearest name), timm is not installed, or the weights do not
            exist or cannot be downloaded.
    """
    library, _, own = name.partition(":")
    build = _LIBRARIES.get(library)
    if build is None:
        raise UserError(
            unknown("library", library, _LIBRARIES, f"write {' or '.join(f'{n}:NAME' for n in _LIBRARIES)}")
        )
    size = (resolution, resolution) if isinstance(resolution, int) else resolution
    more: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if channels is not None:
        more["in_chans"] = channels
    peer = build(own, pretrained, size, more, features)
    if features or classes is None or classes == len(peer.metadata.classes):
        return peer
    return peer._replace(metadata=replace(peer.metadata, classes=tuple(map(str, range(classes)))))


Size = tuple[int, int]


def _timm(
    name: str, pretrained: bool, resolution: Size | None, more: Mapping[str, Any], features: Sequence[str]
) -> Peer:
    with needs("timm", "fbnet-mobile[timm]"):
        import timm
        from timm.data.imagenet_info import infer_imagenet_subset
    _check(name, [*timm.list_models(), *timm.list_pretrained()], "timm")
    with _building(f"timm:{name}", pretrained):
        module: Any = timm.create_model(name, pretrained=pretrained, **more)
        config = module.pretrained_cfg
        if features:
            # Not the weights again: only what there is, and where.
            found: Any = timm.create_model(name, features_only=True, **more).feature_info
            known = dict(zip(found.module_name(), found.out_indices, strict=True))
            known |= {f"stride{step}": index for step, index in zip(found.reduction(), found.out_indices, strict=True)}
            indices = {each: known[each] for each in chosen(features, known)}
            only = sorted({*indices.values()})
            maps = timm.create_model(name, pretrained=pretrained, features_only=True, out_indices=only, **more)
            module = NamedMaps(maps, {called(each): only.index(index) for each, index in indices.items()})
    own, height, width = config["input_size"]
    shape = (1, more.get("in_chans", own), *(resolution or (height, width)))
    mean, std = (_each(config[role], shape[1]) for role in ("mean", "std"))
    if features:
        return Peer(module, shape, ModelMetadata("", (), mean, std))
    imagenet = infer_imagenet_subset(module) == "imagenet-1k"
    classes = imagenet_classes() if imagenet else tuple(map(str, range(module.num_classes)))
    return Peer(module, shape, ModelMetadata("", classes, mean, std))


def _each(numbers: Sequence[float], channels: int) -> tuple[float, ...]:
    """A number for each channel: those there are, or their mean for another number of channels."""
    return tuple(numbers) if len(numbers) == channels else (sum(numbers) / len(numbers),) * channels


def _torchvision(
    name: str, pretrained: bool, resolution: Size | None, more: Mapping[str, Any], features: Sequence[str]
) -> Peer:
    from torchvision import models

    if "in_chans" in more or features:
        what = "feature maps" if features else "another number of channels"
        raise UserError(f"torchvision:{name} cannot be had with {what}; take one of timm's")

    _check(name, models.list_models(module=models), "torchvision")
    weights = models.get_model_weights(name).DEFAULT
    with _building(f"torchvision:{name}", pretrained):
        module = models.get_model(name, weights=weights if pretrained else None, **more)
    transforms = weights.transforms()
    height, width = (transforms.crop_size * 2)[:2]  # one number, for both, or two
    metadata = ModelMetadata("", tuple(weights.meta["categories"]), tuple(transforms.mean), tuple(transforms.std))
    return Peer(module, (1, len(metadata.mean), *(resolution or (height, width))), metadata)


_LIBRARIES = {"timm": _timm, "torchvision": _torchvision}


def _check(name: str, known: Sequence[str], library: str) -> None:
    if name not in known:
        full = [f"{library}:{each}" for each in known]
        raise UserError(unknown("network", f"{library}:{name}", full, f"see {_LISTS[library]} for all"))


_LISTS = {"timm": "timm.list_models()", "torchvision": "torchvision.models.list_models()"}


@contextmanager
def _building(name: str, pretrained: bool) -> Iterator[None]:
    """Keep the libraries' remarks away, and turn the ways in which weights fail to arrive into one error."""
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (OSError, RuntimeError, ValueError) as error:
        lines = str(error).strip().rstrip(".").splitlines() or [repr(error)]
        if not pretrained:
            raise UserError(f"cannot build {name}: {lines[0]}") from error
        raise UserError(
            f"cannot get the weights of {name}: {lines[0]}; connect to the network, or leave out --pretrained"
        ) from error


def imagenet_classes() -> tuple[str, ...]:
    """The names of ImageNet's 1000 classes, which come with torchvision."""
    from torchvision.models import MobileNet_V3_Small_Weights

    return tuple(MobileNet_V3_Small_Weights.DEFAULT.meta["categories"])
