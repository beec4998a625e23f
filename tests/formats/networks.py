"""Small networks whose outputs depend on every one of their parameters."""

import torch
from calibrated import calibrated
from torch import nn
from torch.nn import functional as F


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 4, 1)
        self.expand = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = F.adaptive_avg_pool2d(x, 1)
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(scale))))


class MBConv(nn.Module):
    def __init__(self, before: int, after: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        wide = before * 4
        self.residual = before == after and stride == 1
        self.layers = nn.Sequential(
            nn.Conv2d(before, wide, 1, groups=groups, bias=False),
            nn.BatchNorm2d(wide),
            nn.Hardswish(),
            nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.Hardswish(),
            SqueezeExcite(wide),
            nn.Conv2d(wide, after, 1, groups=groups, bias=False),
            nn.BatchNorm2d(after),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


def mobile_network() -> nn.Module:
    """MBConv blocks with squeeze-excite and hard swish: stride 1 and 2, 3x3 and 5x5, groups 1 and 2; (1, 3,
    33, 33).

    The odd size makes PyTorch's padding and TFLite's differ in every way they can.
    """
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.Hardswish(),
        MBConv(8, 8, 3, 1),
        MBConv(8, 12, 5, 2),
        MBConv(12, 12, 5, 1, groups=2),
        MBConv(12, 16, 3, 2, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
    return calibrated(network, 3, 33)


class EveryOperation(nn.Module):
    """Uses what the mobile network does not, one after another, on (1, 8, 12, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        self.dilated = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.multiplied = nn.Conv2d(8, 16, 3, stride=2, padding=(1, 0), groups=8)
        self.folded = nn.Linear(16 * 3 * 2, 12)
        self.vector_norm = nn.BatchNorm1d(12)
        self.last_norm = nn.BatchNorm1d(12)
        self.scale = nn.Parameter(torch.rand(8, 1, 1) + 0.5)
        self.prelu = nn.PReLU(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)  # stands alone
        x = F.relu6(F.pad(x, (1, 0, 0, 2)))[:, :, :12, 1:]
        x = F.leaky_relu(self.dilated(x) * self.scale - 0.1, 0.2)
        x = F.silu(x) + F.gelu(x) + F.gelu(x, approximate="tanh") + torch.tanh(1 - x)
        x = F.elu(self.prelu(x - 0.2))
        pooled = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)[:, :, 1:, 1:] + F.avg_pool2d(x, 3, 2, 1)[:, :, :1]
        x = x - F.interpolate(pooled[:, :, :6, :6], scale_factor=2, mode="bilinear")
        x = x + F.interpolate(F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), scale_factor=2)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        first, second = x.chunk(2, dim=1)
        x = torch.cat((second * x.mean((2, 3), keepdim=True)[:, :4], first, x[:, 1:5]), 1)[:, :8]
        x = F.relu(x + 0.5) / 2
        x = F.hardsigmoid(self.multiplied(x) + 1)
        x = F.avg_pool2d(x, 2)
        assert x.shape[2:] == (3, 2)
        x = self.last_norm(F.hardswish(self.vector_norm(self.folded(x.flatten(1)))))
        return torch.softmax(x, 1) - x.sigmoid()


class EveryOtherOperation(nn.Module):
    """What mobile transformers have besides, on (N, 8, 12, 12)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.wide = nn.LayerNorm(8), nn.Linear(8, 24)
        self.token = nn.Parameter(torch.rand(1, 1, 8))
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat((self.token.expand(len(x), -1, -1), self.norm(x.flatten(2).transpose(1, 2))), 1)
        query, key, value = self.wide(y).reshape(len(x), 145, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = y + F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = self.up(y[:, 1:].mT.unflatten(2, (12, 12)))[:, :, ::2, 1::2] * y.amax(1)[..., None, None]
        x = F.softplus(x) / (1 + x.abs().sqrt()) - (-x.clamp(-1, 1)).exp()
        x = x[:, [1, 0, 2, 3, 4, 5, 7, 6]] + x.mean(1, keepdim=True) * x.sum((1, 2), keepdim=True) / 20
        return self.head(x.mean((2, 3)))
