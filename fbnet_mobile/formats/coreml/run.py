"""Core ML packages: by Core ML itself on macOS, and elsewhere by evaluating the saved package operation by
operation.

The evaluation reads the package as written, weights included, and computes each operation of its ML Program
by the value inference of coremltools, Apple's own definition of it; the few operations that have none are
computed here from their description in coremltools. It shows that the file says what the network says. It
says nothing of the speed, or of the rounding, of a phone's GPU or Neural Engine.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.formats.base import Session, loading
from fbnet_mobile.formats.coreml.metadata import opening
from fbnet_mobile.formats.packages import needs, quiet

Array = NDArray[np.float32]


def version() -> str:
    """Return the version of ``coremltools``."""
    return str(_coremltools().__version__)


def load(path: Path, threads: int = 1) -> Session:
    """Load a package; it ignores ``threads``."""
    ct = _coremltools()
    native = sys.platform == "darwin"
    with loading(path, "coremltools"), opening(path):
        model = ct.models.MLModel(str(path), skip_model_load=not native)
        description = model.get_spec().description
        names = _arrays(description)
        if len(description.input) < 1 or len(names) < 1:
            raise UserError(
                f"{path} has {len(description.input)} inputs and {len(names)} outputs; it needs one of each"
            )
        return CoreMLSession(model) if native else EvaluatedSession(model)


class _DescribedSession(Session):
    """What both sessions know from the package's description."""

    def __init__(self, model: Any) -> None:
        self.model = model
        description = model.get_spec().description
        self._names = _arrays(description)
        takes_pixels = False
        shapes: dict[str, tuple[int, ...]] = {}
        for given in description.input:
            if given.type.WhichOneof("Type") == "imageType":
                takes_pixels = True
                image = given.type.imageType
                channels = 1 if image.colorSpace == image.ColorSpace.Value("GRAYSCALE") else 3
                shapes[given.name] = (1, channels, int(image.height), int(image.width))
            else:
                shapes[given.name] = tuple(int(size) for size in given.type.multiArrayType.shape)
        super().__init__(shapes, takes_pixels)


class CoreMLSession(_DescribedSession):
    """A package in Core ML."""

    def compute(self, inputs: Mapping[str, Any]) -> Mapping[str, Array]:
        """See :meth:`Session.compute`."""
        given = dict(inputs)
        if self.takes_pixels:
            ((name, images),) = given.items()
            (pixels,) = images
            picture = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
            given[name] = Image.fromarray(picture)
        found = self.model.predict(given)
        return {name: np.asarray(found[name], np.float32) for name in self._names}


class EvaluatedSession(_DescribedSession):
    """A package whose ML Program is evaluated by coremltools."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        load = importlib.import_module("coremltools.converters.mil.frontend.milproto.load")
        with quiet():
            spec = model.get_spec()
            program = load.load(spec, spec.specificationVersion, model.weights_dir)
            self._function = program.functions["main"]
            # Once and not for each image: an int8 package holds its weights compressed.
            self._constants = {
                operation.outputs[0]: operation.outputs[0].val
                if operation.op_type == "const"
                else operation.materialized_val_inference()
                for operation in self._function.operations
                if _is_constant(operation)
            }

    def compute(self, inputs: Mapping[str, Any]) -> Mapping[str, Array]:
        """See :meth:`Session.compute`; JobError for an operation that neither coremltools nor we compute."""
        # Core ML hands the program an image as the numbers that its pixels are.
        given = {self._function.inputs[name]: images.astype(np.float32, copy=False) for name, images in inputs.items()}
        values: dict[Any, Any] = {**self._constants, **given}
        # A damaged file's weights may be any numbers; whoever compares its results sees those that are not finite.
        with quiet(), np.errstate(all="ignore"):
            for operation in self._function.operations:
                # What classifies puts names to what is computed without it.
                if _is_constant(operation) or operation.op_type == "classify":
                    continue
                results = _evaluate(operation, values, self._function.opset_version)
                values.update(zip(operation.outputs, results, strict=True))
        return {
            value.name: np.asarray(values[value], np.float32)
            for value in self._function.outputs
            if value.name in self._names
        }


def _arrays(description: Any) -> list[str]:
    """Return the names of the outputs that are arrays; a classifier's label and dictionary are none."""
    return [output.name for output in description.output if output.type.WhichOneof("Type") == "multiArrayType"]


def _is_constant(operation: Any) -> bool:
    return bool(operation.op_type == "const" or operation.op_type.startswith("constexpr_"))


