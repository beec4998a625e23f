"""Writes a graph as a Core ML package: an ML Program for iOS 15 and later, in 32-bit floats, channels first.

A network with a name for each of its classes becomes a classifier, as Xcode and the Vision framework know it: beside
"output", the logits or the probabilities, it gives "classLabel" and "classLabel_probs", the probabilities by name. A
network that takes pixels takes an image.

Built with the MIL builder of coremltools
(https://apple.github.io/coremltools/docs-guides/source/mil-ops.html), which does not touch PyTorch. Equal
graphs and metadata give equal bytes, once the date and the random identifiers that coremltools puts into every package
are replaced.
"""

import errno
import json
import os
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.coreml.metadata import OWN_KEYS, PREVIEW, opening, recognises
from fbnet_mobile.formats.metadata import ModelMetadata
from fbnet_mobile.formats.packages import quiet
from fbnet_mobile.graph.operations import INPUT, Graph, Node, Shape

with quiet():
    import coremltools as ct
    from coremltools.converters.mil import Builder as mil  # noqa: N813
    from coremltools.converters.mil import Function, Program
    from coremltools.converters.mil.frontend.milproto.load import load


def write(graph: Graph, path: Path, metadata: Mapping[str, str]) -> None:
    """Write ``graph`` with the tensors, or the image, that its inputs and outputs are called.

    Args:
        graph: the network.
        path: is not there yet.
        metadata: strings to keep; "classes", if there, is a JSON list of the names of the logits.

    Raises:
        UserError: it takes pixels of several pictures at a time, or of a number of channels that no image has,
            or an input or a result has a name that Core ML keeps for itself.
    """
    if graph.pixels and graph.input_shape[0] != 1:
        raise UserError("cannot write pixels of several pictures at a time to Core ML; let the file take float32")
    if graph.pixels and graph.input_shape[1] not in _COLOURS:
        raise UserError(
            f"cannot write pixels of {graph.input_shape[1]} channels to Core ML, whose images have 1 or 3; let the "
            "file take float32"
        )
    labels = _labels(graph, metadata)
    with quiet():
        program = Program()
        placeholders = {name: mil.placeholder(shape=shape) for name, shape in graph.inputs.items()}
        names = {node: name for name, node in graph.outputs.items()}
        with Function(placeholders, opset_version=_TARGET) as function:
            values: dict[str, Any] = dict(function.inputs)
            for node in graph.nodes:
                operands = [values[name] for name in node.inputs]
                if "constant" in node.weights:
                    operands.append(node.weights["constant"])
                values[node.name] = _RULES[node.op](node, operands, names.get(node.name, node.name))
            outputs = [values[node] for node in graph.outputs.values()]
            if labels and graph.node(graph.output).op == "softmax":
                outputs.append(mil.identity(x=values[graph.output], name=_PROBABILITIES))
            elif labels:
                outputs.append(mil.softmax(x=values[graph.output], axis=1, name=_PROBABILITIES))
            function.set_outputs(outputs)
        program.add_function("main", function)
        model = _package(program, ct.precision.FLOAT32, labels, graph.input_shape if graph.pixels else None)
        described = model.get_spec().description
        taken = {entry.name for entry in (*described.input, *described.output)}
        if changed := [name for name in (*graph.inputs, *graph.outputs) if name not in taken]:
            raise UserError(f"Core ML does not have the name {changed[0]}; call it otherwise")
        model.user_defined_metadata.update(metadata)
        known = ModelMetadata.from_strings(metadata)
        if known is not None:
            _describe(model, known, classifies=bool(labels) and graph.pixels)
        save(model, path)


def _describe(model: Any, metadata: ModelMetadata, *, classifies: bool) -> None:
    """Fill in what Xcode shows of a package, and whether it lets one try it on pictures."""
    model.author, model.license, model.version = metadata.author, metadata.license, metadata.version
    model.short_description = metadata.description
    model.input_description[INPUT] = "The picture." if metadata.input == "uint8" else "The picture, normalised."
    model.output_description["output"] = f"The {metadata.scores}."
    if classifies:
        model.user_defined_metadata[PREVIEW] = "imageClassifier"


def save(model: Any, path: Path) -> None:
    """Write a package with nothing in it that differs from one time to the next.

    Raises:
        OSError: the disk is full.
    """
    model.user_defined_metadata.pop(f"{OWN_KEYS}conversion_date", None)
    model.save(str(path))
    if not _is_whole(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    (description,) = path.glob("Data/*/*.mlmodel")
    specification = type(model.get_spec()).FromString(description.read_bytes())
    description.write_bytes(specification.SerializeToString(deterministic=True))
    manifest = path / "Manifest.json"
    text = manifest.read_text()
    for identifier, entry in json.loads(text)["itemInfoEntries"].items():
        text = text.replace(identifier, str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])))
    manifest.write_text(json.dumps(json.loads(text), indent=4, sort_keys=True) + "\n")


