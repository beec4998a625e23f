"""From a search space, limits and images to architectures."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbnet_mobile.api.call import (
    arguments_path,
    check_arguments,
    check_output,
    say,
    takes,
    write_arguments,
)
from fbnet_mobile.data.recipe import TrainingData
from fbnet_mobile.errors import UserError
from fbnet_mobile.recipe import MachineOptions
from fbnet_mobile.report.records import LimitMet, NetworkFound, SearchResult
from fbnet_mobile.search.recipe import SearchRecipe, SearchTask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fbnet_mobile.cost.constraint import Constraint
    from fbnet_mobile.latency.table import LatencyTable
    from fbnet_mobile.search.results import Searched
    from fbnet_mobile.space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Everything that a search is asked for."""

    task: SearchTask
    images: TrainingData
    recipe: SearchRecipe
    machine: MachineOptions


@takes(SearchOptions)
def search(options: SearchOptions) -> SearchResult:
    """Find the most accurate network of a search space within limits, by FBNetV2's DMaskingNAS.

    Writes architecture.yaml, result.json and args.yaml into the output folder. An interrupted search continues where it
    was when it is started again in the same way; a finished one is not run again.
    """
    task, images, recipe = options.task, options.images, options.recipe
    asked = _Asked(task)
    kept = arguments_path(task.output, folder=True)
    check_output(task.output, replaces=Path.is_dir, inputs=[images.data, task.within, *task.latency_table])
    check_arguments(kept)

    from fbnet_mobile.latency.table import LatencyTable
    from fbnet_mobile.space import SearchSpace, load_space

    tables = [LatencyTable.load(path) for path in task.latency_table]
    start = None
    if task.within is not None:
        from fbnet_mobile.search.start import Start

        start = Start.load(task.within)
    if task.space is None and not tables:
        assert start is not None
        space_name, space = f"within {task.within}", SearchSpace.within(start.architecture)
    else:
        space_name = task.space or tables[0].conditions.space
        space = load_space(space_name)
    if start is not None:
        start.require(space, space_name)
    elif space.blocks:
        raise UserError(f"space {space_name} is within a trained network; give its checkpoint with --within")

    from fbnet_mobile.api.fabric import make_fabric
    from fbnet_mobile.data.data import load_data, load_images
    from fbnet_mobile.search.loop import search as run

    fabric = make_fabric(options.machine)
    resolution = max(space.resolution)
    source: dict[str, Any] = {"root": images.place.data_root, "resolution": resolution, "seed": images.place.split_seed}
    # The limits depend on the number of classes, and are checked before all images are read.
    with fabric.rank_zero_first():
        _, _, classes = load_images(images.data, "train", 1, **source)
    space = space.with_classes(len(classes))
    for table, path in zip(tables, task.latency_table, strict=True):
        table.require(space, space_name, path)
    searches, remarks = _limited(space, tables, asked, task.output)
    remarks = [f"{path}: {warning}" for path, table in zip(task.latency_table, tables, strict=True)
               for warning in table.warnings()] + remarks  # fmt: skip
    if fabric.is_global_zero:
        say(f"space {space.name}: {space.size():.2g} networks")
        for remark in remarks:
            say(remark)
    with fabric.rank_zero_first():
        data = load_data(images.data, limit=images.limit, **source)
    if start is not None:
        data = start.colours(data)
    found = []
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
            shared_warmup=task.output / "warmup.pt" if len(searches) > 1 else None,
            tensorboard=task.tensorboard,
        )
        found.append(_found(folder, result, space, constraints))
    if fabric.is_global_zero:
        write_arguments(kept, "search", options)
    return SearchResult(space.name, float(space.size()), tuple(remarks), tuple(found))


class _Asked:
    """The limits of a search as numbers.

    Attributes:
        counts: of each cost but latency, in its unit.
        targets: for each table its latencies in us, one for each of the searches.
    """

    def __init__(self, task: SearchTask) -> None:
        from fbnet_mobile.cost.quantity import QUANTITIES

        tables = len(task.latency_table)
        self.counts = {
            name.removeprefix("max_"): QUANTITIES.get(name.removeprefix("max_")).parse(text)
            for name, text in task.limits.items()
        }
        measured = [QUANTITIES.get(name) for name in self.counts if QUANTITIES.get(name).from_table]
        parse = QUANTITIES.get("latency").parse
        self.targets = [[parse(text) for text in texts.split(",")] for texts in task.target_latency]
        numbers = [len(each) for each in self.targets]
        if ((numbers or not measured) and len(numbers) != tables) or len(set(numbers)) > 1:
            raise UserError(
                f"{tables} tables and {', '.join(map(str, numbers)) or 'no'} target latencies; give --target-latency "
                "once for each --latency-table, each with as many targets"
            )
        if not self.targets and not self.counts:
            raise UserError("nothing limits the network; give --latency-table and --target-latency, or --max-macs, ...")
        if measured and not tables:
            raise UserError(f"{measured[0].option} is read from a table; give --latency-table")
        if not tables and task.space is None and task.within is None:
            raise UserError("no space; name one with --space, as there is no table to take it from")


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
    )
