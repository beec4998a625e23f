"""Which axes of a module's tensors are which of its block's widths: found out by making each width another one."""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fbnet_mobile.arch import Block

INPUT, OUTPUT = "in_channels", "out_channels"

Axes = Mapping[str, tuple[str | None, ...]]
"""For each tensor of a module's state the width that each of its axes is as long as, or None."""


@functools.cache
def axes(block: Block) -> Axes:
    """The axes of the tensors of a block's module.

    >>> key = "conv in_channels=3 out_channels=16 resolution=8 stride=1 kernel_size=3 activation=relu bias=False"
    >>> axes(Block.parse_key(key))["0.weight"]
    ('out_channels', 'in_channels', None, None)
    """
    whole = _shapes(block)
    found: dict[str, list[str | None]] = {name: [None] * len(shape) for name, shape in whole.items()}
    for width in (INPUT, OUTPUT, *_fields(block, "width")):
        other = _shapes(_changed(block, **{width: getattr(block, width) + 8}))
        for name, shape in whole.items():
            for axis, (one, another) in enumerate(zip(shape, other[name], strict=True)):
                if one != another:
                    found[name][axis] = width
    return {name: tuple(each) for name, each in found.items()}


@functools.cache
def kernels(block: Block) -> Mapping[str, str]:
    """For each field of a block that is a kernel which may be smaller, the weight that it is the size of."""
    whole, found = _shapes(block), {}
    for field in _fields(block, "kernel"):
        if getattr(block, field) is None:
            continue
        other = _shapes(_changed(block, **{field: getattr(block, field) + 2}))
        (found[field],) = (name for name, shape in whole.items() if shape[2:] != other[name][2:])
    return found


@functools.cache
def parts(block: Block) -> Mapping[str, str]:
    """For each field of a block without which a part is left out, the name of that part's module."""
    whole, found = _shapes(block), {}
    for field in _fields(block, "part"):
        if getattr(block, field) is None:
            continue
        other = _shapes(_changed(block, **{field: None}))
        gone = [name.split(".") for name in whole if name not in other]
        shared = gone[0][:-1]
        while any(name[: len(shared)] != shared for name in gone):
            shared = shared[:-1]
        found[field] = ".".join(shared)
    return found


@torch.no_grad()
def take_slice(module: nn.Module, whole: Mapping[str, Tensor]) -> None:
    """Give a module the first channels, and the kernels' centres, of the tensors of a larger one of its kind."""
    for name, target in module.state_dict().items():
        source = whole[name]
        for axis, length in enumerate(target.shape):
            start = (source.shape[axis] - length) // 2 if axis >= 2 else 0
            source = source.narrow(axis, start, length)
        target.copy_(source)


def _fields(block: Block, how: str) -> list[str]:
    shrinks = block.shrinks or {}
    return [name for name, each in shrinks.items() if each == how and getattr(block, name) is not None]


def _changed(block: Block, **fields: Any) -> Block:
    return type(block)(**{**block.model_dump(), **fields})


def _shapes(block: Block) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in block.build().state_dict().items()}