def _is_whole(path: Path) -> bool:
    """Whether a package's list of its items names all that are there; coremltools is silent if it cannot write it."""
    if not recognises(path):
        return False
    listed = json.loads((path / "Manifest.json").read_text())["itemInfoEntries"].values()
    items = {str(item.relative_to(path / "Data")) for item in path.glob("Data/*/*")}
    return {entry["path"] for entry in listed} == items


def half(path: Path, compress: Callable[[Any], Any] | None = None) -> Any:
    """Return the package that :func:`write` wrote with every value in between, and every weight, in fp16.

    Args:
        path: the package.
        compress: changes the weights of such a package into what Core ML reads from iOS 16 on.
    """
    with quiet(), opening(path):
        model = ct.models.MLModel(str(path), skip_model_load=True)
        program = _program(model)
        labels: list[str] = []
        function = program.functions["main"]
        for operation in list(function.operations):
            # Neither conversion nor compression keeps it in its place, the last; it is added at the end.
            if operation.op_type == "classify":
                labels = [str(label) for label in operation.classes.val]
                logits = next(value for value in function.outputs if value.name == "output")
                function.set_outputs([logits, operation.probabilities])
                function.remove_ops([operation])
        takes_image = model.get_spec().description.input[0].type.WhichOneof("Type") == "imageType"
        image = tuple(function.inputs[INPUT].shape) if takes_image else None
        if compress:
            # Compression runs all passes, and the one left out elsewhere fails on fp16: so it comes before that.
            program = _program(compress(_package(program, ct.precision.FLOAT16, pipeline=ct.PassPipeline())))
        target = ct.target.iOS16 if compress else _TARGET
        made = _package(program, ct.precision.FLOAT16, labels, image, target)
        made.user_defined_metadata.update(model.user_defined_metadata)
        made.author, made.license, made.version = model.author, model.license, model.version
        made.short_description = model.short_description
        for described, before in (
            (made.input_description, model.input_description),
            (made.output_description, model.output_description),
        ):
            for name in before:
                if before[name]:
                    described[name] = before[name]
    return made


_TARGET = ct.target.iOS15
_PROBABILITIES = "probabilities"
_COLOURS = {1: ct.colorlayout.GRAYSCALE, 3: ct.colorlayout.RGB}
"""How the pixels of a number of channels are stored; a Core ML image is one of these."""


def _program(model: Any) -> Any:
    spec = model.get_spec()
    return load(spec, spec.specificationVersion, model.weights_dir)


def _package(
    program: Any,
    precision: Any,
    labels: Sequence[str] = (),
    image: Shape | None = None,
    target: Any = _TARGET,
    pipeline: Any = None,
) -> Any:
    """Convert a program to a package: a classifier if there are labels, of an image if its shape is given."""
    extras: dict[str, Any] = {}
    if labels:
        extras["classifier_config"] = ct.ClassifierConfig(list(labels), predicted_probabilities_output=_PROBABILITIES)
    if image:
        extras["inputs"] = [ct.ImageType(name=INPUT, shape=image, color_layout=_COLOURS[image[1]])]
    try:
        return ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=target,
            compute_precision=precision,
            skip_model_load=True,
            pass_pipeline=pipeline or _pipeline(),
            **extras,
        )
    except RuntimeError as error:
        if "[MIL FileWriter]" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), tempfile.gettempdir()) from error


def _pipeline() -> Any:
    """Return coremltools' passes but one, that turns a factor and a term of each channel into a batch norm.

    It writes the variance as 1 and the epsilon as 1e-5, so what it makes is off by 5e-6 of its value, every time.
    """
    pipeline = ct.PassPipeline()
    pipeline.remove_passes({"common::fuse_elementwise_to_batchnorm"})
    return pipeline


def _labels(graph: Graph, metadata: Mapping[str, str]) -> list[str]:
    """Return a name for each class, each another; none if they have no names, or the network does not classify."""
    output = graph.node(graph.output)
    classes = json.loads(metadata.get("classes", "[]"))
    if output.shape != (1, len(classes)):
        return []
    # Core ML gives the probabilities by name; among ImageNet's names two are there twice.
    return [name if classes.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(classes)]


Rule = Callable[[Node, Sequence[Any], str], Any]


