"""fbnet-search --plan: what a space reaches, before a search."""

import json
import subprocess
import sys
from pathlib import Path

from fbnet_mobile.cost.bounds import cheapest, cost_range
from fbnet_mobile.cost.constraint import limit_on
from fbnet_mobile.space import load_space
from tests.conftest import ROOT, MakeFolder

TABLE = Path(ROOT) / "latency_tables" / "small-epyc-litert-fp32-1.csv"


def plan(*words: object) -> subprocess.CompletedProcess[str]:
    code = "import sys; sys.argv[0] = 'fbnet-search'; from fbnet_mobile.cli.search import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "--plan", *map(str, words)], capture_output=True, text=True, check=False
    )


def test_the_smallest_and_the_largest_network_cost_the_bounds_of_the_space() -> None:
    space = load_space("photo")
    for name in ("macs", "params"):
        limit = limit_on(space, name, 1e12)
        reach = cost_range(space, limit)
        assert limit.total(space, cheapest(space, limit.costs)) == reach.lowest
        assert limit.total(space, cheapest(space, {key: -costs for key, costs in limit.costs.items()})) == reach.highest


def test_targets_are_held_against_what_the_table_predicts() -> None:
    done = plan("--latency-table", TABLE, "--target-latency", "60us,900us", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert found["feasible"] == [True, True]
    (latency,) = found["limits"]
    assert latency["limits"] == [60.0, 900.0]
    smallest, middle, largest = found["found"]
    assert smallest["costs"] == [latency["lowest"]]
    assert largest["costs"] == [latency["highest"]]
    assert latency["lowest"] < middle["costs"][0] < latency["highest"]


def test_a_plan_says_what_is_out_of_reach_and_what_it_would_do_with_the_images(make_folder: MakeFolder) -> None:
    images = make_folder({"cat": 30, "dog": 30}, size=(90, 70))
    done = plan("--data", images, "--resolution", "64,96", "--space", "photo", "--max-macs", "0.5M")
    assert done.returncode == 1
    assert "networks for 64 or 96 pixels" in done.stdout
    assert "macs of at most 500,000: out of reach: no network has less than" in done.stdout
    assert "48 training images: 60 epochs in batches of 2" in done.stdout
    assert done.stderr.count("\n") == 1
    # The data's size decides between the spaces, and a config file counts for a plan too.
    (images / "search.yaml").write_text("max_macs: 20M\n")
    done = plan("--data", images, "--config", images / "search.yaml")
    assert done.stdout.startswith("space photo, for 48 images of 70 pixels"), done.stderr
    assert "macs of at most 20,000,000: inside" in done.stdout
