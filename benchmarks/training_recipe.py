"""What each part of a training recipe is worth: the recipe, and the recipe without it, over several seeds.

    python benchmarks/training_recipe.py path/to/images --recipe mobile --epochs 20 --limit 5000 -o runs/training_recipe
    python benchmarks/training_recipe.py path/to/images --recipe finetune --model efficientnet_lite0 --resolution 96 \
        --limit 5000 -o runs/training_recipe

A part is an option to which the recipe gives another value than the default; without it, it has the default (of an
optimiser, its learning rate and weight decay go with it). ``--with mixup=0.2`` adds a part that the recipe does not
have, ``--with "optimizer=adamw, learning_rate=0.002"`` one of several options; ``--timm`` a training by timm's parts
with the defaults of its script, for the same images, epochs and weights. Without ``--model`` a MobileNetV2-like network
of 2 to 9 million multiply-accumulates is trained from random weights, as is an architecture's YAML file; a network that
fbnet_mobile imports, from its published weights. What a teacher gives the network that ``make demo`` found:

    python benchmarks/training_recipe.py path/to/images --recipe none --epochs 25 --jobs 2 \
        --model runs/demo/search/architecture.yaml --with "loss=distillation, teacher=runs/teacher/best.pt" \
        -o runs/training_recipe

Every run is a folder that continues, so the script may be stopped at any time, and a
process of one thread, of which ``--jobs`` run at a time.
Prints a table of mean test accuracies with their spread, and writes results.json.
"""

import argparse
import json
import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning_fabric import Fabric
from results_file import write_results
from torch import nn

from fbnet_mobile.arch import Architecture
from fbnet_mobile.blocks.network import build, restore
from fbnet_mobile.data.data import Data, load_data
from fbnet_mobile.data.split import Split
from fbnet_mobile.data.store import MemoryStore, OriginalStore
from fbnet_mobile.engine.loop import seeded
from fbnet_mobile.recipe import build as build_recipe
from fbnet_mobile.recipe import plain
from fbnet_mobile.train.loop import train
from fbnet_mobile.train.recipe import RECIPES, TrainRecipe, read_recipe
from fbnet_mobile.zoo.importing import imported

TOGETHER = {"optimizer": ("optimizer", "learning_rate", "weight_decay", "momentum")}
NO_PARTS = {"epochs", "batch_size", "learning_rate", "weight_decay", "momentum", "seed", "warmup_epochs"}
TIMM = "timm's defaults"
SMALL = """
name: small
resolution: 32
blocks:
  - {kind: conv, out_channels: 16}
  - {kind: inverted_residual, out_channels: 24, expanded_channels: 64, stride: 2}
  - {kind: inverted_residual, out_channels: 24, expanded_channels: 72}
  - {kind: inverted_residual, out_channels: 40, expanded_channels: 96, stride: 2}
  - {kind: inverted_residual, out_channels: 40, expanded_channels: 120}
  - {kind: inverted_residual, out_channels: 80, expanded_channels: 200, stride: 2}
  - {kind: inverted_residual, out_channels: 80, expanded_channels: 240}
  - {kind: head, out_channels: 10, conv_channels: 320}
"""


