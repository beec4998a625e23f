"""fbnet-search: find the most accurate network of a space within a latency on a device."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fbnet_mobile.cli import options
from fbnet_mobile.cli.common import run
from fbnet_mobile.cost.quantity import QUANTITIES
from fbnet_mobile.errors import UserError

if TYPE_CHECKING:
    from fbnet_mobile.cost.constraint import Constraint
    from fbnet_mobile.search.results import SearchResult
    from fbnet_mobile.space import SearchSpace


def main() -> None:
    """Entry point."""
    run(
        _with_limits(command),
        "fbnet-search --latency-table host.csv --data path/to/images --target-latency 0.3ms -o runs/search",
    )


def _with_limits(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each cost but the latency, which reach it as its argument ``limits``."""
    costs = {f"max_{name}": QUANTITIES.get(name) for name in QUANTITIES if name != "latency"}

    @functools.wraps(command)
    def with_limits(**values: Any) -> None:
        given = {cost.name: text for option, cost in costs.items() if (text := values.pop(option)) is not None}
        command(**values, limits=given)

    annotations = {
        option: Annotated[
            str | None,
            typer.Option(cost.option, help=f"{cost.help} Such as {cost.example}.", show_default="no limit"),
        ]
        for option, cost in costs.items()
    }
    signature = inspect.signature(command)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "limits"]
    added = [
        inspect.Parameter(option, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=annotation)
        for option, annotation in annotations.items()
    ]
    vars(with_limits)["__signature__"] = signature.replace(parameters=[*own, *added])
    with_limits.__annotations__ = {**command.__annotations__, **annotations}
    return with_limits


