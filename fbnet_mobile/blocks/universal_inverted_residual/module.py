"""The module of a ``UniversalInvertedResidual``."""

from torch import Tensor, nn

from fbnet_mobile.blocks.layers import ConvBNAct, start_as_identity
from fbnet_mobile.blocks.universal_inverted_residual.shape import UniversalInvertedResidual


class UniversalInvertedResidualModule(nn.Module):
    """The module of a ``UniversalInvertedResidual``."""

    def __init__(self, block: UniversalInvertedResidual) -> None:
        super().__init__()
        width, eps = block.expanded_channels, block.batch_norm_eps
        start, middle, end = block.strides

        def depthwise(channels: int, kernel_size: int | None, stride: int, activation: str | None = None) -> nn.Module:
            if kernel_size is None:
                return nn.Identity()
            padding = block.padding if stride != 1 else None
            return ConvBNAct(channels, channels, kernel_size, stride, channels, activation, padding=padding, eps=eps)

        self.start = depthwise(block.in_channels, block.start_kernel_size, start)
        self.expand = ConvBNAct(block.in_channels, width, activation=block.activation, eps=eps)
        self.middle = depthwise(width, block.middle_kernel_size, middle, block.activation)
        self.project = ConvBNAct(width, block.out_channels, eps=eps)
        self.end = depthwise(block.out_channels, block.end_kernel_size, end)
        self.residual = block.residual
        if block.residual:
            start_as_identity(self.end.norm if isinstance(self.end, ConvBNAct) else self.project.norm)

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H', W')."""
        out: Tensor = self.end(self.project(self.middle(self.expand(self.start(features)))))
        return features + out if self.residual else out
