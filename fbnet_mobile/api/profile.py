"""From a search space and a device to a latency table."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fbnet_mobile.api.call import (
    arguments_path,
    check_arguments,
    check_output,
    command_line,
    takes,
    write_arguments,
)
from fbnet_mobile.data.recipe import TestData
from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.measure.recipe import DeviceOptions, ProfileRecipe
from fbnet_mobile.registry import unknown
from fbnet_mobile.remarks import say
from fbnet_mobile.report.records import BlockChange, ProfileResult, TableComparison

if TYPE_CHECKING:
    from fbnet_mobile.latency.table import LatencyTable

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """Everything that a profile is asked for."""

    recipe: ProfileRecipe
    images: TestData
    device: DeviceOptions


@takes(ProfileOptions)
def profile(options: ProfileOptions) -> ProfileResult:
    """Measure every candidate block of a search space on a device into a latency table.

    Rows measured in the table at the output path are kept, and estimated ones are measured; an interrupted run
    continues where it was when it is started again in the same way. All options are kept beside the table, in
    FILE.args.yaml.
    """
    recipe, images = options.recipe, options.images
    budget_s = None if recipe.budget is None else parse_seconds(recipe.budget)
    kept = arguments_path(recipe.output)
    check_output(
        recipe.output, inputs=[recipe.space, recipe.within, images.data, options.device.runtime.benchmark_binary]
    )
    check_arguments(kept)

    from fbnet_mobile.devices import get_device
    from fbnet_mobile.formats.base import format_of_runtime, get_format
    from fbnet_mobile.latency.table import LatencyTable
    from fbnet_mobile.space import load_space

    if recipe.output.exists():
        LatencyTable.load(recipe.output)  # refuses another file before anything is done
    seen = None
    if images.data is not None:
        from fbnet_mobile.data.data import glimpse

        place = images.place
        seen = glimpse(images.data, root=place.data_root, classes=place.classes, seed=place.split_seed)
    space_name, why = recipe.space or "small", ""
    if recipe.within is not None:
        space_name = _written_space(recipe)
    elif recipe.space is None and seen is not None:
        from fbnet_mobile.search.choose import choose_space

        space, why = choose_space(seen)
        space_name = space.name
    space = load_space(space_name)
    classes = recipe.num_classes or (len(seen.classes) if seen else space.classes)
    space = space.with_classes(classes)
    if recipe.resolution is not None:
        space = space.with_resolution(recipe.resolution)
    device = get_device(options.device.device)
    device.use(benchmark_binary=options.device.runtime.benchmark_binary)
    runtime = recipe.runtime or device.settings.runtime or device.runtimes[0]
    if runtime not in device.runtimes:
        raise UserError(unknown("runtime", runtime, device.runtimes))
    written_in = get_format(recipe.format).run_by(runtime) if recipe.format else format_of_runtime(runtime)
    written_in.calibrates(recipe.precision)  # refuses a precision that it has not

    from fbnet_mobile.measure.plan import MeasuringPlan
    from fbnet_mobile.measure.profile import profile as measure
    from fbnet_mobile.progress import steps

    candidates, positions = len(space.candidates()), sum(1 for _ in space.all_blocks())
    say(
        f"{why or f'space {space.name}'}: {space.size():.2g} networks, {candidates} different candidate blocks "
        f"({positions - candidates} duplicates)"
    )
    with device, steps() as progress:
        result = measure(
            space,
            space_name,
            device,
            runtime,
            recipe.output,
            threads=options.device.runtime.threads or device.settings.threads or 1,
            precision=recipe.precision,
            format=written_in.name,
            statistic=recipe.statistic,
            networks=recipe.networks,
            plan=MeasuringPlan(
                min_rounds=min(MeasuringPlan.min_rounds, recipe.rounds),
                max_rounds=recipe.rounds,
                budget_s=budget_s,
                seed=recipe.seed,
            ),
            progress=progress,
        )
    write_arguments(kept, "profile", options)
    if result.failed:
        first = result.failed[0]
        raise JobError(
            f"{recipe.output} is written but lacks {len(result.failed)} models that {runtime} on {device.name} could "
            f"not run, first the {first.kind} '{first.blocks[:200]}': {first.reason}"
        )
    described = described_table(recipe.output, result.table, command_line("profile", options, budget=None))
    return replace(described, warnings=result.warnings)


def _written_space(recipe: ProfileRecipe) -> str:
    """The path of the space within a checkpoint's network, which is written if it is not there yet."""
    from fbnet_mobile.files import write_whole
    from fbnet_mobile.search.start import Start
    from fbnet_mobile.space import SearchSpace, load_space

    assert recipe.within is not None
    start = Start.load(recipe.within)
    path = Path(recipe.space) if recipe.space else recipe.output.with_name(f"{recipe.output.stem}.space.yaml")
    if not path.exists():
        with write_whole(path) as partial:
            partial.write_text(SearchSpace.within(start.architecture).to_yaml(), encoding="utf-8")
        say(f"{path}: the space within {recipe.within}, which may be edited")
    start.require(load_space(str(path)), str(path))
    return str(path)