def _unary(build: Callable[..., Any], **attributes: object) -> Rule:
    return lambda node, operands, name: build(x=operands[0], name=name, **attributes)


def _binary(build: Callable[..., Any]) -> Rule:
    return lambda node, operands, name: build(x=operands[0], y=operands[1], name=name)


def _sides(node: Node) -> list[int]:
    top, left, bottom, right = node.attributes["padding"]
    return [top, bottom, left, right]


def _conv2d(node: Node, operands: Sequence[Any], name: str) -> Any:
    return mil.conv(
        x=operands[0],
        weight=node.weights["weight"],
        bias=node.weights["bias"],
        strides=list(node.attributes["stride"]),
        dilations=list(node.attributes["dilation"]),
        groups=node.attributes["groups"],
        pad_type="custom",
        pad=_sides(node),
        name=name,
    )


def _conv_transpose2d(node: Node, operands: Sequence[Any], name: str) -> Any:
    return mil.conv_transpose(
        x=operands[0],
        weight=node.weights["weight"],
        bias=node.weights["bias"],
        strides=list(node.attributes["stride"]),
        groups=node.attributes["groups"],
        pad_type="custom",
        pad=_sides(node),
        output_shape=list(node.shape),
        name=name,
    )


def _linear(node: Node, operands: Sequence[Any], name: str) -> Any:
    x, shape = operands[0], list(node.shape)
    weights = {role: node.weights[role] for role in ("weight", "bias")}
    if len(shape) <= 3:
        return mil.linear(x=x, name=name, **weights)
    # The operation takes no more axes.
    rows = mil.reshape(x=x, shape=[-1, x.shape[-1]], name=f"{name}_rows")
    return mil.reshape(x=mil.linear(x=rows, name=f"{name}_layer", **weights), shape=shape, name=name)


def _layer_norm(node: Node, operands: Sequence[Any], name: str) -> Any:
    axes, eps = list(node.attributes["axes"]), np.float32(node.attributes["eps"])
    weights = {to: node.weights[role] for to, role in (("gamma", "scale"), ("beta", "shift")) if role in node.weights}
    return mil.layer_norm(x=operands[0], axes=axes, epsilon=eps, name=name, **weights)


def _reduce(build: Callable[..., Any]) -> Rule:
    return lambda node, operands, name: build(
        x=operands[0], axes=list(node.attributes["axes"]), keep_dims=node.attributes["keepdims"], name=name
    )


def _pool(build: Callable[..., Any], **attributes: object) -> Rule:
    return lambda node, operands, name: build(
        x=operands[0],
        kernel_sizes=list(node.attributes["kernel"]),
        strides=list(node.attributes["stride"]),
        pad_type="custom",
        pad=_sides(node),
        name=name,
        **attributes,
    )


def _global_avg_pool(node: Node, operands: Sequence[Any], name: str) -> Any:
    return mil.reduce_mean(x=operands[0], axes=[2, 3], keep_dims=node.attributes["keepdims"], name=name)


def _concat(node: Node, operands: Sequence[Any], name: str) -> Any:
    return mil.concat(values=operands, axis=node.attributes["axis"], name=name)


def _slice(node: Node, operands: Sequence[Any], name: str) -> Any:
    start, stop, step = (list(node.attributes[role]) for role in ("start", "stop", "step"))
    if set(step) == {1}:
        return mil.slice_by_size(x=operands[0], begin=start, size=list(node.shape), name=name)
    return mil.slice_by_index(x=operands[0], begin=start, end=stop, stride=step, name=name)


def _gather(node: Node, operands: Sequence[Any], name: str) -> Any:
    indices = np.array(node.attributes["indices"], np.int32)
    return mil.gather(x=operands[0], indices=indices, axis=node.attributes["axis"], name=name)


def _reshape(node: Node, operands: Sequence[Any], name: str) -> Any:
    return mil.reshape(x=operands[0], shape=list(node.shape), name=name)


def _pad(node: Node, operands: Sequence[Any], name: str) -> Any:
    return mil.pad(x=operands[0], pad=[0, 0, 0, 0, *_sides(node)], mode="constant", constant_val=0.0, name=name)


