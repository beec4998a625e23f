from pathlib import Path

import pytest

from fbnet_mobile.arch import Architecture
from fbnet_mobile.errors import UserError

CASES = Path(__file__).parents[1] / "cases"
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
        ("name: tiny", 'name: "a\\nb"', "tiny.yaml: name: holds a character that cannot be printed"),
        ("name: tiny", 'name: "\\ud800"', "not valid YAML"),
        ("name: tiny", "name: 5", "tiny.yaml: name: "),
        ("name: tiny", "name: tiny\n5: 6", "the name of a field is text, not '5'"),
        ("name: tiny", "name: tiny\ninput_channels: 0", "tiny.yaml: input_channels: Input should be greater than"),
        ("kind: conv, out", "5: 6, kind: conv, out", "the name of a field is text, not '5'"),
        ("kind: conv, out", "kind: [conv], out", "block 1 has no kind"),
        ("resolution: 32", "resolution: 8193", "tiny.yaml: resolution: Input should be less than or equal to 8192"),
        ("resolution: 32", "resolution: true", "tiny.yaml: resolution: Input should be a valid integer"),
        ("kernel_size: 5", "kernel_size: true", "block 2: kernel_size: Input should be a valid integer"),
        ("conv_channels: 64", "conv_channels: 1000000, hidden_channels: 100000", "1.0e+11 parameters in all"),
    ],
)
def test_a_mistake_is_named_in_one_line(old: str, new: str, message: str) -> None:
    assert old in TINY
    with pytest.raises(UserError) as caught:
        Architecture.from_yaml(TINY.replace(old, new), "tiny.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("tiny.yaml")
    assert "\n" not in str(caught.value)


def test_files_that_once_ended_in_a_traceback() -> None:
    for name in ("architecture-huge-resolution", "architecture-4401-digits"):
        with pytest.raises(UserError, match="a number of more than 18 digits"):
            Architecture.load(CASES / f"{name}.yaml")


def test_another_number_of_classes_is_one_that_there_can_be() -> None:
    with pytest.raises(UserError, match="network tiny: out_channels: Input should be less than or equal to 1000000"):
        Architecture.from_yaml(TINY).with_classes(10**9)


def test_feature_maps_that_no_memory_holds_are_refused() -> None:
    wide = TINY.replace("resolution: 32", "resolution: 8192").replace("stride: 2", "stride: 1")
    with pytest.raises(UserError, match=r"feature maps of 7.5e\+09 values in all; at most 4e\+09 are allowed"):
        Architecture.from_yaml(wide)
