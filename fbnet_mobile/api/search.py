"""From a search space, limits and images to architectures."""

import math
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbnet_mobile.api.call import (
    arguments_path,
    check_arguments,
    check_output,
    takes,
    write_arguments,
)
from fbnet_mobile.api.report import write_page
from fbnet_mobile.data.recipe import TestData, TrainingData
from fbnet_mobile.errors import UserError
from fbnet_mobile.recipe import MachineOptions, option
from fbnet_mobile.remarks import say
from fbnet_mobile.report.records import LimitMet, NetworkFound, PlannedLimit, PlannedNetwork, SearchPlan, SearchResult
from fbnet_mobile.search.recipe import SearchRecipe, SearchTask, Wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fbnet_mobile.arch import Architecture
    from fbnet_mobile.cost.constraint import Constraint
    from fbnet_mobile.data.data import Glimpse
    from fbnet_mobile.latency.table import LatencyTable
    from fbnet_mobile.search.confirm import Measure
    from fbnet_mobile.search.results import Searched
    from fbnet_mobile.search.start import Start
    from fbnet_mobile.space import SearchSpace


_DRAWN = 501
"""Networks drawn at random, of which a plan shows the median."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Everything that a search is asked for."""

    task: SearchTask
    images: TrainingData
    recipe: SearchRecipe
    machine: MachineOptions


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What a search would be asked for, as far as it is known."""

    wanted: Wanted
    images: TestData
    limit: int | None = option(None, group="Images", low=1, shown="all", help="Use about this many training images.")
    recipe: SearchRecipe


@takes(SearchOptions)
def search(options: SearchOptions) -> SearchResult:
    """Find the most accurate network of a search space within limits, by FBNetV2's DMaskingNAS.

    Writes architecture.yaml, result.json and args.yaml into the output folder. An interrupted search continues where it
    was when it is started again in the same way; a finished one is not run again.
    """
    task, images = options.task, options.images
    wanted = task.wanted
    asked = _Asked(wanted, complete=True)
    if task.device is not None and (number := len(wanted.latency_table)) != 1:
        raise UserError(f"--device measures what one table predicts, not {number}; give one --latency-table")
    kept = arguments_path(task.output, folder=True)
    check_output(task.output, replaces=Path.is_dir, inputs=[images.data, wanted.within, *wanted.latency_table])
    check_arguments(kept)

    from fbnet_mobile.api.fabric import make_fabric
    from fbnet_mobile.data.data import glimpse, load_data
    from fbnet_mobile.latency.table import LatencyTable
    from fbnet_mobile.search.loop import search as run

    tables = [LatencyTable.load(path) for path in wanted.latency_table]
    fabric = make_fabric(options.machine)
    source: dict[str, Any] = {
        "root": images.place.data_root,
        "seed": images.place.split_seed,
        "classes": images.place.classes,
        "limit": images.limit,
    }
    # The limits depend on the number of classes, and are checked before all images are read.
    with fabric.rank_zero_first():
        seen = glimpse(images.data, **source)
    space, why, start = _space(wanted, tables, asked, seen)
    if start is not None:
        start.require_classes(seen.classes, images.data)
    searches, remarks = _limited(space, tables, asked, task.output)
    remarks = [f"{path}: {warning}" for path, table in zip(wanted.latency_table, tables, strict=True)
               for warning in table.warnings()] + remarks  # fmt: skip
    if fabric.is_global_zero:
        say(f"{why or f'space {space.name}'}: {space.size():.2g} networks")
        for remark in remarks:
            say(remark)
    with fabric.rank_zero_first():
        data = load_data(images.data, resolution=max(space.resolution), skip_damaged=images.skip_damaged, **source)
    recipe = options.recipe.fitted(len(data.train), within=start is not None)
    if fabric.is_global_zero and recipe != options.recipe:
        say(_fitted(recipe, len(data.train)))
    if start is not None:
        data = start.colours(data)
    found = []
    measure = None
    if task.device is not None:
        measure = _measuring(task.device, tables[0], task.output / "models")
    for folder, constraints in searches.items():
        if len(searches) > 1 and fabric.is_global_zero:
            say(f"{folder}: {' and '.join(map(str, constraints))}")
        result = run(
            space,
            constraints,
            data,
            recipe,
            folder,
            fabric,
            start=start,
            measure=measure,
            shared_warmup=task.output / "warmup.pt" if len(searches) > 1 else None,
            tensorboard=task.tensorboard,
        )
        found.append(_found(folder, result, space, constraints))
    if fabric.is_global_zero:
        write_arguments(kept, "search", options)
        write_page(task.output / "report.html", [task.output])
    return SearchResult(space.name, float(space.size()), tuple(remarks), tuple(found))


@takes(PlanOptions)
def plan(options: PlanOptions) -> SearchPlan:
    """What a search could find: the smallest, the middle and the largest network of the space, and the limits."""
    from fbnet_mobile.data.data import glimpse
    from fbnet_mobile.latency.table import LatencyTable

    wanted, images = options.wanted, options.images
    asked = _Asked(wanted, complete=False)
    tables = [LatencyTable.load(path) for path in wanted.latency_table]
    seen = None
    if images.data is not None:
        place = images.place
        seen = glimpse(
            images.data, root=place.data_root, classes=place.classes, seed=place.split_seed, limit=options.limit
        )
    space, why, start = _space(wanted, tables, asked, seen)

    from fbnet_mobile.cost.bounds import cheapest, cost_range
    from fbnet_mobile.cost.constraint import latency_constraint, limit_on
    from fbnet_mobile.search.derive import require_feasible

    latencies = [latency_constraint(space, table, math.inf, number) for number, table in enumerate(tables, start=1)]
    counted = [limit_on(space, name, most, tables[0] if tables else None) for name, most in asked.counts.items()]
    shown = [*latencies, *counted] or [limit_on(space, "macs", math.inf)]
    searches = list(zip(*asked.targets, strict=True)) if asked.targets else [()] if counted else []
    within = [
        [*(replace(each, limit=us) for each, us in zip(latencies, targets, strict=False)), *counted]
        for targets in searches
    ]
    first = shown[0]
    rng = random.Random(0)
    drawn = sorted((space.draw(rng) for _ in range(_DRAWN)), key=lambda assignment: first.total(space, assignment))
    networks = {
        "smallest": cheapest(space, first.costs),
        "middle": drawn[_DRAWN // 2],
        "largest": cheapest(space, {name: -costs for name, costs in first.costs.items()}),
    }
    found = []
    for name, assignment in networks.items():
        network = space.architecture(assignment)
        costs = tuple(each.total(space, assignment) for each in shown)
        found.append(PlannedNetwork(name, network.resolution, costs, network.macs, network.params))
    limits = []
    for number, each in enumerate(shown):
        reach = cost_range(space, each)
        asked_for = {constraints[number].limit: None for constraints in within if number < len(constraints)}
        name = each.quantity.name if each.quantity else each.name
        limits.append(PlannedLimit(name, each.label, tuple(asked_for), reach.lowest, reach.highest))

    def feasible(constraints: "Sequence[Constraint]") -> bool:
        try:
            require_feasible(space, constraints)
        except UserError:
            return False
        return True

    recipe = options.recipe.fitted(seen.training, within=start is not None) if seen else None
    return SearchPlan(
        space.name,
        why,
        float(space.size()),
        space.resolution,
        tuple(limits),
        tuple(found),
        tuple(map(feasible, within)),
        _fitted(recipe, seen.training) if seen and recipe else "",
    )


def _fitted(recipe: SearchRecipe, images: int) -> str:
    return (
        f"{images:,} training images: {recipe.epochs} epochs in batches of {recipe.batch_size}, architecture learning "
        f"rate {recipe.architecture_learning_rate:g}"
    )


def _space(
    wanted: Wanted, tables: "Sequence[LatencyTable]", asked: "_Asked", seen: "Glimpse | None"
) -> "tuple[SearchSpace, str, Start | None]":
    """The space with the classes of the images and the resolutions asked for.

    Returns:
        The space, why it if it was not named, and the trained network that it is within.
    """
    from fbnet_mobile.arch import Block
    from fbnet_mobile.cost.constraint import limit_on
    from fbnet_mobile.search.choose import choose_space
    from fbnet_mobile.space import SearchSpace, load_space

    start = None
    if wanted.within is not None:
        from fbnet_mobile.search.start import Start

        start = Start.load(wanted.within)
    name, why = wanted.space or (tables[0].conditions.space if tables else None), ""
    if name is not None:
        space = load_space(name)
    elif start is not None:
        name, space = f"within {wanted.within}", SearchSpace.within(start.architecture)
    elif seen is not None:
        space, why = choose_space(seen, lambda space: [limit_on(space, *each) for each in asked.counts.items()])
        name = space.name
    else:
        raise UserError("no space; name one with --space, or give --data or --latency-table, which it follows from")
    if start is not None:
        start.require(space, name)
    elif space.blocks:
        raise UserError(f"space {name} is within a trained network; give its checkpoint with --within")
    if seen is not None:
        space = space.with_classes(len(seen.classes))
    elif tables:
        heads = [block for block in map(Block.parse_key, tables[0].blocks()) if block.ends_network]
        space = space.with_classes(heads[0].out_channels) if heads else space
    if wanted.resolution is not None:
        space = space.with_resolution(wanted.resolution)
    for table, path in zip(tables, wanted.latency_table, strict=True):
        table.require(space, name, path)
    return space, why, start


class _Asked:
    """The limits of a search as numbers.

    Attributes:
        counts: of each cost but latency, in its unit.
        targets: for each table its latencies in us, one for each of the searches.

    Args:
        wanted: as a user writes it.
        complete: whether something has to be limited, and each table to have its target.
    """

    def __init__(self, wanted: Wanted, *, complete: bool) -> None:
        from fbnet_mobile.cost.quantity import QUANTITIES

        tables = len(wanted.latency_table)
        self.counts = {
            name.removeprefix("max_"): QUANTITIES.get(name.removeprefix("max_")).parse(text)
            for name, text in wanted.limits.items()
        }
        measured = [QUANTITIES.get(name) for name in self.counts if QUANTITIES.get(name).from_table]
        parse = QUANTITIES.get("latency").parse
        self.targets = [[parse(text) for text in texts.split(",")] for texts in wanted.target_latency]
        numbers = [len(each) for each in self.targets]
        tables_needed = (complete and not measured) or bool(numbers)
        if (tables_needed and len(numbers) != tables) or len(set(numbers)) > 1:
            raise UserError(
                f"{tables} tables and {', '.join(map(str, numbers)) or 'no'} target latencies; give --target-latency "
                "once for each --latency-table, each with as many targets"
            )
        if complete and not self.targets and not self.counts:
            raise UserError("nothing limits the network; give --latency-table and --target-latency, or --max-macs, ...")
        if measured and not tables:
            raise UserError(f"{measured[0].option} is read from a table; give --latency-table")


def _measuring(name: str, table: "LatencyTable", folder: Path) -> "Measure":
    """What measures a network on a device, as the table was measured.

    Raises:
        UserError: the table is of another device, processor, runtime or version.
    """
    from fbnet_mobile.devices import get_device
    from fbnet_mobile.latency.table import NETWORK
    from fbnet_mobile.measure.artifacts import artifacts
    from fbnet_mobile.measure.benchmark import benchmark
    from fbnet_mobile.measure.build import build
    from fbnet_mobile.measure.jobs import runtime_version

    device, own = get_device(name), table.conditions
    if own.runtime not in device.runtimes:
        raise UserError(f"{own.runtime}, which the table was measured with, cannot be had on {name}")
    with device:
        here = {
            "device": device.name,
            "cpu": device.facts().cpu,
            "runtime_version": runtime_version(device, own.runtime),
        }
        if why := table.mismatch(here):
            raise UserError(f"{why}; give the table of this device")

    def measure(network: "Architecture") -> float:
        (artifact,) = artifacts([(NETWORK, network.blocks)], own.format, own.precision)
        file = build([artifact], folder)[artifact]
        with device:
            timed = benchmark([file], device, own.runtime, threads=own.threads, statistic=own.statistic)
        file.unlink()
        return timed.measurements[0].latency_us

    return measure


def _limited(
    space: "SearchSpace", tables: "Sequence[LatencyTable]", asked: _Asked, output: Path
) -> "tuple[dict[Path, list[Constraint]], list[str]]":
    """The constraints of each search by its folder, and what to say of limits that no network reaches."""
    from fbnet_mobile.cost.bounds import clamped
    from fbnet_mobile.cost.constraint import latency_constraint, limit_on
    from fbnet_mobile.search.derive import require_feasible

    counted = [limit_on(space, name, most, tables[0] if tables else None) for name, most in asked.counts.items()]
    searches: dict[Path, list[Constraint]] = {}
    remarks: dict[str, None] = {}
    several = len(asked.targets) > 0 and len(asked.targets[0]) > 1
    for limits in zip(*asked.targets, strict=True) if asked.targets else [()]:
        latencies = [
            latency_constraint(space, table, limit_us, number)
            for number, (table, limit_us) in enumerate(zip(tables, limits, strict=False), start=1)
        ]
        constraints = [*latencies, *counted]
        require_feasible(space, constraints)
        fitted = [clamped(space, constraint) for constraint in constraints]
        remarks |= {remark: None for _, remark in fitted if remark}
        folder = output / "+".join(f"{limit_us:g}us" for limit_us in limits) if several else output
        searches[folder] = [constraint for constraint, _ in fitted]
    return searches, list(remarks)


def _found(folder: Path, result: "Searched", space: "SearchSpace", constraints: "Sequence[Constraint]") -> NetworkFound:
    from fbnet_mobile.search.results import ARCHITECTURE

    network, likely = result.architecture, space.architecture(result.most_likely)
    return NetworkFound(
        architecture=folder / ARCHITECTURE,
        limits=tuple(
            LimitMet(
                constraint.quantity.name if constraint.quantity else constraint.name,
                constraint.label,
                met.limit,
                met.value,
                met.most_likely,
            )
            for constraint, met in zip(constraints, result.constraints, strict=True)
        ),
        macs=network.macs,
        params=network.params,
        most_likely_macs=likely.macs,
        most_likely_params=likely.params,
        assignment=dict(result.assignment),
        history=tuple(result.history),
        measured_us=tuple(each.measured_us for each in result.rounds),
    )