def _evaluate(operation: Any, values: Mapping[Any, Any], opset: Any) -> list[Any]:
    """Return the results of one operation of a program, given the values of the variables before it.

    In fp16 its results alone are rounded, each once: coremltools would sum squares in it, and overflow.
    """

    def value(variable: Any) -> Any:
        if isinstance(variable, list | tuple):
            return [value(part) for part in variable]
        found = values.get(variable, variable.val)
        return found.astype(np.float32) if getattr(found, "dtype", None) == np.float16 else found

    inputs = {name: value(variable) for name, variable in operation.inputs.items() if variable is not None}
    if operation.op_type in _WITHOUT_INFERENCE:
        return _rounded(operation, [np.asarray(_WITHOUT_INFERENCE[operation.op_type](inputs))])
    mil = importlib.import_module("coremltools.converters.mil.mil")

    def constant(part: Any) -> Any:
        return [constant(item) for item in part] if isinstance(part, list) else mil.Builder.const(val=part)

    # An operation on constants, built in a program of its own, is computed as it is built.
    with mil.Function({}, opset_version=opset):
        arguments = {name: constant(part) for name, part in inputs.items()}
        built = getattr(mil.Builder, operation.op_type)(**arguments)
    results = [part.val for part in (built if isinstance(built, list | tuple) else [built])]
    if any(result is None for result in results):
        raise JobError(
            f"cannot check a Core ML package with the operation {operation.op_type} on this system; use "
            "macOS, or build the network without it"
        )
    return _rounded(operation, results)


def _rounded(operation: Any, results: list[Any]) -> list[Any]:
    """The results of an operation in the types that the program states."""
    types = importlib.import_module("coremltools.converters.mil.mil.types")
    return [
        np.asarray(result, np.float16) if variable.dtype == types.fp16 else result
        for variable, result in zip(operation.outputs, results, strict=True)
    ]


Inputs = Mapping[str, Any]