def _resize(node: Node, operands: Sequence[Any], name: str) -> Any:
    x, mode, align = operands[0], node.attributes["mode"], node.attributes["align_corners"]
    before, after = x.shape[2:], node.shape[2:]
    if after[0] % before[0] or after[1] % before[1]:
        if mode == "bilinear":
            # Sampled as PyTorch samples it.
            sampling = "ALIGN_CORNERS" if align else "UNALIGN_CORNERS"
            sizes = {"target_size_height": after[0], "target_size_width": after[1]}
            return mil.resize_bilinear(x=x, sampling_mode=sampling, name=name, **sizes)
        rows, columns = (np.arange(out, dtype=np.int32) * size // out for out, size in zip(after, before, strict=True))
        x = mil.gather(x=x, indices=rows, axis=2, name=f"{name}_rows")
        return mil.gather(x=x, indices=columns, axis=3, name=name)
    factors = {"scale_factor_height": after[0] // before[0], "scale_factor_width": after[1] // before[1]}
    if mode == "nearest":
        return mil.upsample_nearest_neighbor(x=x, name=name, **factors)
    return mil.upsample_bilinear(x=x, align_corners=align, name=name, **factors)


def _channel_shuffle(node: Node, operands: Sequence[Any], name: str) -> Any:
    batch, channels, height, width = node.shape
    groups = node.attributes["groups"]
    viewed = mil.reshape(x=operands[0], shape=[batch, groups, channels // groups, height, width], name=f"{name}_view")
    swapped = mil.transpose(x=viewed, perm=[0, 2, 1, 3, 4], name=f"{name}_swap")
    return mil.reshape(x=swapped, shape=list(node.shape), name=name)


def _hard_swish(node: Node, operands: Sequence[Any], name: str) -> Any:
    gate = mil.sigmoid_hard(x=operands[0], alpha=np.float32(1 / 6), beta=np.float32(0.5), name=f"{name}_gate")
    return mil.mul(x=operands[0], y=gate, name=name)


def _gelu(node: Node, operands: Sequence[Any], name: str) -> Any:
    mode = "TANH_APPROXIMATION" if node.attributes["approximate"] else "EXACT"
    return mil.gelu(x=operands[0], mode=mode, name=name)


def _leaky_relu(node: Node, operands: Sequence[Any], name: str) -> Any:
    return mil.leaky_relu(x=operands[0], alpha=np.float32(node.attributes["slope"]), name=name)


def _elu(node: Node, operands: Sequence[Any], name: str) -> Any:
    return mil.elu(x=operands[0], alpha=np.float32(1), name=name)


def _prelu(node: Node, operands: Sequence[Any], name: str) -> Any:
    (x,), slope = operands, node.weights["slope"]
    if len(node.shape) == 4:
        return mil.prelu(x=x, alpha=slope, name=name)
    # The operation takes no features without height and width.
    positive = mil.relu(x=x, name=f"{name}_positive")
    negative = mil.sub(x=x, y=positive, name=f"{name}_negative")
    return mil.add(x=positive, y=mil.mul(x=negative, y=slope, name=f"{name}_slope"), name=name)


# Whatever has no name gets one with a number that counts all operations of the process.
_RULES: dict[str, Rule] = {
    "constant": lambda node, operands, name: mil.const(val=operands[0], name=name),
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "linear": _linear,
    "matmul": _binary(mil.matmul),
    "layer_norm": _layer_norm,
    "add": _binary(mil.add),
    "mul": _binary(mil.mul),
    "sub": _binary(mil.sub),
    "div": _binary(mil.real_div),
    "minimum": _binary(mil.minimum),
    "maximum": _binary(mil.maximum),
    "concat": _concat,
    "slice": _slice,
    "gather": _gather,
    "max_pool": _pool(mil.max_pool),
    "avg_pool": _pool(mil.avg_pool, exclude_padding_from_average=False),
    "global_avg_pool": _global_avg_pool,
    "mean": _reduce(mil.reduce_mean),
    "sum": _reduce(mil.reduce_sum),
    "max": _reduce(mil.reduce_max),
    "permute": lambda node, operands, name: mil.transpose(x=operands[0], perm=list(node.attributes["axes"]), name=name),
    "reshape": _reshape,
    "pad": _pad,
    "resize": _resize,
    "channel_shuffle": _channel_shuffle,
    "softmax": lambda node, operands, name: mil.softmax(x=operands[0], axis=node.attributes["axis"], name=name),
    "relu": _unary(mil.relu),
    "relu6": _unary(mil.relu6),
    "hard_sigmoid": _unary(mil.sigmoid_hard, alpha=np.float32(1 / 6), beta=np.float32(0.5)),
    "hard_swish": _hard_swish,
    "sigmoid": _unary(mil.sigmoid),
    "silu": _unary(mil.silu),
    "gelu": _gelu,
    "tanh": _unary(mil.tanh),
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "prelu": _prelu,
    "exp": _unary(mil.exp),
    "sqrt": _unary(mil.sqrt),
    "softplus": _unary(mil.softplus),
    "abs": _unary(mil.abs),
}