def show(table: Path) -> ProfileResult:
    """What a table holds.

    Raises:
        UserError: it is none.
    """
    from fbnet_mobile.latency.table import LatencyTable

    loaded = LatencyTable.load(table)
    return described_table(table, loaded, loaded.command(table))


def compare(first: Path, second: Path) -> TableComparison:
    """The blocks that two tables both have.

    Raises:
        UserError: one of them is no table, or they have no block in common.
    """
    from fbnet_mobile.latency.table import BLOCK, LatencyTable

    tables = [LatencyTable.load(path) for path in (first, second)]
    frame = tables[0].compared(tables[1])
    frame = frame[frame["kind"] == BLOCK]
    if frame.empty:
        raise UserError(f"{first} and {second} have no block in common")
    return TableComparison(
        (first, second),
        (tables[0].conditions, tables[1].conditions),
        tuple(float(value) for value in frame["ratio"].quantile([0.0, 0.1, 0.5, 0.9, 1.0])),
        tuple(
            BlockChange(str(row["blocks"]), float(row["latency_us"]), float(row["other_us"]), float(row["ratio"]))
            for row in frame.to_dict("records")
        ),
    )


def described_table(path: Path, table: "LatencyTable", complete_with: str) -> ProfileResult:
    """The record of a table; ``complete_with`` is the command that measures what it has estimates of."""
    from fbnet_mobile.latency.table import ESTIMATED, MEASURED

    blocks = table.blocks()
    estimated = [row.uncertainty for row in blocks.values() if row.source == ESTIMATED]
    measured = [row for row in blocks.values() if row.source == MEASURED]
    differences = sorted(row.uncertainty for row in measured)
    calibration = table.calibration
    return ProfileResult(
        table=path,
        conditions=table.conditions,
        blocks=len(blocks),
        estimated=len(estimated),
        networks=len(table.networks()),
        rounds=min((row.rounds for row in measured), default=0),
        fixed_us=table.fixed_us if measured else math.nan,
        estimate_error=max(estimated, default=None),
        median_difference=differences[len(differences) // 2] if differences else None,
        p90_difference=differences[len(differences) * 9 // 10] if differences else None,
        calibration=calibration.name,
        coefficients=tuple(float(value) for value in calibration.coefficients),
        error=table.error(),
        network_difference=table.network_repeatability,
        warnings=tuple(table.warnings()),
        complete_with=complete_with if estimated else "",
    )


def parse_seconds(text: str) -> float:
    """Seconds from text such as ``90s``, ``3m`` or ``1h``.

    Raises:
        UserError: no number with one of these units.
    """
    from fbnet_mobile.cost.quantity import parse_amount

    return parse_amount(text, _SECONDS, "a length of time; write a number with its unit, such as 90s or 3m")
