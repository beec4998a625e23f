import random

import numpy as np
import pytest

from fbnet_mobile.arch import Block
from fbnet_mobile.latency.calibration import (
    CORRECTIONS,
    Calibration,
    Network,
    calibrate,
    left_out_error,
    prediction_error,
)
from fbnet_mobile.space import load_space

SPACE = load_space("small")
(weights,) = CORRECTIONS["scale + time per weight"]


def networks(
    count: int,
    scale: float,
    per_weight_us: float,
    noise: float,
    seed: int = 0,
    per_element_us: float = 0.0,
) -> list[Network]:
    """Networks of blocks whose latency alone is their MACs, and that take more as a whole."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        blocks = SPACE.architecture(SPACE.draw(rng)).blocks
        alone_us = tuple(block.macs / 1e4 for block in blocks)
        measured = scale * sum(alone_us) + per_weight_us * sum(map(weights, blocks))
        measured += per_element_us * sum(
            (block.in_channels * block.resolution**2 + block.out_channels * block.out_resolution**2) / 1e3
            for block in blocks
        )
        found.append(Network(blocks, alone_us, measured * rng.gauss(1, noise)))
    return found


def predicted_us(found: Calibration, network: Network) -> float:
    return sum(map(found.block_us, network.blocks, network.alone_us))


def test_the_smallest_correction_is_kept_unless_a_larger_one_is_better_beyond_chance() -> None:
    plain = calibrate(networks(40, 1.1, 0.0, noise=0.02))
    assert plain.name == "scale"
    assert plain.coefficients == pytest.approx((1.1,), rel=0.01)
    weights = calibrate(networks(40, 1.1, 0.5, noise=0.005))
    assert weights.name == "scale + time per weight"
    assert weights.coefficients == pytest.approx((1.1, 0.5), rel=0.1)
    assert calibrate(networks(5, 1.1, 0.5, noise=0.005)).name == "scale", "too few to tell"
    negative = calibrate(networks(40, 1.1, -0.2, noise=0.005))
    assert "weight" not in negative.name, "weights that are fetched in negative time"
    assert calibrate([]).coefficients == (1.0,)


def test_of_corrections_as_large_the_best_is_kept_not_the_first_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = networks(40, 1.1, 0.0, noise=0.04, per_element_us=1.0)
    found = calibrate(sample)
    for name, terms in list(CORRECTIONS.items())[::-1]:
        monkeypatch.delitem(CORRECTIONS, name)
        monkeypatch.setitem(CORRECTIONS, name, terms)
    assert calibrate(sample) == found, "decided by their order"


def test_a_first_block_that_takes_longer_alone() -> None:
    """As OpenVINO's first convolution does, four times as long."""
    sample = [
        network._replace(
            alone_us=(network.alone_us[0] + 40 * network.blocks[0].out_channels / 16, *network.alone_us[1:])
        )
        for network in networks(40, 1.0, 0.0, noise=0.005)
    ]
    found = calibrate(sample)
    assert found.name.endswith("of the first")
    for network in sample:
        assert predicted_us(found, network) == pytest.approx(network.measured_us, rel=0.03)


def test_the_error_that_is_stated_is_that_of_what_blocks_add() -> None:
    """A constant that all networks lack looks like what the block that reads the image takes, and is more than that."""
    sample = [
        network._replace(measured_us=network.measured_us - 3 * network.alone_us[0])
        for network in networks(40, 1.0, 0.5, noise=0.002, per_element_us=1.0)
    ]
    found, stated = calibrate(sample), left_out_error(sample)
    used = prediction_error([predicted_us(found, network) for network in sample], [each.measured_us for each in sample])
    assert used.mean < 1.1 * stated.mean


def test_weights_of_the_classifier_are_read_once_wherever_it_stands() -> None:
    """Networks of one classifier say nothing of it; another's is not to be guessed from what other weights take."""
    network = SPACE.architecture(SPACE.draw(random.Random(0)))
    more = network.with_classes(1000)
    assert more.params > network.params + 10_000
    assert sum(map(weights, more.blocks)) == sum(map(weights, network.blocks))
    before = sum(block.params for block in network.blocks[:-1])
    assert sum(map(weights, network.blocks[:-1])) == pytest.approx(before / 1e3)


def test_what_blocks_add_is_the_prediction() -> None:
    sample = networks(40, 1.1, 0.5, noise=0.0)
    found = calibrate(sample)
    for network in sample:
        assert predicted_us(found, network) == pytest.approx(network.measured_us)
    smallest = min(SPACE.candidates(), key=lambda block: block.macs)
    assert type(found)("scale + time per weight", (1.0, -100.0)).block_us(smallest, 0.1) == 0


def test_a_network_does_not_help_to_predict_itself() -> None:
    sample = networks(20, 1.1, 0.0, noise=0.0)
    sample[0] = sample[0]._replace(measured_us=2 * sample[0].measured_us)
    error = left_out_error(sample)
    others = [network.measured_us / sum(network.alone_us) for network in sample[1:]]
    assert np.mean(others) == pytest.approx(1.1)
    assert error.within_10_percent == pytest.approx(19 / 20)
    # The first is predicted at half of what it is, by the others alone.
    assert error.mean > 0.5 / 20
    assert error.networks == 20


def test_errors_are_relative_to_what_was_measured() -> None:
    error = prediction_error([95.1, 109.9, 50.0, 200.0], [100.0, 100.0, 100.0, 200.0])
    assert error.mean == pytest.approx((0.049 + 0.099 + 0.5) / 4)
    assert (error.within_5_percent, error.within_10_percent) == (0.5, 0.75)
    assert error.spearman < 1


def test_the_rank_correlation_is_that_of_hand_worked_ranks() -> None:
    # Ranks 1 2 3 4 and 1 3 2 4: 1 - 6 (0 + 1 + 1 + 0) / (4 (16 - 1)) = 0.8.
    assert prediction_error([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0]).spearman == pytest.approx(0.8)
    assert prediction_error([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]).spearman == 0.0, "never a number that is none"


def test_keys_of_blocks_do_not_matter() -> None:
    assert all(isinstance(block, Block) for network in networks(2, 1, 0, 0) for block in network.blocks)
