"""The module of a ``FusedInvertedResidual``."""

from torch import Tensor, nn

from fbnet_mobile.blocks.fused_inverted_residual.shape import FusedInvertedResidual
from fbnet_mobile.blocks.layers import ConvBNAct, SqueezeExcite, start_as_identity


class FusedInvertedResidualModule(nn.Module):
    """The module of a ``FusedInvertedResidual``."""

    def __init__(self, block: FusedInvertedResidual) -> None:
        super().__init__()
        width, eps = block.expanded_channels, block.batch_norm_eps
        self.expand = ConvBNAct(
            block.in_channels,
            width,
            block.kernel_size,
            block.stride,
            groups=block.groups or 1,
            activation=block.activation,
            padding=block.padding,
            eps=eps,
        )
        self.squeeze_excite = (
            SqueezeExcite(width, block.se_channels, block.se_activation or block.activation, block.se_gate)
            if block.se_channels is not None
            else nn.Identity()
        )
        self.project = ConvBNAct(width, block.out_channels, eps=eps)
        self.residual = block.residual
        if block.residual:
            start_as_identity(self.project.norm)

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H', W')."""
        out: Tensor = self.project(self.squeeze_excite(self.expand(features)))
        return features + out if self.residual else out
