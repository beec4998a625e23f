import itertools
import math
import random
from pathlib import Path

import pytest

from fbnet_mobile.arch import Architecture
from fbnet_mobile.errors import UserError
from fbnet_mobile.space import SearchSpace, load_space, packaged_spaces
from fbnet_mobile.zoo import load_network

CASES = Path(__file__).parents[1] / "cases"
TINY = """
name: tiny
resolution: [16, 32]
classes: 4
stem: {out_channels: 8}
stages:
  - out_channels: [8, 16]
    depth: 2
    skip: true
    expansion_ratio: {low: 1, high: 2, step: 0.5}
    kernel_size: [3, 5]
    squeeze_excite: false
    activation: relu
head: {conv_channels: [16, 24]}
"""


def every_network(space: SearchSpace) -> set[Architecture]:
    names, options = zip(*space.variables.items(), strict=True)
    return {space.architecture(dict(zip(names, values, strict=True))) for values in itertools.product(*options)}


def test_size_and_candidates_agree_with_enumeration() -> None:
    space = SearchSpace.from_yaml(TINY)
    networks = every_network(space)
    # Two expansions, 1.5 and 2 of 8 channels, round to the same width of 16: fewer networks than choices.
    by_hand = 2 * 2 * (3 * 2) * (3 * 2 + 1) * 2
    assert space.size() == by_hand
    assert len(networks) < by_hand
    assert {block for network in networks for block in network.blocks} == set(space.candidates())
    assert len(set(space.candidates())) == len(space.candidates()) < len(list(space.all_blocks()))


def test_drawn_networks_keep_a_width_in_a_stage_and_skip_only_later_blocks() -> None:
    space = load_space("fbnetv2-f")
    rng = random.Random(0)
    depths, candidates = set(), set(space.candidates())
    for _ in range(50):
        network = space.architecture(space.draw(rng))
        assert network.blocks[0].out_resolution == 112
        assert network.blocks[-1].resolution == 7
        depths.add(len(network.blocks))
        assert set(network.blocks) <= candidates
    assert len(depths) > 3


def test_another_number_of_classes_reaches_the_network() -> None:
    space = load_space("small").with_classes(7)
    assert space.architecture(space.first()).classes == 7


def test_costs_add_up_to_the_network() -> None:
    space = load_space("small")
    costs = space.costs(lambda block: block.macs)
    assignment = space.draw(random.Random(3))
    total = 0.0
    for position in space.positions:
        index = tuple(space.variables[name].index(assignment[name]) for name in position.names)
        total += costs[position.name][index]
    assert total == space.architecture(assignment).macs


def test_packaged_spaces_load() -> None:
    assert set(packaged_spaces()) == {"small", "photo", "fbnet", "fbnetv2-f", "fbnetv2-p", "fbnetv2-l"}
    for name in packaged_spaces():
        space = load_space(name)
        assert SearchSpace.model_validate_json(space.model_dump_json()) == space
    assert load_space("fbnet").size() == 9**22 * 2, "22 layers of 9 candidates, and two widths of the head"
    assert all(math.log10(load_space(f"fbnetv2-{family}").size()) > 30 for family in "fpl")


@pytest.mark.parametrize(
    ("space", "networks"),
    [("fbnetv2-l", ["fbnetv2-l1", "fbnetv2-l2"]), ("fbnet", ["fbnet-a", "fbnet-b", "fbnet-c"])],
)
def test_spaces_hold_the_networks_that_were_found_in_them(space: str, networks: list[str]) -> None:
    for name in networks:
        network = load_network(name)
        assignment = load_space(space).find(network)
        assert assignment is not None, name
        found = load_space(space).architecture(assignment)
        assert (found.macs, found.resolution) == (network.macs, network.resolution)


