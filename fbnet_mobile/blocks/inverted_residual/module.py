"""The module of an ``InvertedResidual``."""

from torch import Tensor, nn

from fbnet_mobile.blocks.inverted_residual.shape import InvertedResidual
from fbnet_mobile.blocks.layers import ConvBNAct, SqueezeExcite, start_as_identity


class InvertedResidualModule(nn.Module):
    """The module of an ``InvertedResidual``."""

    def __init__(self, block: InvertedResidual) -> None:
        super().__init__()
        width, groups, bias, eps = block.depthwise_channels, block.groups or 1, bool(block.bias), block.batch_norm_eps
        self.expand = (
            ConvBNAct(block.in_channels, width, groups=groups, activation=block.activation, bias=bias, eps=eps)
            if block.expanded_channels is not None
            else nn.Identity()
        )
        self.shuffle = nn.ChannelShuffle(groups) if groups > 1 else nn.Identity()
        self.depthwise = ConvBNAct(
            width,
            width,
            block.kernel_size,
            block.stride,
            groups=width,
            activation=block.activation,
            bias=bias,
            padding=block.padding,
            eps=eps,
        )
        self.squeeze_excite = (
            SqueezeExcite(width, block.se_channels, block.se_activation or block.activation, block.se_gate)
            if block.se_channels is not None
            else nn.Identity()
        )
        self.project = ConvBNAct(
            width, block.out_channels, groups=groups, activation=block.project_activation, bias=bias, eps=eps
        )
        self.residual = block.residual
        if block.residual:
            start_as_identity(self.project.norm)

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H', W')."""
        out: Tensor = self.project(self.squeeze_excite(self.depthwise(self.shuffle(self.expand(features)))))
        return features + out if self.residual else out
