"""Every ordinary part, and random networks of them, in every format at sizes that are neither square nor even."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from calibrated import calibrated
from torch import nn
from torch.nn import functional as F

from fbnet_mobile.formats.verify import export
from tests.formats.each import TOGETHER

SHAPE = (1, 8, 9, 14)


class Function(nn.Module):
    def __init__(self, function: Callable[..., torch.Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, *self.parts)


def shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def layer_head(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(8, 6, 3, 2), nn.Flatten(), *between, nn.Linear(6 * 4 * 6, 5))


PARTS: dict[str, Callable[[], nn.Module]] = {
    **{f"groups {g}": lambda g=g: nn.Conv2d(8, 16, 3, padding=1, groups=g) for g in (1, 2, 4, 8)},
    "stride 2, odd kernel": lambda: nn.Conv2d(8, 8, 5, 2, 2, groups=8),
    "stride 3, even kernel": lambda: nn.Conv2d(8, 8, (2, 4), 3, (1, 0), groups=2),
    "stride by axis": lambda: nn.Conv2d(8, 4, (3, 1), (2, 1), (1, 0)),
    "dilation": lambda: nn.Conv2d(8, 8, 3, padding=(2, 3), dilation=(2, 3), groups=4),
    "padding same, even kernel": lambda: nn.Conv2d(8, 4, (4, 2), padding="same", dilation=(1, 2)),
    "batch norm before a convolution": lambda: nn.Sequential(nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 4, 1)),
    "batch norm after a convolution": lambda: nn.Sequential(nn.Conv2d(8, 4, 1, groups=4), nn.BatchNorm2d(4)),
    **{
        f"{kind.__name__}": lambda kind=kind: nn.Sequential(nn.Conv2d(8, 8, 1), kind(), nn.Dropout(0.5))
        for kind in (
            nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.SiLU, nn.GELU, nn.Tanh, nn.LeakyReLU,
            nn.ELU, nn.PReLU, nn.Identity, nn.Dropout2d,
        )
    },
    "slopes": lambda: nn.Sequential(ramp(nn.PReLU(8)), nn.Flatten(), nn.Linear(1008, 4), ramp(nn.PReLU(4))),
    "max pool": lambda: nn.MaxPool2d(3, 2, 1),
    "max pool, ceil": lambda: nn.MaxPool2d((2, 3), ceil_mode=True),
    "average pool": lambda: nn.AvgPool2d((3, 2), 2, 1),
    "average pool without padding": lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "global pool": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
    "adaptive pool": lambda: nn.AdaptiveAvgPool2d((3, 7)),
    "add, multiply, subtract": lambda: Function(lambda x, a, b: a(x) * b(x) + x - a(x), *(nn.Conv2d(8, 8, 1),) * 2),
    "gate": lambda: Function(lambda x, a: x * a(x.mean((2, 3), keepdim=True)).sigmoid(), nn.Conv2d(8, 8, 1)),
    "concatenation": lambda: Function(lambda x, a: torch.cat((x, a(x), x), 1), nn.Conv2d(8, 3, 1)),
    "concatenation of rows": lambda: Function(lambda x: torch.cat((x, x * 2), 2)),
    "chunks": lambda: Function(lambda x: torch.cat(x.chunk(4, 1)[::-1], 1)),
    "nearest": lambda: nn.Upsample(scale_factor=2),
    "nearest by axis": lambda: Function(lambda x: F.interpolate(x, (27, 28))),
    "bilinear": lambda: nn.Upsample(scale_factor=3, mode="bilinear"),
    "bilinear, corners": lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    "channel shuffle": lambda: nn.ChannelShuffle(4),
    "channel shuffle by hand": lambda: Function(lambda x: shuffle(shuffle(x, 2), 4)),
    "flatten": lambda: nn.Flatten(),
    "flatten, linear": lambda: layer_head(),
    "flatten, batch norm, linear": lambda: layer_head(nn.BatchNorm1d(144), nn.ReLU()),
    "flatten and view again": lambda: Function(lambda x: x.flatten(1).relu().unflatten(1, (8, 9, 14)) + 1),
    "softmax over channels": lambda: nn.Softmax(1),
}  # fmt: skip


def ramp(module: nn.PReLU) -> nn.PReLU:
    with torch.no_grad():
        module.weight.copy_(torch.linspace(-0.5, 1.5, len(module.weight)))
    return module


def check(module: nn.Module, folder: Path) -> None:
    for entry in TOGETHER:
        export(module, folder / f"m{entry.suffix}", format=entry.name, input_shape=SHAPE, tolerance=1e-5)


@pytest.mark.parametrize("part", PARTS)
def test_a_part(part: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    check(calibrated(Function(lambda x, part: part(x) * 2, PARTS[part]()), 8, SHAPE[2:]), tmp_path)


def random_network(rng: random.Random) -> nn.Module:
    """A few parts one after another, with branches that are added, multiplied or joined."""

    def convolution(before: int, after: int) -> nn.Module:
        groups = rng.choice([g for g in range(1, 9) if before % g == after % g == 0])
        kernel, dilation = (rng.randint(1, 4), rng.randint(1, 4)), rng.randint(1, 2)
        padding = tuple(dilation * (k - 1) // 2 + rng.randint(0, 1) for k in kernel)
        return nn.Conv2d(before, after, kernel, rng.randint(1, 2), padding, dilation, groups, bias=rng.random() < 0.5)

    def activation() -> nn.Module:
        return rng.choice([nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.GELU, nn.Tanh, nn.Identity])()

    channels, parts = SHAPE[1], []
    for _ in range(4):
        kind = rng.choice(["layer", "layer", "gate", "branches", "pool", "resize", "shuffle"])
        if kind == "layer":
            after = rng.choice([4, 6, 8, 12])
            parts += [convolution(channels, after), nn.BatchNorm2d(after), activation()]
            channels = after
        elif kind == "gate":
            excite = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1), activation())
            parts.append(Function(lambda x, gate: x * gate(x), excite))
        elif kind == "branches":
            branch = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), activation())
            joined = rng.random() < 0.5
            parts.append(Function(lambda x, f, j=joined: torch.cat((f(x), x), 1) if j else f(x) + x, branch))
            channels *= 1 + joined
        elif kind == "pool":
            parts.append(rng.choice([nn.MaxPool2d, nn.AvgPool2d])(3, rng.randint(1, 2), 1))
        elif kind == "resize":
            parts.append(nn.Upsample(scale_factor=2, mode=rng.choice(["nearest", "bilinear"])))
        else:
            parts.append(nn.ChannelShuffle(2))
    if rng.random() < 0.5:
        parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)]
    return nn.Sequential(*parts)


@pytest.mark.parametrize("seed", range(12))
def test_a_random_network(seed: int, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    check(calibrated(random_network(random.Random(seed)), 8, SHAPE[2:]), tmp_path)
