"""Types of the fields that blocks, architectures and spaces share, each with the bounds of what makes sense.

The bounds are far above any network for a phone; they are there so that a slip of the keyboard is refused where it is
read, and not as an hour of waiting or as memory that runs out.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo

from fbnet_mobile.errors import UserError
from fbnet_mobile.registry import Registry

if TYPE_CHECKING:
    from torch import nn

STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
"""Of every model here: nothing unknown, nothing converted (``true`` is no number, ``"no"`` is not off)."""

MAX_BLOCKS = 1000
MAX_PARAMS = 10**9
MAX_ACTIVATIONS = 2**32

Count = Annotated[int, Field(ge=1, le=1_000_000)]
"""Channels or classes."""
Resolution = Annotated[int, Field(ge=1, le=8192)]
"""Height and width of a square map, pixels."""
Stride = Annotated[int, Field(ge=1, le=64)]
Flag = Annotated[bool | None, AfterValidator(lambda on: on or None)]
"""What most networks are without, and then None: a block's key leaves it out, so that "without" is said in one way."""
Groups = Annotated[Count | None, AfterValidator(lambda groups: None if groups == 1 else groups)]
"""Of a convolution; likewise None where there is but one."""


BATCH_NORM_EPS = 1e-5
"""PyTorch's own, which a block has that says nothing of it."""
NormEps = Annotated[
    Annotated[float, Field(gt=0, le=1)] | None, AfterValidator(lambda eps: None if eps == BATCH_NORM_EPS else eps)
]
"""Batch norm's eps; None for PyTorch's 1e-5. TensorFlow's networks have 1e-3."""


def _of_stride(padding: str | None, info: ValidationInfo) -> str | None:
    return None if info.data.get("stride") == 1 else padding


Padding = Annotated[Literal["same"] | None, AfterValidator(_of_stride)]
"""Of a block's convolutions with a stride: None for k // 2 on every side, or TensorFlow's ``same``, which is as much as
gives ceil(resolution / stride) and has its odd row below and its odd column to the right. Without a stride the two are
one, which is None."""


def _odd(size: int) -> int:
    if size % 2 == 0:
        raise ValueError(f"{size} is even; use an odd one")
    return size


KernelSize = Annotated[int, Field(ge=1, le=63), AfterValidator(_odd)]


def _of_torch(name: str) -> "Callable[[], nn.Module]":
    def make() -> "nn.Module":
        import torch

        module: nn.Module = getattr(torch.nn, name)()
        return module

    return make


ACTIVATIONS: "Registry[Callable[[], nn.Module]]" = Registry("activation")
"""What makes the module of each activation: elementwise and without parameters."""

ACTIVATIONS.add("relu", _of_torch("ReLU"))
ACTIVATIONS.add("hswish", _of_torch("Hardswish"))  # MobileNetV3, arXiv 1905.02244, section 5.2
ACTIVATIONS.add("relu6", _of_torch("ReLU6"))  # MobileNetV2, arXiv 1801.04381, section 3.4
ACTIVATIONS.add("silu", _of_torch("SiLU"))  # EfficientNet, arXiv 1905.11946, as swish


def _known(name: str) -> str:
    try:
        ACTIVATIONS.get(name)
    except UserError as error:
        raise ValueError(str(error)) from error  # so that the message gets the field's name
    return name


Activation = Annotated[str, AfterValidator(_known)]
"""The name of one of ``ACTIVATIONS``."""


def _of_squeeze_excite(value: str | None, info: ValidationInfo) -> str | None:
    return None if info.data.get("se_channels") is None or value == info.data.get("activation") else value


SqueezeActivation = Annotated[Activation | None, AfterValidator(_of_squeeze_excite)]
"""Of squeeze-excite's bottleneck, declared below ``se_channels`` and ``activation``; None for the block's own."""
Gate = Annotated[
    Literal["hsigmoid", "sigmoid"] | None,
    AfterValidator(lambda gate: None if gate == "hsigmoid" else gate),
    AfterValidator(_of_squeeze_excite),
]
"""What squeeze-excite makes a factor from 0 to 1 with, declared below ``se_channels``; None for a hard sigmoid."""


def printable(text: str) -> str:
    """The text of a name, if a line of a message can hold it.

    Raises:
        ValueError: it is empty, long, or has a character that cannot be printed.
    """
    if not 1 <= len(text) <= 100:
        raise ValueError(f"{len(text)} characters; a name has 1 to 100")
    if not text.isprintable():
        raise ValueError("holds a character that cannot be printed, such as a control character")
    return text


def _printable_lines(text: str) -> str:
    if not all(line.isprintable() for line in text.split("\n")):
        raise ValueError("holds a character that cannot be printed, such as a control character")
    return text


Name = Annotated[str, AfterValidator(printable)]
Description = Annotated[str, Field(max_length=10_000), AfterValidator(_printable_lines)]


def named_fields(data: Mapping[Any, Any], what: str = "field") -> Mapping[str, Any]:
    """The mapping, if its keys are text; in YAML they may be numbers, dates or nothing.

    Raises:
        ValueError: one is not.
    """
    for key in data:
        if not isinstance(key, str):
            raise ValueError(f"the name of a {what} is text, not {str(key)[:40]!r}")
    return data


def require_sensible(params: int, peak_activations: int, where: str) -> None:
    """Refuse a network with more parameters, or values alive at once, than any that is meant.

    Raises:
        ValueError: it has; ``where`` names it, or the part that is too large.
    """
    if params > MAX_PARAMS:
        raise ValueError(f"{params:.1e} parameters {where}; at most {MAX_PARAMS:.0e} are allowed")
    if peak_activations > MAX_ACTIVATIONS:
        raise ValueError(
            f"feature maps of {peak_activations:.1e} values {where}; at most {MAX_ACTIVATIONS:.0e} are allowed"
        )
