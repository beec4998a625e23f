import random
from pathlib import Path

import numpy as np
import pytest

from fbnet_mobile.arch import Block
from fbnet_mobile.blocks.head import Head
from fbnet_mobile.blocks.inverted_residual import InvertedResidual
from fbnet_mobile.errors import UserError
from fbnet_mobile.latency import estimate as module
from fbnet_mobile.latency.estimate import estimate
from fbnet_mobile.latency.table import LatencyTable

TABLES = Path(__file__).parents[2] / "latency_tables"


@pytest.fixture(scope="module")
def measured() -> dict[Block, float]:
    table = LatencyTable.load(TABLES / "small-epyc-litert-fp32-1.csv")
    return {Block.parse_key(key): row.latency_us for key, row in table.blocks().items()}


def test_a_tenth_of_a_real_table_tells_the_rest(measured: dict[Block, float]) -> None:
    blocks = list(measured)
    random.Random(0).shuffle(blocks)
    known, unknown = blocks[: len(blocks) // 10], blocks[len(blocks) // 10 :]
    estimated, error = estimate({block: measured[block] for block in known}, unknown)
    relative = np.array(estimated) / np.array([measured[block] for block in unknown]) - 1
    assert abs(relative).mean() < 0.05
    assert abs(relative.mean()) < 0.02
    assert np.sqrt((relative**2).mean()) == pytest.approx(error, rel=1.0), "it knows how wrong it is"


def test_an_estimate_is_never_nothing(measured: dict[Block, float]) -> None:
    """What is smaller than everything measured may have a price of next to nothing; a table cannot hold 0."""
    large = {block: us for block, us in measured.items() if us > 10}
    smallest = Head(in_channels=1, out_channels=1, resolution=1, conv_channels=1)
    (estimated,), _ = estimate(large, [smallest])
    assert estimated == min(large.values())


def test_two_blocks_are_the_fewest_that_others_are_estimated_from(measured: dict[Block, float]) -> None:
    blocks = list(measured)
    known = dict(list(measured.items())[:2])
    estimated, error = estimate(known, blocks[2:4])
    assert all(np.isfinite([*estimated, error]))
    with pytest.raises(UserError, match="2 blocks cannot be estimated from 1 that were measured"):
        estimate(dict(list(measured.items())[:1]), blocks[2:4])


def test_prices_that_do_not_converge_are_found_otherwise(
    measured: dict[Block, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("Maximum number of iterations reached.")

    blocks = list(measured)
    random.Random(0).shuffle(blocks)
    known, unknown = {block: measured[block] for block in blocks[:200]}, blocks[200:300]
    expected, _ = estimate(known, unknown)
    monkeypatch.setattr(module, "nnls", fails)
    found, _ = estimate(known, unknown)
    assert found == pytest.approx(expected, rel=0.02)


def test_more_channels_or_pixels_never_take_less(measured: dict[Block, float]) -> None:
    rng = random.Random(0)
    few = dict(rng.sample(sorted(measured.items(), key=lambda item: item[0].key), 60))
    # As a noisy machine would have it: the largest blocks are said to take no time.
    few |= dict.fromkeys(sorted(few, key=lambda block: block.macs)[-10:], 1.0)
    chains = []
    for _ in range(100):
        fields = {
            "in_channels": rng.randint(1, 200),
            "out_channels": rng.randint(1, 200),
            "resolution": rng.randint(1, 60),
        }
        kind = rng.choice([Head, InvertedResidual])
        if kind is Head:
            fields |= {"conv_channels": rng.randint(1, 500)}
        else:
            fields |= {"expanded_channels": rng.randint(1, 500), "se_channels": rng.randint(1, 60)}
            fields |= {"stride": rng.choice([1, 2]), "kernel_size": rng.choice([3, 5])}
        for name in set(fields) - {"stride", "kernel_size"}:
            larger = {**fields, name: fields[name] + rng.choice([1, 8, 30])}
            if larger["in_channels"] != larger["out_channels"] and fields["in_channels"] != fields["out_channels"]:
                chains.append((kind(**fields), kind(**larger)))
    smaller, _ = estimate(few, [pair[0] for pair in chains])
    larger_us, _ = estimate(few, [pair[1] for pair in chains])
    for pair, low, high in zip(chains, smaller, larger_us, strict=True):
        assert high >= low * (1 - 1e-9), pair
