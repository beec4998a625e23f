# ruff: noqa: A002 - rules name their arguments as torch does: input, min, max.
"""From an ``nn.Module`` to a :class:`~fbnet_mobile.graph.operations.Graph`.

The module is run once, on an input of ones, while every call of torch's functions and tensor methods is
watched (``torch.overrides.TorchFunctionMode``). Each call that depends on the input is lowered to the small
operation set; any other (a standardised weight, a size) just happens. Branches on shapes are therefore taken
as the module takes them, and a layer and its functional form are one and the same.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fbnet_mobile.errors import FbnetError, UserError
from fbnet_mobile.graph.operations import INPUT, Graph, Node, Shape, Weights
from fbnet_mobile.graph.simplify import simplify


def trace(module: nn.Module, input_shape: tuple[int, int, int, int]) -> Graph:
    """Lower a module, as it behaves in evaluation, to the operations of :mod:`fbnet_mobile.graph.operations`.

    The module is left as it was: weights, statistics and training modes.

    Args:
        module: takes one float tensor and returns one.
        input_shape: (1, channels, height, width).

    Raises:
        UserError: the module uses an operation that cannot be exported, branches on the values of tensors, or
            does not accept the shape.
    """
    if len(input_shape) != 4 or input_shape[0] != 1 or min(input_shape) < 1:
        raise UserError(f"cannot export for the input shape {tuple(input_shape)}: give (1, channels, height, width)")
    weight = next((p for p in module.parameters() if p.is_floating_point()), torch.ones(0))
    images = torch.ones(input_shape, dtype=weight.dtype, device=weight.device)
    watch = _Watch(module, images)
    with evaluation(module), torch.no_grad(), watch.modules():
        try:
            with watch:
                returned = module(images)
        except FbnetError:
            raise
        except Exception as error:
            raise UserError(
                f"cannot run {watch.where()} on an input of shape {tuple(input_shape)}: "
                f"{type(error).__name__}: {_first_line(error)}"
            ) from error
    result = watch.value(returned)
    if not isinstance(result, Value):
        raise UserError(
            f"cannot export {type(module).__name__}: it must return one tensor that depends on its input; "
            "wrap it in a module that does"
        )
    if result.name == INPUT:
        raise UserError(f"cannot export {type(module).__name__}: it returns its input, so nothing is left to run")
    return simplify(Graph(tuple(input_shape), tuple(watch.nodes.values()), result.name))


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Put every part of a module in evaluation mode, and back as it was on leaving."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@dataclass(frozen=True)
class Value:
    """A tensor that depends on the input: the name of the node that makes it, and its shape."""

    name: str
    shape: Shape


@dataclass(frozen=True)
class _Grouped:
    """A feature map viewed as (1, groups, channels / groups, height, width), perhaps with the two swapped."""

    value: Value
    groups: int
    swapped: bool = False


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no reason given"


_QUERIES = frozenset({"size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous",
                      "is_floating_point", "get_device", "__len__", "_assert"})  # fmt: skip
"""Calls that ask for what the shapes fix; the answer to any other depends on the values of the tensor."""


class _Watch(TorchFunctionMode):
    """Sees the calls of one run, and holds the nodes made of them so far."""

    def __init__(self, module: nn.Module, images: torch.Tensor) -> None:
        super().__init__()
        self.nodes: dict[str, Node] = {}
        self.call = ""
        self.result: Any = None
        # By identity. The tensors are kept as well, lest another should take over an identity.
        self._values: dict[int, tuple[torch.Tensor, Any]] = {id(images): (images, Value(INPUT, tuple(images.shape)))}
        self._root = type(module).__name__
        self._paths = {id(part): path for path, part in module.named_modules()}
        self._open: list[str] = []

    @contextmanager
    def modules(self) -> Iterator[None]:
        """Follow which module's forward is being run, within."""

        def enter(part: nn.Module, args: Any) -> None:
            self._open.append(self._paths.get(id(part), self.source()))

        def leave(part: nn.Module, args: Any, result: Any) -> None:
            self._open.pop()

        hooks = [
            nn.modules.module.register_module_forward_pre_hook(enter),
            nn.modules.module.register_module_forward_hook(leave),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def source(self) -> str:
        """Return the path of the module whose forward is being run, or has failed."""
        return self._open[-1] if self._open else ""

    def where(self) -> str:
        """Return the same for a message."""
        return f"'{self.source()}'" if self.source() else self._root

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = self._run(func, args, kwargs)
        attribute = func.__name__ == "__get__"
        name = func.__self__.__name__ if attribute else func.__name__
        # The values of the arguments as they were: an operation in place gives its tensor a new one.
        lowered, named = self._with_values(args), self._with_values(kwargs)
        if not _any(lowered, (Value, _Grouped)) and not _any(named, (Value, _Grouped)):
            return result
        self.call, self.result = name, result
        if not _any(result, torch.Tensor):
            if attribute or name in _QUERIES:
                return result
            raise self.refused("the answer depends on the values of a tensor; a file can hold no branches")
        made = self._lower(name, lowered, named)
        parts = zip(result, made, strict=True) if isinstance(made, tuple) else [(result, made)]
        for tensor, value in parts:
            self._values[id(tensor)] = (tensor, value)
        return result

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the function; of a convolution of what depends on the input, though, only find the result's shape.

        No value of such a result is ever asked for, and computing it would be the longest part of a trace.
        """
        image = args[0] if args else kwargs.get("input")
        if func is not torch.conv2d or image is None or id(image) not in self._values:
            return func(*args, **kwargs)
        like = func(*map(_shape_of, args), **{name: _shape_of(argument) for name, argument in kwargs.items()})
        return image.new_zeros(like.shape)

    def value(self, argument: Any) -> Any:
        """Return the value of a tensor that depends on the input; anything else as it is."""
        return self._values[id(argument)][1] if id(argument) in self._values else argument

    def _with_values(self, argument: Any) -> Any:
        if isinstance(argument, torch.Tensor):
            return self.value(argument)
        if type(argument) in (tuple, list):
            return type(argument)(self._with_values(part) for part in argument)
        if isinstance(argument, dict):
            return {name: self._with_values(part) for name, part in argument.items()}
        return argument

    def _lower(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name not in _RULES:
            raise self.refused("no format here has it; build the network from other operations")
        rule, signature = _RULES[name]
        if (_any(args, _Grouped) or _any(kwargs, _Grouped)) and rule not in (_same, _swap, _reshape):
            raise self.refused("only the channel shuffle may view a feature map with five axes")
        try:
            signature.bind(self, *args, **kwargs)
        except TypeError as error:
            raise self.refused(f"the export does not know this way to call it ({error})") from error
        return rule(self, *args, **kwargs)

    def refused(self, because: str) -> UserError:
        """Return the error that says that the current call cannot be exported."""
        return UserError(f"cannot export {self.call} in {self.where()}: {because}")

    def add(
        self,
        op: str,
        *inputs: Any,
        shape: Sequence[int] | None = None,
        weights: Weights | None = None,
        **attributes: Any,
    ) -> Value:
        """Add a node and return its value, of the shape of the current call's result unless one is given."""
        for value in inputs:
            if not isinstance(value, Value):
                raise self.refused("one of its inputs does not depend on the network's input")
        shape = tuple(self.result.shape if shape is None else shape)
        if len(shape) not in (2, 4) or shape[0] != 1:
            raise self.refused(
                f"its result has the shape {shape}; only (1, features) or (1, channels, height, width) can be"
            )
        stem = f"{self.source()}.{op}" if self.source() else op
        name, number = stem, 1
        while name in self.nodes:
            number += 1
            name = f"{stem}_{number}"
        names = tuple(value.name for value in inputs)
        self.nodes[name] = Node(name, op, names, shape, attributes, weights or {}, self.source())
        return Value(name, shape)

    def array(self, tensor: Any) -> NDArray[np.float32]:
        """Return a constant tensor as a float32 array."""
        if not isinstance(tensor, torch.Tensor):
            raise self.refused("its weights depend on the input, or are no tensor")
        return np.array(tensor.detach().cpu().float().numpy(), order="C")


def _shape_of(argument: Any) -> Any:
    """A tensor without its values; anything else as it is."""
    return argument.detach().to("meta") if isinstance(argument, torch.Tensor) else argument


def _any(argument: Any, kinds: Any) -> bool:
    """Tell whether an argument, or what it holds, is of one of the kinds."""
    if isinstance(argument, dict):
        argument = tuple(argument.values())
    if isinstance(argument, tuple | list):
        return any(_any(part, kinds) for part in argument)
    return isinstance(argument, kinds)


Rule = TypeVar("Rule", bound=Callable[..., Any])
_RULES: dict[str, tuple[Callable[..., Any], inspect.Signature]] = {}


def _lowers(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for functions and tensor methods by name.

    A rule takes the watch and then the arguments of what it lowers, with the same names. It returns a value,
    or a tuple of values for a tuple of tensors. What it calls of torch itself is not watched.
    """

    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, (rule, inspect.signature(rule))))
        return rule

    return register


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def _around(padding: Any) -> tuple[int, int, int, int]:
    height, width = _pair(padding)
    return height, width, height, width


@_lowers("dropout", "dropout1d", "dropout2d", "contiguous", "clone", "detach", "data", "float", "to", "type_as")
def _same(to: _Watch, input: Any, *args: Any, **kwargs: Any) -> Any:
    return input


@_lowers("conv2d")
def _conv2d(
    to: _Watch,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    kernel = to.array(weight)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(_pair(dilation), kernel.shape[2:], strict=True)]
        top, left = (total // 2 for total in totals)
        sides = (top, left, totals[0] - top, totals[1] - left)
    else:
        sides = _around(0 if padding == "valid" else padding)
    zeros = np.zeros(kernel.shape[0], np.float32)
    return to.add(
        "conv2d",
        input,
        weights={"weight": kernel, "bias": zeros if bias is None else to.array(bias)},
        stride=_pair(stride),
        dilation=_pair(dilation),
        padding=sides,
        groups=groups,
    )


@_lowers("linear")
def _linear(to: _Watch, input: Any, weight: Any, bias: Any = None) -> Value:
    matrix = to.array(weight)
    zeros = np.zeros(matrix.shape[0], np.float32)
    if isinstance(input, Value) and len(input.shape) != 2:
        raise to.refused("it acts on the last axis of a feature map; flatten it first, or use a 1x1 convolution")
    return to.add("linear", input, weights={"weight": matrix, "bias": zeros if bias is None else to.array(bias)})


@_lowers("batch_norm")
def _batch_norm(
    to: _Watch,
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Value:
    if training or running_mean is None or running_var is None:
        raise to.refused("it normalises by the batch at hand; use running statistics")
    # Computed in double precision: rounding here would be added to what every format rounds.
    mean, variance = to.array(running_mean).astype(np.float64), to.array(running_var).astype(np.float64)
    scale = 1 / np.sqrt(variance + eps)
    if weight is not None:
        scale = scale * to.array(weight)
    shift = -mean * scale
    if bias is not None:
        shift = shift + to.array(bias)
    return to.add("affine", input, weights={"scale": scale.astype(np.float32), "shift": shift.astype(np.float32)})


def _activation(op: str, **attributes: Any) -> Callable[..., Value]:
    def rule(to: _Watch, input: Any, *args: Any, **kwargs: Any) -> Value:
        return to.add(op, input, **attributes)

    return rule


for _name, _op in {
    "relu": "relu",
    "relu_": "relu",
    "relu6": "relu6",
    "hardsigmoid": "hard_sigmoid",
    "hardswish": "hard_swish",
    "sigmoid": "sigmoid",
    "sigmoid_": "sigmoid",
    "silu": "silu",
    "tanh": "tanh",
    "tanh_": "tanh",
}.items():
    _lowers(_name)(_activation(_op))


@_lowers("gelu")
def _gelu(to: _Watch, input: Any, approximate: str = "none") -> Value:
    return to.add("gelu", input, approximate=approximate == "tanh")


@_lowers("leaky_relu")
def _leaky_relu(to: _Watch, input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Value:
    return to.add("leaky_relu", input, slope=float(negative_slope))


@_lowers("elu")
def _elu(to: _Watch, input: Any, alpha: float = 1.0, inplace: bool = False) -> Value:
    if alpha != 1:
        raise to.refused(f"its alpha is {alpha}; only 1 can be")
    return to.add("elu", input)


@_lowers("prelu")
def _prelu(to: _Watch, input: Any, weight: Any) -> Value:
    slope = np.broadcast_to(to.array(weight).astype(np.float32), (input.shape[1],))
    return to.add("prelu", input, weights={"slope": slope.copy()})


@_lowers("hardtanh")
def _hardtanh(to: _Watch, input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Value:
    return _clamp(to, input, min_val, max_val)


@_lowers("clamp", "clamp_", "clip")
def _clamp(to: _Watch, input: Any, min: Any = None, max: Any = None) -> Value:
    if (min, max) == (0, 6):
        return to.add("relu6", input)
    if (min, max) == (0, None):
        return to.add("relu", input)
    raise to.refused(f"its limits are {min} and {max}; only 0 and 6, or 0 and none, can be")


@_lowers("softmax")
def _softmax(to: _Watch, input: Any, dim: int | None = None, *args: Any, **kwargs: Any) -> Value:
    rank = to.result.ndim
    if dim is None or dim % rank != 1:
        raise to.refused("only a softmax over axis 1 can be")
    return to.add("softmax", input)


def _binary(to: _Watch, op: str, input: Any, other: Any) -> Value:
    if isinstance(input, Value) and isinstance(other, Value):
        if len(input.shape) != len(other.shape):
            raise to.refused(f"its inputs have the shapes {input.shape} and {other.shape}; view them with as many axes")
        return to.add(op, input, other)
    value, constant = (input, other) if isinstance(input, Value) else (other, input)
    array = np.asarray(to.array(constant) if isinstance(constant, torch.Tensor) else constant, np.float32)
    rank = to.result.ndim
    array = array.reshape((1,) * (rank - array.ndim) + array.shape)
    return to.add(op, value, weights={"constant": array})


@_lowers("add", "add_", "__radd__")
def _add(to: _Watch, input: Any, other: Any, *, alpha: float = 1) -> Value:
    if alpha != 1:
        raise to.refused("it has a factor alpha; multiply first")
    return _binary(to, "add", input, other)


@_lowers("mul", "mul_", "multiply", "__rmul__")
def _mul(to: _Watch, input: Any, other: Any) -> Value:
    return _binary(to, "mul", input, other)


@_lowers("neg")
def _neg(to: _Watch, input: Any) -> Value:
    return _binary(to, "mul", input, -1.0)


@_lowers("sub", "sub_", "subtract")
def _sub(to: _Watch, input: Any, other: Any, *, alpha: float = 1) -> Value:
    if alpha != 1:
        raise to.refused("it has a factor alpha; multiply first")
    if isinstance(input, Value) and isinstance(other, Value):
        return _binary(to, "sub", input, other)
    if isinstance(input, Value):
        return _binary(to, "add", input, -other)
    return _binary(to, "add", _neg(to, other), input)


@_lowers("__rsub__", "rsub")
def _rsub(to: _Watch, input: Any, other: Any) -> Value:
    return _sub(to, other, input)


@_lowers("div", "div_", "divide", "true_divide")
def _div(to: _Watch, input: Any, other: Any) -> Value:
    if not isinstance(other, int | float | torch.Tensor):
        raise to.refused("only division by a constant can be")
    return _binary(to, "mul", input, 1 / other)


@_lowers("cat", "concat", "concatenate")
def _concat(to: _Watch, tensors: Sequence[Any], dim: int = 0) -> Value:
    return to.add("concat", *tensors, axis=dim % to.result.ndim)


@_lowers("chunk", "split")
def _parts(
    to: _Watch, input: Any, split_size_or_sections: Any = None, dim: int = 0, **kwargs: Any
) -> tuple[Value, ...]:
    if not isinstance(input, Value):
        raise to.refused("only a feature map can be split")
    axis = dim % len(input.shape)
    values, start = [], 0
    for part in to.result:
        stop = start + part.shape[axis]
        values.append(_slice(to, input, {axis: (start, stop)}))
        start = stop
    return tuple(values)


def _slice(to: _Watch, input: Value, limits: Mapping[int, tuple[int, int]]) -> Value:
    bounds = [limits.get(axis, (0, size)) for axis, size in enumerate(input.shape)]
    start, stop = tuple(low for low, _ in bounds), tuple(high for _, high in bounds)
    shape = tuple(high - low for low, high in bounds)
    return to.add("slice", input, shape=shape, start=start, stop=stop)


@_lowers("__getitem__")
def _getitem(to: _Watch, input: Any, index: Any) -> Any:
    if not isinstance(input, Value):
        raise to.refused("only feature maps can be indexed")
    if math.prod(to.result.shape) == math.prod(input.shape):
        return _reshape(to, input)
    items = index if isinstance(index, tuple) else (index,)
    if any(not isinstance(item, slice) or item.step not in (None, 1) for item in items):
        raise to.refused("only slices of step 1 can be")
    limits = {axis: item.indices(input.shape[axis])[:2] for axis, item in enumerate(items)}
    return _slice(to, input, limits)


@_lowers("max_pool2d")
def _max_pool(
    to: _Watch,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    if return_indices:
        raise to.refused("return_indices")
    kernel, steps, dilations = _pair(kernel_size), _pair(stride or kernel_size), _pair(dilation)
    if dilations != (1, 1):
        raise to.refused("a dilation other than 1")
    top, left, bottom, right = _around(padding)
    if ceil_mode:
        # Rounding up means that the last window may need more padding than was asked for.
        needed = [
            (out - 1) * step + size - length
            for out, step, size, length in zip(to.result.shape[2:], steps, kernel, input.shape[2:], strict=True)
        ]
        bottom, right = max(bottom, needed[0] - top), max(right, needed[1] - left)
    return to.add("max_pool", input, kernel=kernel, stride=steps, padding=(top, left, bottom, right))


@_lowers("avg_pool2d")
def _avg_pool(
    to: _Watch,
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    kernel, steps, sides = _pair(kernel_size), _pair(stride or kernel_size), _around(padding)
    if kernel == tuple(input.shape[2:]) and not any(sides):
        return to.add("global_avg_pool", input, keepdims=True)
    floor = [
        (length + 2 * pad - size) // step + 1
        for length, pad, size, step in zip(input.shape[2:], sides, kernel, steps, strict=False)
    ]
    if divisor_override is not None or list(to.result.shape[2:]) != floor:
        raise to.refused("divisor_override, or a ceil_mode that adds windows")
    whole = count_include_pad or not any(sides)
    pooled = to.add("avg_pool", input, kernel=kernel, stride=steps, padding=sides)
    if whole:
        return pooled
    # Every format can count the padding, not every one can leave it out: undo it by what each window covered.
    ones = torch.ones(1, 1, *input.shape[2:])
    covered = F.avg_pool2d(ones, kernel, steps, _pair(padding))
    return _binary(to, "mul", pooled, 1 / covered)


@_lowers("adaptive_avg_pool2d")
def _adaptive_avg_pool(to: _Watch, input: Any, output_size: Any) -> Any:
    sizes, out = tuple(input.shape[2:]), tuple(to.result.shape[2:])
    if out == sizes:
        return input
    if out == (1, 1):
        return to.add("global_avg_pool", input, keepdims=True)
    if sizes[0] % out[0] or sizes[1] % out[1]:
        raise to.refused(f"{sizes} is no multiple of {out}, so its windows differ in size")
    kernel = (sizes[0] // out[0], sizes[1] // out[1])
    return to.add("avg_pool", input, kernel=kernel, stride=kernel, padding=(0, 0, 0, 0))


@_lowers("mean")
def _mean(to: _Watch, input: Any, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Value:
    rank = len(input.shape)
    axes = sorted(axis % rank for axis in ([dim] if isinstance(dim, int) else dim or range(rank)))
    if rank != 4 or axes != [2, 3]:
        raise to.refused("only a mean over height and width together can be, as in x.mean((2, 3))")
    return to.add("global_avg_pool", input, keepdims=keepdim)


@_lowers("flatten", "reshape", "view", "squeeze", "unsqueeze", "unflatten")
def _reshape(to: _Watch, input: Any, *args: Any, **kwargs: Any) -> Any:
    shape = tuple(to.result.shape)
    if isinstance(input, _Grouped):
        if shape != input.value.shape:
            raise to.refused("only the channel shuffle may view a feature map with five axes")
        return to.add("channel_shuffle", input.value, groups=input.groups) if input.swapped else input.value
    if not isinstance(input, Value):
        raise to.refused("only feature maps and vectors can be reshaped")
    if shape == input.shape:
        return input
    if len(shape) == 5 and len(input.shape) == 4 and shape[0] == 1 and shape[3:] == input.shape[2:]:
        return _Grouped(input, shape[1])
    if len(shape) == len(input.shape) == 4:
        raise to.refused(f"it views {input.shape} as {shape}; only the channel shuffle can be")
    return to.add("reshape", input)


@_lowers("transpose", "permute", "swapaxes")
def _swap(to: _Watch, input: Any, *args: Any, **kwargs: Any) -> Any:
    axes = [
        axis for part in (*args, *kwargs.values()) for axis in (part if isinstance(part, tuple | list) else (part,))
    ]
    if isinstance(input, _Grouped) and not input.swapped and [a % 5 for a in axes] in ([1, 2], [2, 1], [0, 2, 1, 3, 4]):
        return _Grouped(input.value, input.groups, swapped=True)
    raise to.refused("axes may be swapped only in a channel shuffle")


@_lowers("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(to: _Watch, input: Any, groups: int) -> Value:
    return to.add("channel_shuffle", input, groups=groups)


@_lowers("pad")
def _pad(to: _Watch, input: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    sides = list(pad) + [0] * (4 - len(pad))
    if mode != "constant" or value or len(sides) != 4 or min(sides) < 0 or len(to.result.shape) != 4:
        raise to.refused("only zeros around height and width can be added")
    if not any(sides):
        return input
    left, right, top, bottom = sides
    return to.add("pad", input, padding=(top, left, bottom, right))


@_lowers("interpolate")
def _interpolate(
    to: _Watch,
    input: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    if mode not in ("nearest", "bilinear") or antialias or len(input.shape) != 4:
        raise to.refused("only 'nearest' and 'bilinear' without antialias, on feature maps, can be")
    if scale_factor is not None and not recompute_scale_factor:
        factors = scale_factor if isinstance(scale_factor, tuple | list) else (scale_factor, scale_factor)
        exact = [length * factor for length, factor in zip(input.shape[2:], factors, strict=True)]
        if exact != list(to.result.shape[2:]):
            raise to.refused(f"the factor {scale_factor} does not give a whole size; give the size")
    if tuple(to.result.shape) == input.shape:
        return input
    return to.add("resize", input, mode=mode, align_corners=bool(align_corners))