def test_a_network_is_found_by_its_blocks_whatever_was_skipped() -> None:
    space, rng = load_space("small"), random.Random(0)
    for _ in range(20):
        network = space.architecture(space.draw(rng))
        assignment = space.find(network)
        assert assignment is not None
        assert space.architecture(assignment) == network
    # Their expansions and projections are not in the paper's table, as the space's file says.
    assert all(load_space("fbnetv2-f").find(load_network(f"fbnetv2-f{number}")) is None for number in (1, 2, 3, 4))
    assert load_space("fbnetv2-f").find(network) is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "expansion_ratio",
            "expansion_ration",
            "stage 1: unknown field 'expansion_ration'; did you mean 'expansion_ratio'?",
        ),
        (
            "kernel_size: [3, 5]",
            "kernel_size: [3, 4]",
            "stage1.block1 cannot be built: kernel_size: 4 is even",
        ),
        ("high: 2", "high: 0.5", "stage 1: choices.expansion_ratio: range from 1 to 0.5"),
        ("step: 0.5", "step: 0.3", "do not reach 2"),
        ("    activation: relu\n", "", "stage 1: no 'activation' for its blocks"),
        ("[8, 16]", "[8, 8]", "options must be distinct"),
        (
            "activation: relu",
            "activation: gelu",
            "activation: unknown activation 'gelu'",
        ),
        ("classes: 4", "clases: 4", "clases"),
        ("depth: 2", "depth: two", "stage 1: depth"),
        ("depth: 2", "depth: 2\n    block: unheard", "unknown block kind 'unheard'"),
        ("depth: 2", "depth: 2\n    block: head", "stage 1: block: 'head' ends a network"),
        ("depth: 2", "depth: 2\n    block: [conv]", "stage 1: block: the name of a kind of block is text"),
        ("depth: 2", "depth: 101", "stage 1: depth: Input should be less than or equal to 100"),
        ("skip: true", "skip: 1", "stage 1: skip"),
        ("resolution: [16, 32]", "resolution: 1000000000", "resolution.0: Input should be less than or equal to 8192"),
        ("resolution: [16, 32]", "resolution: [16, 32.5]", "resolution.1: Input should be a valid integer"),
        ("resolution: [16, 32]", "resolution: [[16], 32]", "resolution.0"),
        ("{low: 1, high: 2, step: 0.5}", "{low: 1, high: .nan, step: 1}", "high must be a number of at most 1e+09"),
        ("{low: 1, high: 2, step: 0.5}", "{low: 1, high: 2, step: 1.0e-300}", "has more than 1000 options"),
        (
            "{low: 1, high: 2, step: 0.5}",
            "{low: 1, high: 2, 3: 1}",
            "exactly low, high and step, not low, high, 3",
        ),
        (
            "{low: 1, high: 2, step: 0.5}",
            "0",
            "stage1.block1 cannot be built: expansion_ratio: Input should be greater",
        ),
        ("{low: 1, high: 2, step: 0.5}", "[1, -1]", "expansion_ratio: Input should be greater than 0"),
        ("{low: 1, high: 2, step: 0.5}", ".inf", "choices.expansion_ratio.0: an option is a number of at most 1e+09"),
        ("{low: 1, high: 2, step: 0.5}", "true", "expansion_ratio: Input should be a valid number"),
        ("squeeze_excite: false", 'squeeze_excite: "no"', "squeeze_excite: Input should be a valid boolean"),
        ("squeeze_excite: false", "squeeze_excite: [0, 1]", "squeeze_excite: Input should be a valid boolean"),
        (
            "squeeze_excite: false",
            "squeeze_excite: null",
            "an option is a number of at most 1e+09, text, true or false",
        ),
        ("kernel_size: [3, 5]", "kernel_size: true", "kernel_size: Input should be a valid integer"),
        ("stem: {out_channels: 8}", "stem: {out_channels: 8, kernel_size: 2}", "stem.kernel_size: 2 is even"),
        ("stem: {out_channels: 8}", "stem: {out_channels: 8, stride: 65}", "stem.stride: Input should be less than"),
        ("[8, 16]", "400000", "parameters up to stage1.block2; at most 1e+09 are allowed"),
        ("name: tiny", 'name: "a\\eb"', "name: holds a character that cannot be printed"),
        ("name: tiny", "name: tiny\n5: 3", "the name of a field is text, not '5'"),
        ("name: tiny", f"name: {'x' * 101}", "name: 101 characters; a name has 1 to 100"),
    ],
)
def test_a_mistake_is_named_in_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TINY
    path = tmp_path / "mine.yaml"
    path.write_text(TINY.replace(old, new))
    with pytest.raises(UserError) as caught:
        load_space(str(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_space_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown space 'smal'; did you mean 'small'\? choose one of fbnet, fbnetv2-f"):
        load_space("smal")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("space-tiny-step", "resolution: range from 0 to 1 in steps of 1e-09 has more than 1000 options"),
        ("space-depth-1e9", "stage 1: depth: Input should be less than or equal to 100"),
        ("space-expansion-0", "stage1.block1 cannot be built: expansion_ratio: Input should be greater than 0"),
        ("space-squeeze-excite-2", "stage1.block1 cannot be built: squeeze_excite: Input should be a valid boolean"),
        ("space-number-as-field", "stage 3: the name of a field is text, not 'None'"),
    ],
)
def test_files_that_hung_or_were_accepted_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_space(str(CASES / f"{name}.yaml"))
    assert message in str(caught.value)


def test_more_combinations_than_can_be_priced_are_refused_before_they_are_listed() -> None:
    wide = TINY.replace("{low: 1, high: 2, step: 0.5}", "{low: 1, high: 2, step: 0.002}")
    wide = wide.replace("[8, 16]", "{low: 1, high: 100, step: 1}")
    with pytest.raises(UserError, match=r"6.0e\+05 combinations of options within its blocks; at most 500,000"):
        SearchSpace.from_yaml(wide)


def test_candidates_leave_nothing_else_to_choose() -> None:
    candidates = """
    candidates:
      light: {expansion_ratio: 1, kernel_size: 3, squeeze_excite: false, activation: relu, groups: 2}
      plain: {block: conv, kernel_size: 3, activation: relu}
"""
    begin, end = TINY.index("    expansion_ratio"), TINY.index("head:")
    text = TINY[:begin] + candidates.lstrip("\n") + TINY[end:]
    space = SearchSpace.from_yaml(text)
    assert SearchSpace.model_validate_json(space.model_dump_json()) == space
    assert {block.kind for block in space.candidates()} == {"conv", "inverted_residual", "head"}
    for old, new, message in (
        ("candidates:", "choices: {kernel_size: 3}\n    candidates:", "there are none besides the candidates"),
        ("light:", "5:", "stage 1: the name of a candidate is text, not '5'"),
        ("light:", '"a\\nb":', "holds a character that cannot be printed"),
        ("ratio: 1,", "ratio: 0,", "expansion_ratio: Input should be greater than 0"),
    ):
        with pytest.raises(UserError) as caught:
            SearchSpace.from_yaml(text.replace(old, new))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_odd_resolutions_are_halved_upwards() -> None:
    space = SearchSpace.from_yaml(TINY.replace("[16, 32]", "25").replace("depth: 2", "depth: 2\n    stride: 2"))
    assert [block.resolution for block in space.architecture(space.first()).blocks] == [25, 13, 7, 7]
