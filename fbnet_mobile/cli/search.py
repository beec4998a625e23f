"""fbnet-search: find the most accurate network of a space within a latency on a device."""

from pathlib import Path
from typing import Annotated

import typer

from fbnet_mobile.cli import options
from fbnet_mobile.cli.common import format_latency, parse_latency_us, run


def main() -> None:
    """Entry point."""
    run(
        command,
        "fbnet-search --latency-table host.csv --data path/to/images --target-latency 0.3ms -o runs/search",
    )


def command(
    latency_table: Annotated[
        Path, typer.Option(help="Table that fbnet-profile wrote for the device.", show_default=False)
    ],
    data: options.Data,
    target_latency: Annotated[str, typer.Option(help="Budget such as 12ms or 350us.", show_default=False)],
    output: options.RunFolder,
    space: Annotated[
        str | None,
        typer.Option(help="Search space: a packaged one or a YAML file.", show_default="the table's"),
    ] = None,
    data_root: options.DataRoot = None,
    split_seed: options.SplitSeed = 0,
    limit: options.Limit = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images for the weights.")] = 90,
    batch_size: options.BatchSize = 64,
    learning_rate: Annotated[float, typer.Option(help="Of the weights, at its peak.")] = 0.1,
    architecture_learning_rate: Annotated[float, typer.Option(help="Of the architecture parameters.")] = 0.01,
    warmup: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the epochs that trains weights only.")] = 0.11,
    seed: Annotated[int, typer.Option(min=0, help="Of order, augmentation and Gumbel noise.")] = 0,
    accelerator: options.Accelerator = "auto",
    devices: options.Devices = "1",
    precision: options.Precision = "32-true",
) -> None:
    """Find the most accurate network of a search space within a latency budget, by FBNetV2's DMaskingNAS.

    Writes architecture.yaml and result.json into the output folder. An interrupted search continues where it was
    when the same command is given again; a finished one is not run again.
    """
    from fbnet_mobile.latency.table import LatencyTable
    from fbnet_mobile.space import load_space

    target_us = parse_latency_us(target_latency)
    table = LatencyTable.load(latency_table)
    space_name = space or table.conditions.space
    search_space = load_space(space_name)

    from fbnet_mobile.cli.training import make_fabric
    from fbnet_mobile.search.loop import SearchRecipe, search
    from fbnet_mobile.train.data import load_data

    fabric = make_fabric(accelerator, devices, precision)
    with fabric.rank_zero_first():
        images = load_data(data, root=data_root, resolution=max(search_space.resolution), seed=split_seed, limit=limit)
    search_space = search_space.with_classes(len(images.classes))
    table.require(search_space, space_name, latency_table)
    recipe = SearchRecipe(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        architecture_learning_rate=architecture_learning_rate,
        warmup=warmup,
        seed=seed,
    )
    result = search(search_space, table, target_us, images, recipe, output, fabric)
    if not fabric.is_global_zero:
        return
    print(
        f"{output / 'architecture.yaml'}: predicted {format_latency(result.predicted_us)} of "
        f"{format_latency(result.target_us)}, {result.architecture.macs / 1e6:.2f} M MACs, "
        f"{result.architecture.params / 1e6:.3f} M parameters"
    )
    print(
        "taking each choice's most probable option, whatever the budget, would be predicted "
        f"{format_latency(result.most_likely_us)}"
    )
