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
    "softmax over other axes": lambda: Function(lambda x: x.softmax(2) + x.flatten(2).softmax(-1).view_as(x)),
    "layer norm": lambda: Function(lambda x, norm: norm(x) + x, affine(nn.LayerNorm((9, 14)))),
    "layer norm over channels": lambda: nn.Sequential(
        Permute(0, 2, 3, 1), affine(nn.LayerNorm(8)), nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8), Permute(0, 3, 1, 2)
    ),
    "layer norm of all": lambda: nn.LayerNorm((8, 9, 14), elementwise_affine=False, eps=0.1),
    **{f"group norm {g}": lambda g=g: affine(nn.GroupNorm(g, 8)) for g in (1, 4, 8)},
    "instance norm": lambda: affine(nn.InstanceNorm2d(8, affine=True)),
    "own norms": lambda: Function(lambda x: F.rms_norm(x, (14,)) + F.normalize(x, dim=1) + x.var(1, keepdim=True)),
    "attention": lambda: Function(attend, nn.MultiheadAttention(8, 2, batch_first=True)),
    "attention with a mask": lambda: Function(
        lambda x: F.scaled_dot_product_attention(
            tokens(x), tokens(x) * 2, tokens(x) - 1, attn_mask=torch.eye(126).bool()
        )
    ),
    "products of matrices": lambda: Function(
        lambda x, y: tokens(x) @ tokens(x).mT @ y.weight.T
        + torch.einsum("bnc,bmc->bnm", tokens(x), tokens(x))[..., :6],
        nn.Linear(126, 6),
    ),
    "a vector and a constant first": lambda: Function(
        lambda x: (torch.ones(5, 9) * 0.1) @ x + 1 / (2 + x[:, :, :1].square()) - (3 - x.mean((2, 3)))[..., None, None]
    ),
    "permutations": lambda: Function(lambda x: x.permute(3, 0, 2, 1).transpose(0, 1).mT + x.movedim(3, 1)),
    "windows": lambda: Function(
        lambda x: x.reshape(1, 2, 4, 3, 3, 7, 2).permute(0, 3, 5, 4, 6, 1, 2).reshape(21, 6, 8) * torch.ones(6, 8)
    ),
    "windows and back": lambda: Function(lambda x, part: unwindowed(part(windowed(x))), nn.Linear(8, 8)),
    "pixel shuffles": lambda: Function(lambda x: F.pixel_unshuffle(F.pixel_shuffle(x[..., :12], 2)[:, :, 3:, 3:], 3)),
    "slices": lambda: Function(lambda x: x[:, 1::3, ::2, 3:13] + x[:, 5:, 1::2, :10][:, :, [3, 0, 1, 1, 2]]),
    "gathered channels": lambda: Function(lambda x: x[:, [7, 0, 3]] + x.flip(1)[:, torch.tensor([1, -1, 2])]),
    "axes taken away": lambda: Function(lambda x: x[0, :, 3] + x.select(2, 4)[:, None, ..., 1].squeeze(1)[..., None]),
    "rolled and stacked": lambda: Function(lambda x: torch.stack((x, x.roll((2, -3), (2, 3))), 1)[:, :, ::2].sum(1)),
    "repeated": lambda: Function(
        lambda x: x.mean(1, keepdim=True).expand(-1, 8, -1, -1) + x.repeat(1, 1, 1, 2)[..., ::2]
    ),
    "padded": lambda: Function(
        lambda x: F.pad(x, (0, 1), value=1.5)[..., 1:] + F.pad(x, (0, 0, 2, 0, 1, 0))[:, 1:, 2:]
    ),
    "reductions": lambda: Function(
        lambda x: x.sum((1, 3), keepdim=True) + x.mean(-1, True) + x.amax(1)[:, None] + x.norm(dim=1, keepdim=True)
    ),
    "functions": lambda: Function(
        lambda x: x.exp() + x.abs().sqrt() + F.softplus(x) + F.mish(x) + x.abs().add(1) ** -0.5
    ),
    "limits": lambda: Function(lambda x: x.clamp(-0.5, 1) / x.abs().clamp(min=0.3) + torch.maximum(x, x.flip(2))),
    "constants joined": lambda: Function(lambda x: torch.cat((torch.arange(8.0).expand(1, 1, 8), tokens(x)), 1)),
    "transposed convolution": lambda: nn.ConvTranspose2d(8, 5, 4, 2, 1),
    "transposed convolution with more at the end": lambda: nn.ConvTranspose2d(8, 5, (2, 3), (3, 2), (0, 1), (2, 1)),
    "convolution of one axis": lambda: Function(
        lambda x, part: x * part(x.mean((2, 3))[:, None]).sigmoid().view(1, 8, 1, 1), nn.Conv1d(1, 1, 3, padding=1)
    ),
    "average pool, ceil": lambda: Function(
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True)[..., :7] + F.avg_pool2d(x, 4, 2, 1, True, False)
    ),
    "adaptive pools": lambda: Function(lambda x: F.adaptive_avg_pool2d(x, (4, 5)) + F.adaptive_max_pool2d(x, 1)),
    "sizes that do not divide": lambda: Function(
        lambda x: F.interpolate(x, (13, 20)) + F.interpolate(x, (13, 20), mode="bilinear")
    ),
    "corners that do not divide": lambda: nn.Upsample((11, 17), mode="bilinear", align_corners=True),
}  # fmt: skip


class Permute(nn.Module):
    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(self.axes)


def affine(norm: nn.Module) -> nn.Module:
    """The norm with factors and terms that are not those it starts with."""
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.uniform_(-1, 1)
    return norm


def tokens(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2)


def attend(x: torch.Tensor, part: nn.Module) -> torch.Tensor:
    y = tokens(x)
    return part(y, y, y, need_weights=False)[0].transpose(1, 2).reshape(x.shape) + x


def windowed(x: torch.Tensor) -> torch.Tensor:
    return x.view(1, 8, 3, 3, 2, 7).permute(0, 2, 4, 3, 5, 1).reshape(6, 21, 8)


def unwindowed(x: torch.Tensor) -> torch.Tensor:
    return x.view(1, 3, 2, 3, 7, 8).permute(0, 5, 1, 3, 2, 4).reshape(1, 8, 9, 14)


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
