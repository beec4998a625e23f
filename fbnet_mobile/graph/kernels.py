"""How TFLite's kernels round what they compute in integers, where that is not to the nearest, halves to the even one.

Convolutions, fully connected layers and products do: XNNPACK, by which LiteRT computes unless it is told otherwise,
makes floats of sums of integers, and rounds once.
"""

import torch
from torch import Tensor

_ONE = 1 << 15
"""In 16-bit fixed point; its highest number is one less."""


def hard_swish(step: Tensor, zero: Tensor, result_step: Tensor, result_zero: Tensor) -> Tensor:
    """What hard swish gives for each of the 256 integers: (256,) integers from 0 to 255.

    TFLite's HardSwish (``reference_ops.h``) in its 16-bit fixed point, bit by bit: about one integer in 256 differs by
    one from what is nearest.

    Args:
        step: between the numbers that the input's integers stand for.
        zero: which of them stands for 0.
        result_step: of the result.
        result_zero: of the result.
    """
    fine = (torch.arange(256, device=step.device) - zero.long()) * 128  # of a 128th of the step
    by, exponent = _fixed(float(step) / 128 / float(result_step))
    before = _product(fine, by, round_=True)
    of_three, places = _fixed(float(step) / 128 / (3 / _ONE))
    part = _clamp(fine << (places - 1)) if places > 0 else fine
    part = _product(part, of_three, round_=True)
    if places > 0:
        part = _clamp(part << 1)
    elif places < 0:
        part = _shifted(part, -places)
    gate = (part + _ONE) >> 1
    return (_shifted(_product(gate, before, round_=False), -exponent) + result_zero.long()).clamp(0, 255)


def _fixed(real: float) -> tuple[int, int]:
    """Return m and e such that real is about m / 2^15 * 2^e, rounded to 31 bits and from these to 15."""
    fraction, exponent = torch.frexp(torch.tensor(real, dtype=torch.float64))
    places = int(torch.floor(fraction * 2**31 + 0.5))
    if places == 1 << 31:
        places, exponent = places >> 1, exponent + 1
    return min((places + _ONE) >> 16, _ONE - 1), int(exponent)


def _product(first: Tensor, second: Tensor | int, round_: bool) -> Tensor:
    """The high half of twice the product, halves away from zero if it is rounded, else without its fraction."""
    twice = first * second
    nudge = torch.where(twice >= 0, _ONE >> 1, 1 - (_ONE >> 1)) if round_ else 0
    return _clamp(torch.div(twice + nudge, _ONE, rounding_mode="trunc"))


def _shifted(x: Tensor, places: int) -> Tensor:
    """x / 2^places, halves away from zero."""
    if places <= 0:
        return x
    half = ((1 << places) - 1) >> 1
    return (x >> places) + ((x & ((1 << places) - 1)) > half + (x < 0).long()).long()


def _clamp(x: Tensor) -> Tensor:
    return x.clamp(-_ONE, _ONE - 1)


def average(integers: Tensor, count: int) -> Tensor:
    """What an average pool makes of means of so many integers from 0 to 255: as int8, halves away from zero."""
    signed = torch.round(count * (integers - 128)) / count
    return torch.sign(signed) * torch.floor(signed.abs() + 0.5) + 128


def mean(integers: Tensor, step: Tensor, zero: Tensor, result_step: Tensor, result_zero: Tensor) -> Tensor:
    """What the mean of feature maps of integers from 0 to 255 is: (B, channels), integers.

    Rounded once, but of a float32 that still has the zeros of both in it, so that a step that is nearly a power of two
    of the other makes halves of what is next to them.

    Args:
        integers: (B, channels, height, width).
        step: between the numbers that they stand for.
        zero: which of them stands for 0.
        result_step: of the result.
        result_zero: of the result.
    """
    count = integers.shape[2] * integers.shape[3]
    by = step / result_step * (1 / torch.tensor(count, dtype=step.dtype, device=step.device))
    offset = (result_zero - 128) - (zero - 128) * count * by
    return torch.round((integers - 128).sum((2, 3)) * by + offset) + 128


def bilinear(integers: Tensor) -> Tensor:
    """What a bilinear resize makes of what is between integers: halves go up."""
    return torch.floor(integers + 0.5)


def converted(integers: Tensor, step: Tensor, after: Tensor) -> Tensor:
    """Integers, without their zero, of another step: XNNPACK multiplies by a ratio of few bits, and halves go up."""
    return torch.floor(integers * torch.round(256 * step / after) / 256 + 0.5)


def added(first: Tensor, first_step: Tensor, second: Tensor, second_step: Tensor, after: Tensor) -> Tensor:
    """The sum of integers, without their zeros, of two steps, in a third: XNNPACK has 21 bits for ratios of steps."""
    ratios = torch.stack([first_step, second_step]) / after
    scale = 2.0 ** (20 - torch.floor(torch.log2(ratios.max())))
    by = torch.round(ratios.double() * scale)
    return torch.floor((first.double() * by[0] + second.double() * by[1]) / scale + 0.5).float()
