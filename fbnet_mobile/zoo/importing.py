"""Networks of other libraries as architectures of ours, with their weights.

What a network holds is read off its modules: each of its blocks is a sequence of convolutions, each with a batch norm
and perhaps an activation, a squeeze-excite somewhere among them and perhaps a residual around. Which of our blocks that
is, the sequence alone says, whatever the library calls it. A part that was not read, be it a pooling without weights,
makes the network one that cannot be imported.

Classes and attributes are those of timm 1.0 (models/_efficientnet_blocks.py, efficientnet.py, mobilenetv3.py) and of
torchvision 0.21 and later (models/mobilenetv2.py, mobilenetv3.py, mnasnet.py, efficientnet.py).
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fbnet_mobile.arch import Architecture
from fbnet_mobile.blocks.network import build
from fbnet_mobile.documents import validated
from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.formats.metadata import ModelMetadata
from fbnet_mobile.registry import unknown
from fbnet_mobile.zoo import efficientnet_lite, load_network, mobile_cv, zoo_names
from fbnet_mobile.zoo.peers import imagenet_classes, load_peer
from fbnet_mobile.zoo.weights import read_weights

NETWORKS = (
    "timm.EfficientNet",
    "timm.MobileNetV3",
    "torchvision.EfficientNet",
    "torchvision.MNASNet",
    "torchvision.MobileNetV2",
    "torchvision.MobileNetV3",
)
"""Library and class of the networks that can be imported, as far as their parts can."""

# Of which the forward pass calls the children in the order in which they were registered.
_IN_ORDER = {
    *NETWORKS,
    "torch.Sequential",
    "timm.ConvNormAct",
    "torchvision.Conv2dNormActivation",
}
# Blocks, which are in order too: the attribute that says whether the input is added.
_BLOCKS = {
    "timm.ConvBnAct": "has_skip",
    "timm.DepthwiseSeparableConv": "has_skip",
    "timm.EdgeResidual": "has_skip",
    "timm.InvertedResidual": "has_skip",
    "timm.UniversalInvertedResidual": "has_skip",
    "torchvision.FusedMBConv": "use_res_connect",
    "torchvision.InvertedResidual": "use_res_connect",
    "torchvision.MBConv": "use_res_connect",
    "torchvision._InvertedResidual": "apply_residual",
}
_CONVOLUTIONS = {"torch.Conv2d": None, "timm.Conv2dSame": "same", "torch.Linear": None, "timm.Linear": None}
_NORMS = {"torch.BatchNorm2d", "timm.BatchNormAct2d"}
_ACTIVATIONS = {"torch.ReLU": "relu", "torch.ReLU6": "relu6", "torch.Hardswish": "hswish", "torch.SiLU": "silu"}
_GATES = {"torch.Hardsigmoid": "hsigmoid", "torch.Sigmoid": "sigmoid", "timm.Sigmoid": "sigmoid"}
_SQUEEZES = {
    "timm.SqueezeExcite": ("", "conv_reduce", "act1", "conv_expand", "gate"),
    "torchvision.SqueezeExcitation": ("avgpool", "fc1", "activation", "fc2", "scale_activation"),
}
_POOLS = {"torch.AdaptiveAvgPool2d", "timm.SelectAdaptivePool2d"}
_NOTHING_IN_EVALUATION = {
    "torch.Identity",
    "torch.Dropout",
    "torch.Flatten",
    "timm.DropPath",
    "torchvision.StochasticDepth",
}


class ForeignPartError(UserError):
    """A network has a part that is none of ours."""


class Imported(NamedTuple):
    """A network as one of ours.

    Attributes:
        architecture: its blocks.
        state_dict: its weights under our names, for ``fbnet_mobile.blocks.network.restore``.
        metadata: how its input is normalised, its classes and its architecture; None where nobody said.
    """

    architecture: Architecture
    state_dict: dict[str, Tensor]
    metadata: ModelMetadata | None = None


def imported(
    network: str | nn.Module, *, pretrained: bool = False, weights: Path | None = None, resolution: int | None = None
) -> Imported:
    """A network of another library, or a published one, as one of ours, with weights.

    Args:
        network: ``timm:NAME``, ``torchvision:NAME``, one of ``efficientnet_lite.NAMES`` or of ``zoo_names()``; or a
            module of one of the classes in ``NETWORKS``.
        pretrained: with the weights that are published; freshly initialised otherwise. Of no meaning for a module,
            which has what it has.
        weights: instead with those of a file, which the library saved of the same network with any number of classes;
            or without a classifier, of which there is then nothing in the result either.
        resolution: height and width of its input, pixels; by default that which its weights were trained for, and 224
            of a module.

    Raises:
        UserError: no such network, a part of it is none of ours, or its weights cannot be had.
    """
    if isinstance(network, nn.Module):
        return import_module(network, type(network).__name__, resolution or 224)
    if ":" not in network:
        return _own(network, pretrained, weights, resolution)
    if weights is None:
        peer = load_peer(network, pretrained=pretrained, resolution=resolution)
        found = import_module(peer.module, network, peer.input_shape[-1])
    else:
        given = read_weights(weights)
        with torch.device("meta"):
            empty = load_peer(network).module
        classifier = [f"{path}." for path, part in empty.named_modules() if isinstance(part, nn.Linear)][-1]
        classes = _classes(given, classifier)
        peer = load_peer(network, classes=classes, resolution=resolution)
        _load(peer.module, given, network, weights, classifier)
        found = import_module(peer.module, network, peer.input_shape[-1])
        if classes is None:
            found = _without_classifier(found)
    return found._replace(metadata=replace(peer.metadata, architecture=found.architecture.to_yaml()))


def _own(name: str, pretrained: bool, weights: Path | None, resolution: int | None) -> Imported:
    """A network that is ours already, whose weights others saved."""
    lite = name in efficientnet_lite.NAMES
    source: ModuleType = efficientnet_lite if lite else mobile_cv
    get = efficientnet_lite.architecture if lite else load_network
    known = (*zoo_names(), *efficientnet_lite.NAMES)
    if name not in known:
        raise UserError(f"{unknown('network', name, known)}; or write timm:NAME or torchvision:NAME")
    if pretrained and weights is None and not lite:
        raise UserError(f"the weights of {name} cannot be downloaded; give --weights with a file that mobile_cv saved")
    architecture = get(name) if resolution is None else get(name).with_resolution(resolution)
    classifier = f"{len(architecture.blocks) - 1}.classifier."
    network, kept = build(architecture), True
    if pretrained or weights is not None:
        path = weights or efficientnet_lite.packaged(name)
        try:
            given = source.own_names(read_weights(path), architecture)
        except ValueError as error:
            raise UserError(f"{shown(path)} does not hold the weights of {name}: {error}") from error
        classes = _classes(given, classifier)
        kept = classes is not None
        if classes is not None:
            architecture = architecture.with_classes(classes)
            network = build(architecture)
        _load(network, given, name, path, classifier)
    names = tuple(map(str, range(architecture.classes)))
    if len(names) == len(imagenet_classes()):
        names = imagenet_classes()
    metadata = ModelMetadata(architecture.to_yaml(), names, source.MEAN, source.STD)
    found = Imported(architecture, network.state_dict(), metadata)
    return found if kept else _without_classifier(found)


def _classes(given: Mapping[str, Tensor], classifier: str) -> int | None:
    """How many classes the classifier among some weights tells apart; None if there is none."""
    return len(given[f"{classifier}bias"]) if f"{classifier}bias" in given else None


def _load(module: nn.Module, given: Mapping[str, Tensor], name: str, path: Path, classifier: str) -> None:
    """Give a module the weights of a file, of which all must fit, and none be missing but the classifier's.

    Raises:
        UserError: they are those of another network; names the first that does not fit.
    """
    expected = module.state_dict()
    missing = [
        key
        for key in expected
        # Files from before 2018 have no count of batches.
        if key not in given and not key.endswith(".num_batches_tracked") and not key.startswith(classifier)
    ]
    wrong = [(key, "is missing") for key in missing]
    wrong += [(key, "has no place there") for key in given if key not in expected]
    wrong += [(k, "has another shape") for k in given if k in expected and given[k].shape != expected[k].shape]
    if wrong:
        key, why = wrong[0]
        raise UserError(
            f"{shown(path)} does not hold the weights of {name}: {shown(key)} {why}; give a file of that network"
        )
    module.load_state_dict({**expected, **given})


def _without_classifier(found: Imported) -> Imported:
    start = f"{len(found.architecture.blocks) - 1}.classifier."
    state = {key: value for key, value in found.state_dict.items() if not key.startswith(start)}
    return found._replace(state_dict=state)


def import_module(module: nn.Module, name: str, resolution: int) -> Imported:
    """A network of timm or torchvision as one of ours.

    It computes the same in evaluation and, but for dropout and dropped paths, in training. How fast batch norm's
    statistics move (its momentum) is a matter of how one trains, and is not taken over.

    Args:
        module: of one of the classes in ``NETWORKS``; may be on the meta device.
        name: of the architecture.
        resolution: height and width of its input, pixels.

    Raises:
        UserError: a part of it is none of ours; names the first.
    """
    reading = _Reading(module, name)
    if _kind(module) not in NETWORKS:
        raise reading.refused(module, "is no network of mobile blocks")
    parts, after = _parts(module, reading)
    found = [_block(part, reading) for part in parts]
    found[-1:] = _head(found[-1], after, reading)
    state = {
        f"{number}.{own}.{role}": tensor
        for number, block in enumerate(found)
        for own, layer in block.layers.items()
        for role, tensor in layer.state_dict().items()
    }
    for key, tensor in state.items():
        if ".hidden.0.weight" in key and tensor.dim() == 2:  # a linear layer is a 1x1 convolution of a single pixel
            state[key] = tensor[:, :, None, None]
    reading.require_all_read()
    architecture = {
        "name": name,
        "resolution": resolution,
        "input_channels": found[0].layers["0"].in_channels,
        "blocks": [{"kind": block.kind, **block.fields} for block in found],
    }
    return Imported(validated(Architecture, architecture, f"network {name}"), state)


@dataclass
class _Layer:
    """A convolution or linear layer with what stands behind it."""

    conv: Any
    padding: str | None = None
    norm: Any = None
    activation: str | None = None

    @property
    def kernel_size(self) -> int:
        return int(self.conv.kernel_size[0]) if isinstance(self.conv, nn.Conv2d) else 1

    @property
    def stride(self) -> int:
        return int(self.conv.stride[0]) if isinstance(self.conv, nn.Conv2d) else 1

    @property
    def groups(self) -> int:
        return int(self.conv.groups) if isinstance(self.conv, nn.Conv2d) else 1

    @property
    def out_channels(self) -> int:
        return int(self.conv.weight.shape[0])

    @property
    def bias(self) -> bool:
        return self.conv.bias is not None

    @property
    def role(self) -> str:
        """One letter: depthwise, pointwise or full."""
        if self.groups > 1 and self.groups == self.conv.in_channels == self.conv.out_channels:
            return "d"
        return "p" if self.kernel_size == 1 else "f"


@dataclass(frozen=True)
class _Squeeze:
    """A squeeze-excite."""

    reduce: Any
    expand: Any
    activation: str
    gate: str


@dataclass
class _Part:
    """What becomes one block, or stands behind the pool: its layers in order."""

    module: nn.Module
    layers: "list[_Layer | _Squeeze]" = field(default_factory=list)
    residual: bool = False
    alone: bool = False
    """Whether it stands in no block of its library."""

    @property
    def roles(self) -> str:
        """What its layers are, a letter each."""
        return "".join(layer.role if isinstance(layer, _Layer) else "s" for layer in self.layers)

    @property
    def squeezes(self) -> list[_Squeeze]:
        """Its squeeze-excites."""
        return [layer for layer in self.layers if isinstance(layer, _Squeeze)]


@dataclass(frozen=True)
class _Block:
    """A block of ours: its kind, its fields, and the modules that its layers get their weights from."""

    kind: str
    fields: dict[str, Any]
    layers: dict[str, nn.Module]
    part: _Part


class _Reading:
    """Which modules of a network were read, and where they are."""

    def __init__(self, network: nn.Module, name: str) -> None:
        self.network, self.name = network, name
        self.paths = {id(part): path for path, part in network.named_modules()}
        self.read: set[int] = set()

    def refused(self, part: nn.Module, why: str) -> ForeignPartError:
        """The error for a part that does not fit."""
        where = self.paths.get(id(part)) or "it"
        return ForeignPartError(
            f"cannot import {shown(self.name)}: {where} ({type(part).__name__}) {why}; "
            "fbnet-benchmark --list-models shows what can be"
        )

    def take(self, *parts: Any) -> None:
        """Count modules as read, but not what is in them."""
        self.read.update(map(id, parts))

    def require_all_read(self) -> None:
        """Refuse a network of which something was overlooked."""
        for part in self.network.modules():
            known = id(part) in self.read or _kind(part) in _NOTHING_IN_EVALUATION
            if not known and not any(True for _ in part.children()):
                raise self.refused(part, "is no part of our blocks")


def _kind(module: nn.Module) -> str:
    """Library and class."""
    return f"{type(module).__module__.partition('.')[0]}.{type(module).__name__}"


def _in_order(module: nn.Module, block: nn.Module | None = None) -> Iterator[tuple[nn.Module, nn.Module | None]]:
    """Every layer in the order of the forward pass, with the block that it stands in."""
    kind = _kind(module)
    if kind not in _IN_ORDER and kind not in _BLOCKS:
        yield module, block
        return
    for child in module.children():
        yield from _in_order(child, module if kind in _BLOCKS else block)


def _parts(network: nn.Module, reading: _Reading) -> tuple[list[_Part], _Part]:
    """The blocks before the pool, and what stands behind it."""
    parts: list[_Part] = []
    after: _Part | None = None
    for module, block in _in_order(network):
        kind = _kind(module)
        if kind in _POOLS or (isinstance(module, nn.Linear) and after is None):
            if after is not None:
                raise reading.refused(module, "is a second pool")
            after = _Part(module)  # a pool that is a function stands in front of the first linear layer
            if kind in _POOLS:
                _check_pool(module, reading)
                continue
        if after is not None:
            into = after
        elif block is not None:
            if not parts or parts[-1].module is not block:
                parts.append(_Part(block, residual=bool(getattr(block, _BLOCKS[_kind(block)]))))
            into = parts[-1]
        else:
            if kind in _CONVOLUTIONS and not (parts and parts[-1].alone and _continues(parts[-1], module)):
                parts.append(_Part(module, alone=True))
            elif not parts or not parts[-1].alone:
                parts.append(_Part(module, alone=True))  # of which _append says why, if it is more than nothing
            into = parts[-1]
        _append(into, module, reading)
    parts = [part for part in parts if part.layers]
    if after is None or not after.layers or not parts:
        raise reading.refused(network, "has no convolutions with a pool and a classifier behind them")
    return parts, after


def _continues(part: _Part, module: nn.Module) -> bool:
    """Whether a convolution that stands in no block is the pointwise one of a depthwise one before it."""
    return part.roles == "d" and _Layer(module).role == "p"


def _check_pool(module: Any, reading: _Reading) -> None:
    size = getattr(module, "output_size", 1)
    if getattr(module, "pool_type", "avg") not in ("avg", "fast") or size not in (1, (1, 1)):
        raise reading.refused(module, "is no average over the whole map")
    reading.take(module, getattr(module, "pool", None))


def _append(part: _Part, module: Any, reading: _Reading) -> None:
    """Add a layer, or what belongs to the last one."""
    kind, layers = _kind(module), part.layers
    last = layers[-1] if layers and isinstance(layers[-1], _Layer) else None
    if kind in _CONVOLUTIONS:
        layers.append(_layer(module, reading))
    elif kind in _NORMS:
        if last is None or last.norm is not None or last.activation is not None:
            raise reading.refused(module, "is a batch norm behind no convolution")
        if not module.affine or not module.track_running_stats:
            raise reading.refused(module, "has no weights, or no statistics")
        behind = getattr(module, "act", None)
        last.norm, last.activation = module, _activation(behind, reading)
        reading.take(behind)
    elif kind in _ACTIVATIONS:
        if last is None or last.activation is not None:
            raise reading.refused(module, "is an activation behind no convolution")
        last.activation = _activation(module, reading)
    elif kind in _SQUEEZES:
        layers_of: list[Any] = [getattr(module, name, None) for name in _SQUEEZES[kind]]
        pool, reduce, activation, expand, gate = layers_of
        if _kind(gate) not in _GATES:
            raise reading.refused(gate, "is no gate of ours")
        between = [_layer(reduce, reading), _layer(expand, reading)]
        if any(layer.role != "p" or layer.stride != 1 or not layer.bias for layer in between):
            raise reading.refused(module, "is no squeeze-excite of two 1x1 convolutions with biases")
        reading.take(pool, reduce, activation, expand, gate)
        layers.append(_Squeeze(reduce, expand, _activation(activation, reading) or "", _GATES[_kind(gate)]))
    elif kind not in _NOTHING_IN_EVALUATION:
        raise reading.refused(module, "is no part of our blocks")
    reading.take(module)


def _activation(module: nn.Module | None, reading: _Reading) -> str | None:
    if module is None or _kind(module) == "torch.Identity":
        return None
    if _kind(module) not in _ACTIVATIONS:
        raise reading.refused(module, "is no activation of ours")
    return _ACTIVATIONS[_kind(module)]


def _layer(module: Any, reading: _Reading) -> _Layer:
    if _kind(module) not in _CONVOLUTIONS:
        raise reading.refused(module, "is no part of our blocks")
    layer = _Layer(module, _CONVOLUTIONS[_kind(module)])
    if isinstance(module, nn.Conv2d):
        size, sides = layer.kernel_size, 0 if layer.padding else layer.kernel_size // 2
        square = module.kernel_size == (size, size) and module.stride == (layer.stride, layer.stride)
        if size % 2 == 0 or not square:
            raise reading.refused(module, f"has a kernel of {module.kernel_size}, not of one odd size")
        if module.padding != (sides, sides) or module.dilation != (1, 1) or module.padding_mode != "zeros":
            raise reading.refused(module, f"is padded by {module.padding}, or dilated")
    return layer


def _block(part: _Part, reading: _Reading) -> _Block:
    """The block of ours that a sequence of layers is."""
    roles, layers = part.roles, [layer for layer in part.layers if isinstance(layer, _Layer)]
    make = next((make for pattern, make in _PATTERNS.items() if re.fullmatch(pattern, roles)), None)
    if make is None:
        raise reading.refused(part.module, f"is none of our blocks ({_said(roles)})")
    if any(layer.norm is None for layer in layers):
        raise reading.refused(part.module, "has a convolution without a batch norm")
    eps = _one({layer.norm.eps for layer in layers}, "eps of its batch norms", part, reading)
    kind, own, named = make(part, layers, reading)
    strides = [layer for layer in layers if layer.stride > 1]
    fields = {
        "out_channels": layers[-1].out_channels,
        "stride": strides[0].stride if strides else 1,
        "padding": strides[0].padding if strides else None,
        "batch_norm_eps": eps,
        **own,
    }
    modules: dict[str, nn.Module] = {}
    for name, layer in named.items():
        modules |= {f"{name}0": layer.conv, f"{name}1": layer.norm}
    for squeeze in part.squeezes:
        modules |= {"squeeze_excite.reduce": squeeze.reduce, "squeeze_excite.expand": squeeze.expand}
    return _Block(kind, fields, modules, part)


def _one(values: Collection[Any], what: str, part: _Part, reading: _Reading) -> Any:
    """The one value that there is."""
    if len(values) > 1:
        raise reading.refused(part.module, f"has more than one {what}: {', '.join(sorted(map(str, values)))}")
    return next(iter(values), None)


_Made = tuple[str, dict[str, Any], dict[str, _Layer]]


def _conv(part: _Part, layers: list[_Layer], reading: _Reading) -> _Made:
    (layer,) = layers
    if layer.groups != 1 or layer.activation is None:
        raise reading.refused(part.module, "is a convolution with groups, or without an activation")
    fields = {"kernel_size": layer.kernel_size, "activation": layer.activation, "bias": layer.bias}
    return "conv", {**fields, "residual": part.residual}, {"": layer}


def _inverted_residual(part: _Part, layers: list[_Layer], reading: _Reading) -> _Made:
    *expand, depthwise, project = layers
    _strides_only(depthwise, part, layers, reading)
    fields = {
        "expanded_channels": expand[0].out_channels if expand else None,
        "kernel_size": depthwise.kernel_size,
        "activation": _activation_of([*expand, depthwise], part, reading),
        "groups": _one({layer.groups for layer in [*expand, project]}, "number of groups", part, reading),
        "bias": _one({layer.bias for layer in layers}, "answer to whether there are biases", part, reading),
        "project_activation": project.activation,
        **_squeeze_fields(part),
        **_residual_fields(part, layers),
    }
    if fields["groups"] != 1:
        raise reading.refused(part.module, "has groups in its 1x1 convolutions, without a shuffle")
    named = {"expand.": expand[0]} if expand else {}
    return "inverted_residual", fields, {**named, "depthwise.": depthwise, "project.": project}


def _fused_inverted_residual(part: _Part, layers: list[_Layer], reading: _Reading) -> _Made:
    expand, project = layers
    _strides_only(expand, part, layers, reading)
    _linear([project], part, reading)
    fields = {
        "expanded_channels": expand.out_channels,
        "kernel_size": expand.kernel_size,
        "activation": _activation_of([expand], part, reading),
        "groups": expand.groups,
        **_squeeze_fields(part),
        **_residual_fields(part, layers),
    }
    return "fused_inverted_residual", fields, {"expand.": expand, "project.": project}


def _universal_inverted_residual(part: _Part, layers: list[_Layer], reading: _Reading) -> _Made:
    expand, project = (layer for layer in layers if layer.role == "p")
    before, behind = layers.index(expand), layers.index(project)
    depthwise = {"start.": layers[:before], "middle.": layers[before + 1 : behind], "end.": layers[behind + 1 :]}
    there = {name: layer for name, found in depthwise.items() for layer in found}
    _linear([layer for layer in (there.get("start."), project, there.get("end.")) if layer], part, reading)
    strided = there.get("middle.") or there.get("start.") or there.get("end.")
    _strides_only(strided, part, layers, reading)
    fields = {
        "expanded_channels": expand.out_channels,
        **{f"{name[:-1]}_kernel_size": layer.kernel_size for name, layer in there.items()},
        "activation": _activation_of([layer for layer in (expand, there.get("middle.")) if layer], part, reading),
        **_residual_fields(part, layers),
    }
    return "universal_inverted_residual", fields, {**there, "expand.": expand, "project.": project}


def _linear(layers: list[_Layer], part: _Part, reading: _Reading) -> None:
    if any(layer.activation is not None for layer in layers):
        raise reading.refused(part.module, "has an activation in another place than ours has")


def _activation_of(layers: list[_Layer], part: _Part, reading: _Reading) -> str:
    activation = _one({layer.activation for layer in layers}, "activation", part, reading)
    if activation is None:
        raise reading.refused(part.module, "has no activation")
    return str(activation)


def _strides_only(layer: _Layer | None, part: _Part, layers: list[_Layer], reading: _Reading) -> None:
    if any(other.stride != 1 for other in layers if other is not layer):
        raise reading.refused(part.module, "has a stride in another convolution than ours has")


def _squeeze_fields(part: _Part) -> dict[str, Any]:
    return {
        name: value
        for squeeze in part.squeezes
        for name, value in {
            "se_channels": int(squeeze.reduce.out_channels),
            "se_activation": squeeze.activation,
            "se_gate": squeeze.gate,
        }.items()
    }


def _residual_fields(part: _Part, layers: list[_Layer]) -> dict[str, Any]:
    same = layers[0].conv.in_channels == layers[-1].out_channels and all(layer.stride == 1 for layer in layers)
    return {"no_residual": same and not part.residual}


_PATTERNS = {
    "[fp]": _conv,
    "p?ds?p": _inverted_residual,
    "fs?p": _fused_inverted_residual,
    "d?pd?pd?": _universal_inverted_residual,
}
"""By what the layers are: full, pointwise or depthwise convolutions, and squeeze-excites."""
_NAMES = {"f": "convolution", "p": "1x1 convolution", "d": "depthwise convolution", "s": "squeeze-excite"}


def _said(roles: str) -> str:
    return ", ".join(_NAMES[role] for role in roles) or "nothing in it"


def _head(last: _Block, after: _Part, reading: _Reading) -> list[_Block]:
    """The head, with the last block in it if that is the 1x1 convolution before the pool."""
    layers = [layer for layer in after.layers if isinstance(layer, _Layer)]
    *hidden, classifier = layers
    if len(layers) != len(after.layers) or len(layers) > 2 or after.roles.strip("p"):
        raise reading.refused(after.module, f"is followed by more than a layer and a classifier ({_said(after.roles)})")
    if classifier.norm is not None or classifier.activation is not None or not classifier.bias:
        raise reading.refused(classifier.conv, "is no classifier: a linear layer with a bias")
    between = hidden[0] if hidden else None
    if between is not None and between.activation is None:
        raise reading.refused(between.conv, "has no activation behind it")
    alike = {key: last.fields[key] for key in ("activation", "batch_norm_eps")} if last.kind == "conv" else {}
    joins = last.kind == "conv" and not last.fields["residual"] and last.fields["kernel_size"] == 1
    joins = joins and last.fields["stride"] == 1
    if joins and between is not None:
        joins = between.activation == alike["activation"] and (between.bias or not last.fields["bias"])
        joins = joins and (between.norm is None or between.norm.eps == alike["batch_norm_eps"])
    fields: dict[str, Any] = {"out_channels": classifier.out_channels}
    named: dict[str, nn.Module] = {}
    if between is not None:
        fields |= {
            "hidden_channels": between.out_channels,
            "activation": between.activation,
            "hidden_bias": between.bias,
            "hidden_norm": between.norm is not None,
            "batch_norm_eps": between.norm.eps if between.norm is not None else None,
        }
        named["hidden.0"] = between.conv
        if between.norm is not None:
            named["hidden.1"] = between.norm
    if joins:
        fields |= {**alike, "conv_channels": last.fields["out_channels"], "bias": last.fields["bias"]}
        named |= {f"conv.{own}": layer for own, layer in last.layers.items()}
    named["classifier"] = classifier.conv
    head = _Block("head", fields, named, after)
    return [head] if joins else [last, head]
