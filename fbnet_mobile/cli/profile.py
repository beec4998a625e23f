"""fbnet-profile: measure the candidate blocks of a search space on a device into a latency table."""

from pathlib import Path
from typing import Annotated

import typer

from fbnet_mobile.cli import options
from fbnet_mobile.cli.common import format_latency, parse_seconds, progress_steps, run


def main() -> None:
    """Entry point."""
    run(
        command,
        "fbnet-profile --device host --runtime litert --space small -o host.csv",
    )


def command(
    device: options.DeviceName = "host",
    runtime: Annotated[
        str | None,
        typer.Option(
            help="What runs the models: litert, onnxruntime or coreml.", show_default="as devices.yaml says, or litert"
        ),
    ] = None,
    space: Annotated[str, typer.Option(help="Search space: the name of a packaged one or a YAML file.")] = "small",
    classes: Annotated[
        int | None, typer.Option(help="Classes of the data to come.", show_default="as the space says")
    ] = None,
    threads: options.DeviceThreads = None,
    precision: Annotated[str, typer.Option(help="Of the models: fp32, fp16 or int8.")] = "fp32",
    statistic: Annotated[str, typer.Option(help="Which statistic is a row's latency: min, median or mean.")] = "min",
    networks: Annotated[
        int, typer.Option(min=0, help="Whole networks to measure with the blocks, to calibrate their sum.")
    ] = 40,
    rounds: Annotated[int, typer.Option(min=2, help="Most rounds over all models.")] = 6,
    budget: Annotated[
        str,
        typer.Option(
            help="End within this time, such as 90s, 3m, 1h; without time for all blocks, some are estimated."
        ),
    ] = "1h",
    seed: Annotated[int, typer.Option(help="Of the measuring order and of the networks drawn.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Table to write, or to complete.", show_default="none: give one"),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            help="Only print which blocks are faster or slower in the second of two tables.", show_default="none"
        ),
    ] = None,
    show: Annotated[Path | None, typer.Option(help="Only print what this table holds.", show_default="none")] = None,
    list_devices: Annotated[
        bool, typer.Option("--list-devices", help="Only print which devices there are.", show_default="no")
    ] = False,
    check_device: Annotated[
        str | None,
        typer.Option(help="Only print what this device lacks, and the remedies.", metavar="NAME", show_default="none"),
    ] = None,
    benchmark_binary: options.BenchmarkBinary = None,
) -> None:
    """Measure every candidate block of a search space on a device into a latency table.

    Rows measured in the table at the output path are kept; an interrupted run continues where it was.
    """
    from fbnet_mobile.errors import UserError
    from fbnet_mobile.latency.table import STATISTICS, LatencyTable

    if list_devices or check_device is not None:
        from fbnet_mobile.cli import devices

        devices.list_devices() if check_device is None else devices.check_device(check_device)
        return
    if show is not None:
        _print_table(show, LatencyTable.load(show))
        return
    if compare is not None:
        _print_comparison(*compare)
        return
    if output is None:
        raise UserError("no output path; add -o TABLE.csv")
    if statistic not in STATISTICS:
        raise UserError(f"unknown statistic {statistic!r}; choose one of {', '.join(STATISTICS)}")
    budget_s = parse_seconds(budget)

    from fbnet_mobile.devices import get_device
    from fbnet_mobile.formats.base import format_of_runtime
    from fbnet_mobile.measure.jobs import MeasuringPlan
    from fbnet_mobile.space import load_space

    search_space = load_space(space)
    if classes is not None:
        search_space = search_space.with_classes(classes)
    target = get_device(device)
    target.use(benchmark_binary=benchmark_binary)
    runtime = runtime or target.settings.runtime or target.runtimes[0]
    if runtime not in target.runtimes:
        raise UserError(f"unknown runtime {runtime!r}; choose one of {', '.join(target.runtimes)}")
    format_of_runtime(runtime).calibrates(precision)  # refuses a precision that it has not

    from fbnet_mobile.measure.profile import profile

    candidates, positions = len(search_space.candidates()), sum(1 for _ in search_space.all_blocks())
    print(
        f"space {search_space.name}: {search_space.size():.2g} networks, {candidates} different candidate blocks "
        f"({positions - candidates} duplicates)"
    )
    plan = MeasuringPlan(min_rounds=min(4, rounds), max_rounds=rounds, budget_s=budget_s, seed=seed)
    with target, progress_steps() as progress:
        table = profile(
            search_space,
            space,
            target,
            runtime,
            output,
            threads=threads or target.settings.threads or 1,
            precision=precision,
            statistic=statistic,
            networks=networks,
            plan=plan,
            progress=progress,
        )
    _print_table(output, table)


