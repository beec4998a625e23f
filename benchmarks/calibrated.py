"""Untrained networks whose outputs depend on every one of their parameters, for the parity benchmark and the tests."""

import torch
from torch import nn


def calibrated(module: nn.Module, channels: int, size: int | tuple[int, int]) -> nn.Module:
    """Give batch norms random affines and the statistics of seeded data, in place; fresh ones hide faults.

    With default statistics an untrained network's output hardly depends on its input, and any file agrees with it.

    Args:
        module: takes (N, channels, height, width) float images.
        channels: of the images.
        size: height and width of the images, in pixels; one number for both.

    Returns:
        The module, in evaluation mode.
    """
    generator = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.weight.data = torch.rand(norm.weight.shape, generator=generator) + 0.5
            norm.bias.data = torch.randn(norm.bias.shape, generator=generator) * 0.3
            norm.momentum = None
            norm.reset_running_stats()
    module.train()
    with torch.no_grad():
        module(torch.randn((8, channels, *(size if isinstance(size, tuple) else (size, size))), generator=generator))
    return module.eval()