def main() -> None:
    """Train, with and without, and report."""
    parser = argparse.ArgumentParser(description="What each part of a training recipe is worth.")
    parser.add_argument("data", help="as for fbnet-train")
    parser.add_argument("--recipe", default="mobile", choices=("none", *RECIPES))
    parser.add_argument("--model", default="", help="a network that is imported with its weights, or a YAML file")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--limit", type=int, help="training images (default: all)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parts", nargs="*", help="which parts to leave out (default: all)")
    parser.add_argument("--with", nargs="*", default=[], dest="more", metavar="PART=VALUE", help="parts to add")
    parser.add_argument("--timm", action="store_true", help="the defaults of timm's train.py, too, on the CPU")
    parser.add_argument("--accelerator", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the runs")
    options = parser.parse_args()
    given = {} if options.recipe == "none" else read_recipe(options.recipe)
    if options.epochs:
        given["epochs"] = options.epochs
    default = plain(TrainRecipe())
    variants: dict[str, dict[str, Any]] = {"as it is": given}
    parts = [name for name in given if name not in NO_PARTS and given[name] != default[name]]
    for part in parts if options.parts is None else options.parts:
        gone = TOGETHER.get(part, (part,))
        variants[f"without {part}"] = {name: value for name, value in given.items() if name not in gone}
    for text in options.more:
        variants[f"with {text}"] = {**given, **yaml.safe_load("{" + text.replace("=", ": ") + "}")}
    if options.timm:
        variants[TIMM] = given
    tasks = [(seed, name) for seed in range(options.seeds) for name in variants]
    rows: dict[str, list[float]] = {}
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        found = [pool.submit(run, options, name, {**variants[name], "seed": seed}) for seed, name in tasks]
        for (seed, name), each in zip(tasks, found, strict=True):
            rows.setdefault(name, []).append(each.result())
            print(f"seed {seed}, {name}: {rows[name][-1]:.2%}", flush=True)
    print(f"{'':32} {'accuracy':>9} {'spread':>7} {'difference':>10}")
    whole = statistics.mean(rows["as it is"])
    for name, each_seed in rows.items():
        mean = statistics.mean(each_seed)
        spread = statistics.stdev(each_seed) if len(each_seed) > 1 else 0.0
        print(f"{name:32} {mean:>9.2%} {spread:>7.2%} {100 * (mean - whole):>+10.2f}")
    name = f"results-{options.recipe}-{model(options)}.json"
    write_results(options.output / name, {"test_accuracy": rows, "recipe": given}, options)


def model(options: argparse.Namespace) -> str:
    """How files and folders name the network."""
    name: str = options.model
    return Path(name).stem if name.endswith(".yaml") else name or "small"


def prepared(options: argparse.Namespace) -> tuple[Data, Architecture, dict[str, torch.Tensor] | None]:
    """The images, the network, and its weights if it has some."""
    data = load_data(options.data, resolution=options.resolution, limit=options.limit)
    if not options.model or options.model.endswith(".yaml"):
        text = SMALL.replace("32", str(options.resolution), 1)
        network = Architecture.load(Path(options.model)) if options.model else Architecture.from_yaml(text, "small")
        return data, network.with_classes(len(data.classes)), None
    found = imported(options.model, pretrained=True, resolution=options.resolution)
    assert found.metadata is not None
    (red, green, blue), (r, g, b) = found.metadata.mean, found.metadata.std
    data = replace(data, mean=(red, green, blue), std=(r, g, b))
    return data, found.architecture.with_classes(len(data.classes)), found.state_dict


def run(options: argparse.Namespace, name: str, values: dict[str, Any]) -> float:
    """One training, continued where it was; the accuracy on the test images."""
    torch.set_num_threads(1)
    recipe = build_recipe(TrainRecipe, values)
    folder = f"{options.recipe}-{model(options)}/{name.replace(' ', '_').replace('/', '-')}/{recipe.seed}"
    data, architecture, weights = prepared(options)
    fabric = Fabric(accelerator=options.accelerator, devices=1)
    with seeded(fabric, recipe.seed):
        module: nn.Module = build(architecture)
        if weights is not None:
            fresh = module.state_dict()
            fits = {key: weights[key] if weights[key].shape == fresh[key].shape else fresh[key] for key in fresh}
            module = restore(architecture, fits, "the imported network")
        if name == TIMM:
            return by_timm(module, data, recipe.epochs, options.output / folder)
    result = train(
        fabric.to_device(module),
        data,
        recipe,
        options.output / folder,
        fabric,
        architecture=architecture.to_yaml(),
        save_minutes=1.0,
        show_progress=False,
    )
    return float(result.test_accuracy)


def by_timm(module: nn.Module, data: Data, epochs: int, folder: Path) -> float:
    """The same by timm's script: the accuracy of its last epoch on the test images, kept in the folder.

    Of its crop of the middle and of the whole image, the better: crops of training may have made either that.
    """
    from timm_script import Pictures, accuracy, trained_epochs

    kept = folder / "accuracy.json"
    if kept.exists():
        return float(json.loads(kept.read_text()))
    colours, size = (data.mean, data.std), data.resolution
    train, test = (Pictures(pixels(part), part.labels.tolist()) for part in (data.train, data.test))
    epoch = trained_epochs(module, train, size, epochs, colours=colours, workers=0)
    for _ in range(epochs):
        epoch()
    found = max(accuracy(module, test, size, colours, crop) for crop in (0.875, 1.0))
    folder.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found))
    return found


def pixels(part: Split) -> list[Any]:
    """Of each image, (H, W, 3) uint8: as ours are cut out of, which of test images is what they are evaluated on."""
    if isinstance(part.store, MemoryStore):
        return list(part.store.pixels[part.index].numpy())
    assert isinstance(part.store, OriginalStore)
    assert part.store.originals is not None
    return [part.store.originals[number] for number in part.index.tolist()]


if __name__ == "__main__":
    main()