def command(
    data: options.Data,
    output: options.RunFolder,
    latency_table: Annotated[
        list[Path] | None,
        typer.Option(
            help="Table that fbnet-profile wrote for the device; give it again for a second device.",
            show_default="none",
        ),
    ] = None,
    target_latency: Annotated[
        list[str] | None,
        typer.Option(
            help="Budget such as 12ms or 350us, one for each table in the order of the tables. Several, as "
            "3ms,5ms,8ms, are that many searches with one warm-up, each into a folder of its own.",
            show_default="none",
        ),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(help="Search space: a packaged one or a YAML file.", show_default="the first table's"),
    ] = None,
    data_root: options.DataRoot = None,
    split_seed: options.SplitSeed = 0,
    limit: options.Limit = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images for the weights.")] = 90,
    batch_size: options.BatchSize = 64,
    learning_rate: Annotated[float, typer.Option(help="Of the weights, at its peak.")] = 0.1,
    architecture_learning_rate: Annotated[float, typer.Option(help="Of the architecture parameters.")] = 0.01,
    warmup: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the epochs that trains weights only.")] = 0.11,
    mode: Annotated[
        str,
        typer.Option(
            help="How kernels, squeeze-excite, activations and whole candidates are weighed: shared (one block with "
            "masks), candidates (parallel blocks), or paths (a module for each possible block)."
        ),
    ] = "shared",
    one_resolution: Annotated[
        bool,
        typer.Option(
            "--one-resolution/--all-resolutions",
            help="In a step, run one input resolution of the space, drawn at random, or all.",
        ),
    ] = False,
    objective: Annotated[
        str,
        typer.Option(
            help="constraint: the latency is a constraint whose multiplier is learned. product: FBNet's cross-entropy "
            "x alpha x log(latency)^beta, with the first table's latency in us; the target is met when deriving."
        ),
    ] = "constraint",
    alpha: Annotated[float, typer.Option(help="Of the product.")] = 0.2,
    beta: Annotated[float, typer.Option(help="Of the product.")] = 0.6,
    seed: Annotated[int, typer.Option(min=0, help="Of order, augmentation and Gumbel noise.")] = 0,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard/--no-tensorboard", help="Write TensorBoard files into the output folder too.")
    ] = False,
    accelerator: options.Accelerator = "auto",
    devices: options.Devices = "1",
    precision: options.Precision = "32-true",
    limits: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Find the most accurate network of a search space within a latency budget, by FBNetV2's DMaskingNAS.

    Writes architecture.yaml and result.json into the output folder. An interrupted search continues where it was
    when the same command is given again; a finished one is not run again.
    """
    paths = latency_table or []
    counts = {name: QUANTITIES.get(name).parse(text) for name, text in limits.items()}
    measured = [name for name in counts if QUANTITIES.get(name).from_table]
    targets = [[QUANTITIES.get("latency").parse(text) for text in texts.split(",")] for texts in target_latency or []]
    if ((targets or not measured) and len(targets) != len(paths)) or len({len(each) for each in targets}) > 1:
        raise UserError(
            f"{len(paths)} tables and {', '.join(str(len(each)) for each in targets) or 'no'} target latencies; give "
            "--target-latency once for each --latency-table, each with as many targets"
        )
    if not targets and not counts:
        raise UserError("nothing limits the network; give --latency-table and --target-latency, or --max-macs, ...")
    if measured and not paths:
        raise UserError(f"{QUANTITIES.get(measured[0]).option} is read from a table; give --latency-table")
    if not paths and space is None:
        raise UserError("no space; name one with --space, as there is no table to take it from")

    from fbnet_mobile.latency.table import LatencyTable
    from fbnet_mobile.space import load_space

    tables = [LatencyTable.load(path) for path in paths]
    space_name = space or tables[0].conditions.space
    search_space = load_space(space_name)

    from fbnet_mobile.cli.training import make_fabric
    from fbnet_mobile.cost.bounds import clamped
    from fbnet_mobile.cost.constraint import latency_constraint, limit_on
    from fbnet_mobile.data.data import load_data
    from fbnet_mobile.search.derive import require_feasible
    from fbnet_mobile.search.loop import search
    from fbnet_mobile.search.recipe import SearchRecipe

    recipe = SearchRecipe(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        architecture_learning_rate=architecture_learning_rate,
        warmup=warmup,
        mode=mode,  # type: ignore[arg-type]  # checked by SearchRecipe
        one_resolution=one_resolution,
        objective=objective,  # type: ignore[arg-type]
        alpha=alpha,
        beta=beta,
        seed=seed,
    )
    fabric = make_fabric(accelerator, devices, precision)
    with fabric.rank_zero_first():
        images = load_data(data, root=data_root, resolution=max(search_space.resolution), seed=split_seed, limit=limit)
    search_space = search_space.with_classes(len(images.classes))
    for table, path in zip(tables, paths, strict=True):
        table.require(search_space, space_name, path)
    counted = [limit_on(search_space, name, most, tables[0] if tables else None) for name, most in counts.items()]
    searches: dict[Path, list[Constraint]] = {}
    several = len(targets) > 0 and len(targets[0]) > 1
    for limits in zip(*targets, strict=True) if targets else [()]:
        latencies = [
            latency_constraint(search_space, table, limit_us, number)
            for number, (table, limit_us) in enumerate(zip(tables, limits, strict=True), start=1)
        ]
        folder = output / "+".join(f"{limit_us:g}us" for limit_us in limits) if several else output
        searches[folder] = [*latencies, *counted]
    for folder, constraints in searches.items():  # all of them before the first one takes its hours
        require_feasible(search_space, constraints)
        fitted = [clamped(search_space, constraint) for constraint in constraints]
        searches[folder] = [constraint for constraint, _ in fitted]
        if fabric.is_global_zero:
            for remark in dict.fromkeys(remark for _, remark in fitted if remark):
                print(remark, flush=True)
    if fabric.is_global_zero:
        print(f"space {search_space.name}: {search_space.size():.2g} networks", flush=True)
    for folder, constraints in searches.items():
        if len(searches) > 1 and fabric.is_global_zero:
            print(f"{folder}: {' and '.join(map(str, constraints))}", flush=True)
        result = search(
            search_space,
            constraints,
            images,
            recipe,
            folder,
            fabric,
            shared_warmup=output / "warmup.pt" if len(searches) > 1 else None,
            tensorboard=tensorboard,
        )
        if fabric.is_global_zero:
            _report(folder, result, search_space, constraints)


def _report(folder: Path, result: "SearchResult", space: "SearchSpace", constraints: "Sequence[Constraint]") -> None:
    network, likely = result.architecture, space.architecture(result.most_likely)
    pairs = list(zip(constraints, result.constraints, strict=True))
    met = ", ".join(f"{c.label} {c.readable(each.value)} of {c.readable(each.limit)}" for c, each in pairs)
    print(
        f"{folder / 'architecture.yaml'}: predicted {met}; {network.macs / 1e6:.2f} M MACs, "
        f"{network.params / 1e6:.3f} M parameters"
    )
    print(
        "taking each choice's most probable option, whatever the budget, would be predicted "
        f"{', '.join(f'{c.label} {c.readable(each.most_likely)}' for c, each in pairs)}; "
        f"{likely.macs / 1e6:.2f} M MACs, {likely.params / 1e6:.3f} M parameters"
    )