def _print_comparison(first: Path, second: Path) -> None:
    from fbnet_mobile.errors import UserError
    from fbnet_mobile.latency.table import BLOCK, LatencyTable

    tables = [LatencyTable.load(path) for path in (first, second)]
    frame = tables[0].compared(tables[1])
    frame = frame[frame["kind"] == BLOCK]
    if frame.empty:
        raise UserError(f"{first} and {second} have no block in common")
    for path, table in zip((first, second), tables, strict=True):
        conditions = table.conditions
        print(
            f"{path}: {conditions.device} ({conditions.cpu}), {conditions.runtime} {conditions.runtime_version}, "
            f"{conditions.threads} thread{'s' if conditions.threads > 1 else ''}, {conditions.precision}, "
            f"{conditions.statistic}, {conditions.date}"
        )
    quantiles = frame["ratio"].quantile([0.0, 0.1, 0.5, 0.9, 1.0])
    print(f"{len(frame)} blocks in both; latency in the second over the first:")
    names = ("least", "10th percentile", "median", "90th percentile", "greatest")
    print("  " + ", ".join(f"{name} {value:.3f}" for name, value in zip(names, quantiles, strict=True)))
    for title, rows in (("fastest", frame.head(5)), ("slowest", frame.iloc[::-1].head(5))):
        print(f"relatively {title} in the second:")
        for row in rows.itertuples():
            print(f"  x{row.ratio:.3f}  {row.latency_us:.1f} -> {row.other_us:.1f} us  {row.blocks}")


def _print_table(path: Path, table: object) -> None:
    from fbnet_mobile.latency.table import ESTIMATED, MEASURED, LatencyTable

    assert isinstance(table, LatencyTable)
    conditions, blocks = table.conditions, table.blocks()
    estimated = [row.uncertainty for row in blocks.values() if row.source == ESTIMATED]
    measured = [row for row in blocks.values() if row.source == MEASURED]
    print(
        f"{path}: {len(blocks)} blocks and {len(table.networks())} networks for space {conditions.space} on "
        f"{conditions.device} ({conditions.cpu}), {conditions.runtime} {conditions.runtime_version}, "
        f"{conditions.threads} thread{'s' if conditions.threads > 1 else ''}, {conditions.precision}, "
        f"{conditions.statistic} of {min((row.rounds for row in measured), default=0)} rounds or more, "
        f"{conditions.date}"
    )
    if estimated:
        print(f"{len(estimated)} of the blocks are estimated from the others, with an error of {max(estimated):.1%}")
    if measured:
        uncertainties = sorted(row.uncertainty for row in measured)
        print(
            f"fixed cost of an invocation {format_latency(table.fixed_us)}; difference between halves of the rounds: "
            f"median {uncertainties[len(uncertainties) // 2]:.1%}, 90th percentile "
            f"{uncertainties[len(uncertainties) * 9 // 10]:.1%}"
        )
    error = table.error()
    if error is None:
        print("not calibrated: too few whole networks in the table to know its error")
    else:
        coefficients = ", ".join(f"{value:.4g}" for value in table.calibration.coefficients)
        print(
            f"calibration: {table.calibration.name} ({coefficients}); on {error.networks} networks, each left out in "
            f"turn: mean error {error.mean:.1%}, {error.within_5_percent:.0%} within 5 %, "
            f"{error.within_10_percent:.0%} within 10 %, Spearman {error.spearman:.3f}; their own measurements differ "
            f"by {table.network_repeatability:.1%} between halves of the rounds"
        )
    for doubt in table.doubts():
        print(f"warning: {doubt}; the numbers are the less certain")
