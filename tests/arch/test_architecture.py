from pathlib import Path

import pytest

from fbnet_mobile.arch import Architecture
from fbnet_mobile.errors import UserError

TINY = """
name: tiny
resolution: 32
blocks:
  - {kind: conv, out_channels: 16, stride: 2}
  - {kind: inverted_residual, out_channels: 16, expanded_channels: 48, kernel_size: 5}
  - {kind: head, out_channels: 10, conv_channels: 64}
"""


def test_blocks_chain_and_the_file_reads_back(tmp_path: Path) -> None:
    network = Architecture.from_yaml(TINY)
    assert [(block.in_channels, block.resolution) for block in network.blocks] == [
        (3, 32),
        (16, 16),
        (16, 16),
    ]
    network.save(tmp_path / "tiny.yaml")
    assert Architecture.load(tmp_path / "tiny.yaml") == network
    assert network.with_classes(3).classes == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kernel_size", "kernel_sise", "block 2: kernel_sise: unknown field; did you mean 'kernel_size'?"),
        ("kernel_size: 5", "kernel_size: 4", "block 2: kernel_size: 4 is even; use an odd one"),
        ("kind: conv", "kind: convolution", "unknown block kind 'convolution'"),
        (
            "out_channels: 16, expanded",
            "in_channels: 8, out_channels: 16, expanded",
            "block 2 takes 8 channels",
        ),
        (
            "kind: head, out_channels: 10, conv_channels: 64",
            "kind: conv, out_channels: 8",
            "exactly one head",
        ),
        ("resolution: 32", "resolution: [32", "tiny.yaml:4: not valid YAML"),
        ("resolution: 32\n", "", "resolution"),
        ("name: tiny", "name: !!python/object:os.system tiny", "not valid YAML"),
    ],
)
def test_a_mistake_is_named_in_one_line(old: str, new: str, message: str) -> None:
    assert old in TINY
    with pytest.raises(UserError) as caught:
        Architecture.from_yaml(TINY.replace(old, new), "tiny.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("tiny.yaml")
    assert "\n" not in str(caught.value)
