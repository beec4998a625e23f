"""Untrained networks whose outputs depend on every one of their parameters, for the parity benchmark and the tests."""

import torch
from torch import nn

from fbnet_mobile.blocks.network import calibrate_batch_norm

_RESIDUAL = ("has_skip", "use_res_connect", "apply_residual")
"""What timm and torchvision call it that a block adds its input; other such blocks here have a last norm of zeros."""


def _norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]


def calibrated(module: nn.Module, channels: int, size: int | tuple[int, int]) -> nn.Module:
    """Give batch norms random affines and the statistics of seeded data, in place; fresh ones hide faults.

    With default statistics an untrained network's output hardly depends on its input, and any file agrees with it.
    The last norm of a residual branch gets a quarter of what the others get, so that the branch changes its input as
    little as in a trained network. With as much, a deep random network amplifies whatever is rounded: PyTorch's own
    float16 was then 3e-2 of the largest logit from its float32 for FBNetV2-L2, and 3e-3 with a quarter (the fp16 files
    of EfficientNet-Lite0 with its trained weights, 4e-3); its float32 0.27 from its float64 for EfficientNetV2-M, and
    5e-6 with a quarter.

    Args:
        module: takes (N, channels, height, width) float images.
        channels: of the images.
        size: height and width of the images, in pixels; one number for both.

    Returns:
        The module, in evaluation mode.
    """
    generator = torch.Generator().manual_seed(0)
    residual = [part for part in module.modules() if any(getattr(part, name, None) is True for name in _RESIDUAL)]
    last = {norm for block in residual for norm in _norms(block)[-1:]}
    for norm in _norms(module):
        gain = 0.25 if norm in last or not norm.weight.any() else 1
        norm.weight.data = gain * (torch.rand(norm.weight.shape, generator=generator) + 0.5)
        norm.bias.data = gain * torch.randn(norm.bias.shape, generator=generator) * 0.3
    height, width = size if isinstance(size, tuple) else (size, size)
    calibrate_batch_norm(module, torch.randn((8, channels, height, width), generator=generator))
    return module
