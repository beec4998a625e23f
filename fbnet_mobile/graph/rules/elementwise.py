# ruff: noqa: A002 - rules name their arguments as torch does: input, min, max.
"""What works on each element alone, on two feature maps or with a constant, and softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fbnet_mobile.graph.rules.rule import Value, composes, lowers

if TYPE_CHECKING:
    from fbnet_mobile.graph.trace import Watch


@lowers(
    Tensor.contiguous,
    torch.clone,
    Tensor.clone,
    torch.detach,
    Tensor.detach,
    Tensor.data.__get__,  # type: ignore[attr-defined]
    Tensor.float,
    Tensor.to,
    Tensor.type_as,
)
def _same(to: Watch, input: Any, *args: Any, **kwargs: Any) -> Any:
    return input


@lowers(torch.dropout, F.dropout, F.dropout1d, F.dropout2d)
def _dropout(to: Watch, input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    if training and p > 0:
        raise to.refused("it is random even in evaluation; pass training=self.training")
    return input


def _activation(op: str, **attributes: Any) -> Callable[..., Value]:
    def rule(to: Watch, input: Any, *args: Any, **kwargs: Any) -> Value:
        return to.add(op, input, **attributes)

    return rule


for _op, _functions in {
    "relu": (F.relu, torch.relu, Tensor.relu, torch.relu_, Tensor.relu_),
    "relu6": (F.relu6,),
    "hard_sigmoid": (F.hardsigmoid,),
    "hard_swish": (F.hardswish,),
    "sigmoid": (F.sigmoid, torch.sigmoid, Tensor.sigmoid, torch.sigmoid_, Tensor.sigmoid_),
    "silu": (F.silu,),
    "tanh": (F.tanh, torch.tanh, Tensor.tanh, torch.tanh_, Tensor.tanh_),
    "exp": (torch.exp, Tensor.exp, torch.exp_, Tensor.exp_),
    "sqrt": (torch.sqrt, Tensor.sqrt, torch.sqrt_, Tensor.sqrt_),
    "abs": (torch.abs, Tensor.abs, torch.abs_, Tensor.abs_),
}.items():
    lowers(*_functions)(_activation(_op))


@lowers(F.gelu)
def _gelu(to: Watch, input: Any, approximate: str = "none") -> Value:
    return to.add("gelu", input, approximate=approximate == "tanh")


@lowers(F.leaky_relu)
def _leaky_relu(to: Watch, input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Value:
    return to.add("leaky_relu", input, slope=float(negative_slope))


@lowers(F.elu)
def _elu(to: Watch, input: Any, alpha: float = 1.0, inplace: bool = False) -> Value:
    if alpha != 1:
        raise to.refused(f"its alpha is {alpha}; only 1 can be")
    return to.add("elu", input)


@lowers(torch.prelu, Tensor.prelu)
def _prelu(to: Watch, input: Any, weight: Any) -> Value:
    slope = np.broadcast_to(to.array(weight).astype(np.float32), (input.shape[1],))
    return to.add("prelu", input, weights={"slope": slope.copy()})


@lowers(F.hardtanh)
def _hardtanh(to: Watch, input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Value:
    return _clamp(to, input, min_val, max_val)


@lowers(torch.clamp, Tensor.clamp, torch.clamp_, Tensor.clamp_, torch.clip, Tensor.clip)
def _clamp(to: Watch, input: Any, min: Any = None, max: Any = None) -> Value:
    if (min, max) == (0, 6):
        return to.add("relu6", input)
    if (min, max) == (0, None):
        return to.add("relu", input)
    value: Value = input
    for op, limit in (("maximum", min), ("minimum", max)):
        if limit is not None:
            value = binary(to, op, value, limit)
    return value


@composes(Tensor.clamp_min, torch.clamp_min, Tensor.clamp_min_, torch.clamp_min_)
def _clamp_min(to: Watch, input: Tensor, min: Any) -> Tensor:
    return input.clamp(min=min)


@composes(Tensor.clamp_max, torch.clamp_max, Tensor.clamp_max_, torch.clamp_max_)
def _clamp_max(to: Watch, input: Tensor, max: Any) -> Tensor:
    return input.clamp(max=max)


@lowers(torch.maximum, Tensor.maximum)
def _maximum(to: Watch, input: Any, other: Any) -> Value:
    return binary(to, "maximum", input, other)


@lowers(torch.minimum, Tensor.minimum)
def _minimum(to: Watch, input: Any, other: Any) -> Value:
    return binary(to, "minimum", input, other)


@lowers(F.softplus)
def _softplus(to: Watch, input: Any, beta: float = 1, threshold: float = 20) -> Value:
    if beta != 1:
        raise to.refused(f"its beta is {beta}; only 1 can be")
    return to.add("softplus", input)


@composes(F.mish)
def _mish(to: Watch, input: Tensor, inplace: bool = False) -> Tensor:
    return input * F.softplus(input).tanh()


@composes(torch.square, Tensor.square)
def _square(to: Watch, input: Tensor) -> Tensor:
    return input * input


@composes(torch.rsqrt, Tensor.rsqrt)
def _rsqrt(to: Watch, input: Tensor) -> Tensor:
    return 1 / input.sqrt()


@composes(torch.reciprocal, Tensor.reciprocal)
def _reciprocal(to: Watch, input: Tensor) -> Tensor:
    return 1 / input


@composes(torch.pow, Tensor.pow, Tensor.__pow__)
def _pow(to: Watch, input: Tensor, exponent: Any) -> Tensor:
    if exponent in (1, 2, 3):
        return input if exponent == 1 else input * input.pow(exponent - 1)
    if exponent in (0.5, -0.5, -1):
        return input.sqrt() if exponent == 0.5 else 1 / input.pow(-exponent)
    raise to.refused(f"its exponent is {exponent}; only 1, 2, 3, -1, 0.5 and -0.5 can be")


@lowers(F.softmax, torch.softmax, Tensor.softmax)
def _softmax(to: Watch, input: Any, dim: int | None = None, *args: Any, **kwargs: Any) -> Value:
    if dim is None:
        raise to.refused("it does not say over which axis; give dim")
    return to.add("softmax", input, axis=dim % to.result.ndim)


def binary(to: Watch, op: str, input: Any, other: Any) -> Value:
    """Add a node of two values, or of one and a constant."""
    if isinstance(input, Value) and isinstance(other, Value):
        return to.add(op, _of_rank(to, input), _of_rank(to, other))
    value, constant = (input, other) if isinstance(input, Value) else (other, input)
    value = _of_rank(to, value)
    array = np.asarray(to.array(constant) if isinstance(constant, torch.Tensor) else constant, np.float32)
    rank = to.result.ndim
    array = array.reshape((1,) * (rank - array.ndim) + array.shape)
    return to.add(op, value, weights={"constant": array})


def _of_rank(to: Watch, value: Value) -> Value:
    """Return a value with as many axes as the result has."""
    missing = to.result.ndim - len(value.shape)
    return to.add("reshape", value, shape=(1,) * missing + value.shape) if missing else value


@lowers(torch.add, Tensor.add, Tensor.add_, Tensor.__radd__)
def _add(to: Watch, input: Any, other: Any, *, alpha: float = 1) -> Value:
    if alpha != 1:
        raise to.refused("it has a factor alpha; multiply first")
    return binary(to, "add", input, other)


@lowers(torch.mul, Tensor.mul, Tensor.mul_, torch.multiply, Tensor.multiply, Tensor.__rmul__)
def _mul(to: Watch, input: Any, other: Any) -> Value:
    return binary(to, "mul", input, other)


@lowers(torch.neg, Tensor.neg)
def _neg(to: Watch, input: Any) -> Value:
    return binary(to, "mul", input, -1.0)


@lowers(torch.sub, Tensor.sub, Tensor.sub_, torch.subtract, Tensor.subtract)
def _sub(to: Watch, input: Any, other: Any, *, alpha: float = 1) -> Value:
    if alpha != 1:
        raise to.refused("it has a factor alpha; multiply first")
    if isinstance(input, Value) and isinstance(other, Value):
        return binary(to, "sub", input, other)
    if isinstance(input, Value):
        return binary(to, "add", input, -other)
    return binary(to, "add", _neg(to, other), input)


@composes(torch.addcmul, Tensor.addcmul)
def _addcmul(to: Watch, input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    return input + (tensor1 * tensor2 if value == 1 else tensor1 * tensor2 * value)


@lowers(Tensor.__rsub__, torch.rsub)
def _rsub(to: Watch, input: Any, other: Any) -> Value:
    return _sub(to, other, input)


@lowers(torch.div, Tensor.div, Tensor.div_, torch.divide, Tensor.divide, torch.true_divide, Tensor.true_divide)
def _div(to: Watch, input: Any, other: Any) -> Value:
    if not isinstance(other, Value):
        return binary(to, "mul", input, 1 / other)
    over = input if isinstance(input, Value | Tensor) else torch.tensor(float(input))
    if isinstance(over, Tensor):
        over = to.constant(over.reshape((1,) * (to.result.ndim - over.ndim) + tuple(over.shape)))
    return to.add("div", _of_rank(to, over), _of_rank(to, other))


@lowers(Tensor.__rdiv__)
def _rdiv(to: Watch, input: Any, other: Any) -> Value:
    return _div(to, other, input)
