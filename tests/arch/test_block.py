import pytest

from fbnet_mobile.arch import Block, round_channels
from fbnet_mobile.blocks.conv import ConvBlock
from fbnet_mobile.blocks.head import Head
from fbnet_mobile.blocks.inverted_residual import InvertedResidual
from fbnet_mobile.errors import UserError


def test_counts_agree_with_published_fbnetv2_blocks() -> None:
    """MACs of conv and linear layers, and all trainable parameters, as the built FBNetV2-F1 has them."""
    stem = ConvBlock(in_channels=3, out_channels=8, resolution=128, stride=2, activation="hswish", bias=True)
    assert (stem.macs, stem.params, stem.out_resolution) == (884736, 240, 64)
    first = InvertedResidual(in_channels=8, out_channels=8, resolution=64, kernel_size=5)
    assert (first.macs, first.params, first.residual) == (1081344, 296, True)
    second = InvertedResidual(
        in_channels=8, out_channels=24, resolution=64, stride=2, expanded_channels=48, kernel_size=5
    )
    assert (second.macs, second.params, second.out_resolution) == (3981312, 2976, 32)


def test_squeeze_excite_and_head_are_counted_by_hand() -> None:
    block = InvertedResidual(in_channels=4, out_channels=6, resolution=5, stride=2, expanded_channels=10, se_channels=3)
    # 5x5 pixels in, 3x3 out: expand, depthwise 3x3, two squeeze-excite layers on one pixel, project.
    assert block.macs == 4 * 10 * 25 + 9 * 10 * 9 + (10 * 3 + 3 * 10) + 10 * 6 * 9
    assert block.params == (40 + 20) + (90 + 20) + (30 + 3) + (30 + 10) + (60 + 12)
    head = Head(in_channels=4, out_channels=7, resolution=3, conv_channels=8, hidden_channels=5)
    assert head.macs == 4 * 8 * 9 + 8 * 5 + 5 * 7
    assert head.params == (32 + 16) + 40 + (35 + 7)
    assert head.out_resolution == 1


@pytest.mark.parametrize(
    ("wanted", "rounded"),
    [(8 * 5.4566, 48), (24 * 4.7912, 112), (3, 8), (12, 16), (11.9, 16), (20, 24), (19, 24)],
)
def test_rounding_rule(wanted: float, rounded: int) -> None:
    assert round_channels(wanted) == rounded


def test_key_is_read_back_and_tells_blocks_apart() -> None:
    block = InvertedResidual(
        in_channels=16, out_channels=24, resolution=32, stride=2, expanded_channels=48, se_channels=16
    )
    assert Block.parse_key(block.key) == block
    assert block.model_copy(update={"kernel_size": 5}).key != block.key
    with pytest.raises(UserError, match="not a block: 'inverted_residual in_channels=x'"):
        Block.parse_key("inverted_residual in_channels=x")
    with pytest.raises(UserError, match=r"unknown block kind 'nonsense'; choose one of conv, fused_inverted"):
        Block.parse_key("nonsense")


@pytest.mark.parametrize(
    "key",
    [
        "conv out_channels=8 in_channels=3 resolution=4 stride=1 kernel_size=3 activation=relu bias=False",  # order
        "conv in_channels=03 out_channels=8 resolution=4 stride=1 kernel_size=3 activation=relu bias=False",
        "conv in_channels=3 out_channels=8 resolution=4 stride=1 kernel_size=3 activation=relu bias=no",
        "conv in_channels=3 out_channels=8 resolution=4",  # what is left out would be filled in
        "head in_channels=8 out_channels=2 resolution=4 stride=1 conv_channels=8 activation=relu bias=False",  # None
        "conv in_channels=3 out_channels=8 resolution=9999999 stride=1 kernel_size=3 activation=relu bias=False",
        "conv in_channels=3 out_channels=8 resolution=4 stride=1 kernel_size=3 activation=gelu bias=False",
        "conv",
        "conv in_channels",
        "",
    ],
)
def test_a_key_that_no_block_writes_is_refused(key: str) -> None:
    with pytest.raises(UserError) as caught:
        Block.parse_key(key)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kernel_size": True}, "kernel_size"),
        ({"kernel_size": 3.0}, "kernel_size"),
        ({"kernel_size": 4}, "4 is even; use an odd one"),
        ({"kernel_size": 65}, "less than or equal to 63"),
        ({"stride": 0}, "stride"),
        ({"resolution": 8193}, "less than or equal to 8192"),
        ({"out_channels": 10**6 + 1}, "less than or equal to 1000000"),
        ({"in_channels": -1}, "in_channels"),
        ({"bias": "no"}, "bias"),
        ({"activation": "gelu"}, "unknown activation 'gelu'"),
    ],
)
def test_a_field_out_of_bounds_or_of_another_type_is_refused(fields: dict[str, object], message: str) -> None:
    good = {"in_channels": 3, "out_channels": 8, "resolution": 4}
    assert ConvBlock.model_validate(good)
    with pytest.raises(ValueError, match=message):
        ConvBlock.model_validate({**good, **fields})


def test_a_kind_has_one_class() -> None:
    with pytest.raises(UserError, match="there is a block kind 'conv' already"):

        class Other(Block):
            kind = "conv"
