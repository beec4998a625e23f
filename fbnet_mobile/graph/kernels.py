"""How TFLite's kernels round what they compute in integers, where that is not to the nearest, halves to the even one.

Convolutions, fully connected layers and products do: XNNPACK, by which LiteRT computes unless it is told otherwise,
makes floats of sums of integers, and rounds once.
"""

import torch
from torch import Tensor

GATE_STEP = 1 / 255
"""Between the numbers that a hard swish multiplies what it reads by, in files in TFLite."""


def hard_swish(step: Tensor, zero: Tensor, result_step: Tensor, result_zero: Tensor) -> Tensor:
    """What hard swish gives for each of the 256 integers: (256,) integers from 0 to 255.

    In the parts that TFLite files have it in: a sum with three, in steps of 6/255, of which a sixth is the gate, and
    the product with that.

    Args:
        step: between the numbers that the input's integers stand for.
        zero: which of them stands for 0.
        result_step: of the result.
        result_zero: of the result.
    """
    integers = torch.arange(256, device=step.device) - zero
    three = (torch.full_like(integers, 127), step.new_tensor(3 / 127))
    gate = added(integers, step, *three, step.new_tensor(6 * GATE_STEP)).clamp(0, 255)
    factor = step * step.new_tensor(GATE_STEP) / result_step
    return (torch.round(integers * gate * factor) + result_zero).clamp(0, 255)


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
