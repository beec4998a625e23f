# ruff: noqa: A002 - rules name their arguments as torch does: input, min, max.
"""What works on each element alone, on two feature maps or with a constant, and softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fbnet_mobile.graph.rules.rule import Value, lowers

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
    grouped=True,
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
    raise to.refused(f"its limits are {min} and {max}; only 0 and 6, or 0 and none, can be")


@lowers(F.softmax, torch.softmax, Tensor.softmax)
def _softmax(to: Watch, input: Any, dim: int | None = None, *args: Any, **kwargs: Any) -> Value:
    rank = to.result.ndim
    if dim is None or dim % rank != 1:
        raise to.refused("only a softmax over axis 1 can be")
    return to.add("softmax", input)


def binary(to: Watch, op: str, input: Any, other: Any) -> Value:
    """Add a node of two values, or of one and a constant."""
    if isinstance(input, Value) and isinstance(other, Value):
        if len(input.shape) != len(other.shape):
            raise to.refused(f"its inputs have the shapes {input.shape} and {other.shape}; view them with as many axes")
        return to.add(op, input, other)
    value, constant = (input, other) if isinstance(input, Value) else (other, input)
    array = np.asarray(to.array(constant) if isinstance(constant, torch.Tensor) else constant, np.float32)
    rank = to.result.ndim
    array = array.reshape((1,) * (rank - array.ndim) + array.shape)
    return to.add(op, value, weights={"constant": array})


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


@lowers(Tensor.__rsub__, torch.rsub)
def _rsub(to: Watch, input: Any, other: Any) -> Value:
    return _sub(to, other, input)


@lowers(torch.div, Tensor.div, Tensor.div_, torch.divide, Tensor.divide, torch.true_divide, Tensor.true_divide)
def _div(to: Watch, input: Any, other: Any) -> Value:
    if not isinstance(other, int | float | torch.Tensor):
        raise to.refused("only division by a constant can be")
    return binary(to, "mul", input, 1 / other)