def _sides(inputs: Inputs, window: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the (before, after) padding of each spatial axis for a window of the given extent."""
    kind = inputs["pad_type"]
    if kind == "custom":
        pad = [int(size) for size in inputs["pad"]]
        return list(zip(pad[::2], pad[1::2], strict=True))
    if kind == "valid":
        return [(0, 0)] * len(window)
    raise JobError(f"cannot check a Core ML package with the padding '{kind}' on this system; use macOS")


def _padded(inputs: Inputs, window: NDArray[np.int64], fill: float) -> Any:
    """Return the input as a float32 tensor with its padding around it."""
    torch = importlib.import_module("torch")
    (top, bottom), (left, right) = _sides(inputs, window)
    x = torch.from_numpy(np.ascontiguousarray(inputs["x"], np.float32))
    return torch.nn.functional.pad(x, (left, right, top, bottom), value=fill)


def _conv(inputs: Inputs) -> Any:
    torch = importlib.import_module("torch")
    weight, dilations = inputs["weight"], inputs["dilations"]
    x = _padded(inputs, (np.array(weight.shape[2:]) - 1) * dilations + 1, 0.0)
    bias = inputs.get("bias")
    return torch.nn.functional.conv2d(
        x,
        torch.from_numpy(np.array(weight, np.float32)),
        None if bias is None else torch.from_numpy(np.array(bias, np.float32)),
        stride=[int(step) for step in inputs["strides"]],
        dilation=[int(step) for step in dilations],
        groups=int(inputs["groups"]),
    )


def _max_pool(inputs: Inputs) -> Any:
    torch = importlib.import_module("torch")
    kernel, strides = _window(inputs)
    x = _padded(inputs, inputs["kernel_sizes"], -np.inf)
    return torch.nn.functional.max_pool2d(x, kernel, strides)


def _avg_pool(inputs: Inputs) -> Any:
    torch = importlib.import_module("torch")
    kernel, strides = _window(inputs)
    total = torch.nn.functional.avg_pool2d(_padded(inputs, inputs["kernel_sizes"], 0.0), kernel, strides)
    if inputs["exclude_padding_from_average"]:
        ones = _padded({**inputs, "x": np.ones_like(inputs["x"])}, inputs["kernel_sizes"], 0.0)
        total = total / torch.nn.functional.avg_pool2d(ones, kernel, strides)
    return total


def _window(inputs: Inputs) -> tuple[list[int], list[int]]:
    if inputs["ceil_mode"]:
        raise JobError("cannot check a Core ML package with a pooling of ceil_mode on this system; use macOS")
    return [int(size) for size in inputs["kernel_sizes"]], [int(step) for step in inputs["strides"]]


def _concat(inputs: Inputs) -> NDArray[Any]:
    values, axis = inputs["values"], int(inputs["axis"])
    if not inputs["interleave"]:
        return np.concatenate(values, axis)
    shape = list(values[0].shape)
    shape[axis] *= len(values)
    return np.stack(values, axis + 1).reshape(shape)


def _batch_norm(inputs: Inputs) -> NDArray[Any]:
    x = inputs["x"]
    per_channel = (1, -1) + (1,) * (x.ndim - 2)

    def vector(name: str, otherwise: float) -> NDArray[Any]:
        given = inputs.get(name)
        return np.reshape(np.float32(otherwise) if given is None else given.astype(np.float32), per_channel)

    scale = vector("gamma", 1) / np.sqrt(vector("variance", 1) + inputs["epsilon"])
    result: NDArray[Any] = (x - vector("mean", 0)) * scale + vector("beta", 0)
    return result


def _silu(inputs: Inputs) -> NDArray[Any]:
    x = inputs["x"]
    result: NDArray[Any] = x / (1 + np.exp(-x))
    return result


def _gelu(inputs: Inputs) -> Any:
    torch = importlib.import_module("torch")
    modes = {"EXACT": "none", "TANH_APPROXIMATION": "tanh"}
    if inputs["mode"] not in modes:
        raise JobError(f"cannot check a Core ML package with the gelu '{inputs['mode']}' on this system; use macOS")
    x = torch.from_numpy(np.array(inputs["x"], np.float32))
    return torch.nn.functional.gelu(x, approximate=modes[inputs["mode"]])


def _upsample(mode: str) -> Callable[[Inputs], Any]:
    def rule(inputs: Inputs) -> Any:
        torch = importlib.import_module("torch")
        factors = (float(inputs["scale_factor_height"]), float(inputs["scale_factor_width"]))
        corners = {"align_corners": bool(inputs["align_corners"])} if mode == "bilinear" else {}
        x = torch.from_numpy(np.array(inputs["x"], np.float32))
        return torch.nn.functional.interpolate(x, scale_factor=factors, mode=mode, **corners)

    return rule


def _resize_bilinear(inputs: Inputs) -> Any:
    torch = importlib.import_module("torch")
    sampling = inputs["sampling_mode"]
    if sampling not in ("ALIGN_CORNERS", "UNALIGN_CORNERS"):
        raise JobError(f"cannot check a Core ML package with the sampling '{sampling}' on this system; use macOS")
    size = (int(inputs["target_size_height"]), int(inputs["target_size_width"]))
    x = torch.from_numpy(np.array(inputs["x"], np.float32))
    corners = sampling == "ALIGN_CORNERS"
    return torch.nn.functional.interpolate(x, size, mode="bilinear", align_corners=corners)


def _conv_transpose(inputs: Inputs) -> Any:
    torch = importlib.import_module("torch")
    weight, strides = inputs["weight"], [int(step) for step in inputs["strides"]]
    (top, _), (left, _) = _sides(inputs, weight.shape[2:])
    height, width = (int(size) for size in inputs["output_shape"][2:])
    covered = [
        (size - 1) * step + kernel
        for size, step, kernel in zip(inputs["x"].shape[2:], strides, weight.shape[2:], strict=True)
    ]
    bias = inputs.get("bias")
    whole = torch.nn.functional.conv_transpose2d(
        torch.from_numpy(np.array(inputs["x"], np.float32)),
        torch.from_numpy(np.array(weight, np.float32)),
        None if bias is None else torch.from_numpy(np.array(bias, np.float32)),
        stride=strides,
        groups=int(inputs["groups"]),
        output_padding=[max(end - size, 0) for end, size in zip((top + height, left + width), covered, strict=True)],
    )
    return whole[:, :, top : top + height, left : left + width]


_WITHOUT_INFERENCE: dict[str, Callable[[Inputs], Any]] = {
    "conv": _conv,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "batch_norm": _batch_norm,
    "concat": _concat,
    "silu": _silu,
    "gelu": _gelu,
    "upsample_nearest_neighbor": _upsample("nearest"),
    "upsample_bilinear": _upsample("bilinear"),
    "resize_bilinear": _resize_bilinear,
    "conv_transpose": _conv_transpose,
}
"""The operations without value inference in coremltools 9.0, concat, whose ignores ``interleave``, and gelu, whose
takes most of the time that a transformer is evaluated in, as it calls a Python function for each number."""


def _coremltools() -> ModuleType:
    with needs("coremltools", "fbnet-mobile[coreml]"), quiet():
        return importlib.import_module("coremltools")
