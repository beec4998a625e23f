"""A trained network brought down to a latency: by our search within it, and by other ways of pruning.

    python benchmarks/shrink.py --data cifar10_jpeg --work runs/shrink

A network with ImageNet's weights is fine-tuned, then made to take a share of its measured latency by each method:
*ours* (fbnet-profile, fbnet-search and fbnet-train --inherit within it); *taylor* and *l1* (Torch-Pruning's group
Taylor over all layers at once, and its group L1 in each layer; `pip install torch-pruning`), whose ratio is found by
bisection on measured latency; *fastnas* (NVIDIA Model Optimizer's, `pip install nvidia-modelopt torchprofile==0.0.4`),
whose operations are found likewise, in steps of 8 channels, and in *fastnas32* of 32, its default; *factor*, the same
share of every width, likewise; *random*, a network drawn from the space of ours with the weights of the fine-tuned one;
*scratch*, what is found in the space fbnetv2-l from random weights, in as many epochs as ours. All are then trained for
as many epochs with the fine-tuned network as the teacher, and judged on the test images. Every step is kept under
--work and not done again; the results file keeps the rows of seeds and methods that are not asked for.
"""

import argparse
import dataclasses
import json
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from results_file import write_results
from torch import nn

import fbnet_mobile as fm
from fbnet_mobile.arch import Architecture, Block
from fbnet_mobile.blocks.axes import INPUT, OUTPUT, axes, take_slice
from fbnet_mobile.blocks.layers import SameConv2d
from fbnet_mobile.blocks.network import Network, build
from fbnet_mobile.cost.constraint import Constraint, latency_constraint, limit_on
from fbnet_mobile.cost.within import Within
from fbnet_mobile.data.augment import normalise
from fbnet_mobile.data.data import Data, load_data
from fbnet_mobile.devices import get_device
from fbnet_mobile.engine.loop import seeded
from fbnet_mobile.errors import JobError
from fbnet_mobile.latency.table import NETWORK, LatencyTable
from fbnet_mobile.measure.artifacts import artifacts
from fbnet_mobile.measure.benchmark import benchmark
from fbnet_mobile.measure.build import build as write_files
from fbnet_mobile.measure.plan import MeasuringPlan
from fbnet_mobile.recipe import build as build_recipe
from fbnet_mobile.search.derive import require_feasible
from fbnet_mobile.search.inherit import inherit, inherited
from fbnet_mobile.search.recipe import SearchRecipe
from fbnet_mobile.search.start import Start
from fbnet_mobile.search.supernet import Supernet
from fbnet_mobile.space import SearchSpace, load_space
from fbnet_mobile.train.loop import train
from fbnet_mobile.train.recipe import FINETUNE, TrainRecipe, read_recipe
from fbnet_mobile.zoo.importing import Imported, imported

METHODS = ("ours", "taylor", "l1", "fastnas", "fastnas32", "factor", "random", "scratch")
SCRATCH = "fbnetv2-l"
"""Space of the search from random weights."""
WITHIN = 0.03
"""How far under the target a latency may be."""
Found = tuple[Architecture, Network]


class Shrink:
    """One seed: a fine-tuned network, and what the methods make of it."""

    def __init__(self, options: argparse.Namespace, seed: int) -> None:
        self.options, self.seed, self.folder = options, seed, options.work / f"seed{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.fabric = Fabric(accelerator="cpu", devices=1)
        self.fabric.launch()
        data = self.loaded(options.resolution)
        if Path(options.network).suffix == ".yaml":
            network = Architecture.load(Path(options.network))
            self.imported = Imported(network, build(network).state_dict())
        else:
            self.imported = imported(options.network, pretrained=True, resolution=options.resolution)
        if metadata := self.imported.metadata:
            colours: dict[str, Any] = {"mean": tuple(metadata.mean), "std": tuple(metadata.std)}
            data = dataclasses.replace(data, **colours)
        self.data: Data = data
        self.full = self.folder / "full" / "best.pt"

    def loaded(self, resolution: int) -> Data:
        """The images at a resolution; as many to validate on as a tenth of those to learn from."""
        options = self.options
        data = load_data(str(options.data), resolution=resolution, limit=options.images, seed=0)
        data = dataclasses.replace(data, val=data.val.limit(max(100, options.images // 10), 0))
        return dataclasses.replace(data, test=data.test.limit(options.test_images, 0)) if options.test_images else data

    def fine_tune(self) -> dict[str, Any]:
        """The network that all begin with."""
        network = self.imported.architecture.with_classes(len(self.data.classes))
        with seeded(self.fabric, self.seed):
            module = build(network)
        state = module.state_dict()
        fits = {name: value for name, value in self.imported.state_dict.items() if value.shape == state[name].shape}
        module.load_state_dict({**state, **fits})
        return self.trained("full", network, module, teacher="")

    def trained(
        self, name: str, network: Architecture, module: nn.Module, teacher: str, epochs: int | None = None
    ) -> dict[str, Any]:
        """Train by the recipe, or for other epochs, and say how good and how long."""
        began = time.process_time()
        given: dict[str, Any] = {**read_recipe(self.options.recipe), "seed": self.seed}
        if epochs := epochs or self.options.epochs:
            given["epochs"] = epochs
        if teacher:
            given |= {"loss": "distillation", "teacher": teacher}
        recipe = build_recipe(TrainRecipe, given)
        data = self.data
        if network.resolution != data.resolution:
            data = dataclasses.replace(self.loaded(network.resolution), mean=data.mean, std=data.std)
        result = train(module, data, recipe, self.folder / name, self.fabric, architecture=network.to_yaml())
        return {"accuracy": result.test_accuracy, "cpu_s": time.process_time() - began}

    def once(self, name: str, do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a step, from its file if it was done before."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps(do()))
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def latency_us(self, network: Architecture) -> float:
        """Measured here in LiteRT, one thread; for a quick look its operations."""
        if self.options.by == "macs":
            return network.macs
        (artifact,) = artifacts([(NETWORK, network.blocks)], "tflite", "fp32")
        files = write_files([artifact], self.options.work / "models")
        plan = MeasuringPlan(min_rounds=6, max_rounds=self.options.rounds, warmup_ms=20, min_ms=50)
        while True:
            try:
                return benchmark([files[artifact]], get_device("host"), "litert", plan=plan).measurements[0].latency_us
            except JobError as error:
                if "is in use" not in str(error):
                    raise
                time.sleep(5)

    def base(self) -> dict[str, Any]:
        """What the network takes that all begin with."""
        return {"us": self.latency_us(self.checkpoint()[0])}

    def checkpoint(self) -> Found:
        """The fine-tuned network."""
        start = Start.load(self.full)
        return start.architecture, start.checkpoint.network(str(self.full))

    def batches(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Images to judge channels by, as ours does."""
        some = self.data.train.limit(512, self.seed)
        return [(normalise(pixels, self.data.mean, self.data.std), labels) for pixels, labels in some.batches(64)]

    def bisected(self, make: Callable[[float], Found], target_us: float, lowest: float = 0.05) -> tuple[Found, float]:
        """The network of a share up to 1 whose measured latency is closest under a target."""
        low, high, best, best_us = lowest, 1.0, make(lowest), 0.0
        for _ in range(9):
            share = (low + high) / 2
            found = make(share)
            took_us = self.latency_us(found[0])
            print(f"    share {share:.3f}: {took_us:.0f} of {target_us:.0f} us", flush=True)
            if took_us <= target_us:
                low = share
                if took_us > best_us:
                    best, best_us = found, took_us
                if took_us >= (1 - WITHIN) * target_us:
                    break
            else:
                high = share
        return best, best_us

    def pruned(self, share: float, kind: str) -> Found:
        """Torch-Pruning's network with this share of channels kept."""
        import torch_pruning as tp  # type: ignore[import-not-found]

        network, module = self.checkpoint()
        module.requires_grad_(True)
        taylor = kind == "taylor"
        importance = tp.importance.GroupTaylorImportance() if taylor else tp.importance.GroupMagnitudeImportance(p=1)
        pruner = tp.pruner.BasePruner(
            module, torch.zeros(network.input_shape), importance, global_pruning=taylor, pruning_ratio=1 - share,
            max_pruning_ratio=0.9, round_to=8, ignored_layers=[module[-1].classifier],
        )  # fmt: skip
        if taylor:
            for images, labels in self.batches():
                torch.autograd.backward(F.cross_entropy(module(images), labels))
        pruner.step()
        module.zero_grad()
        return self.rebuilt(network, module)

    @staticmethod
    def rebuilt(network: Architecture, module: nn.Module) -> Found:
        """The architecture with the widths that a module of it was left with, and its network with these weights."""
        blocks: list[Block] = []
        for block, part in zip(network.blocks, module.children(), strict=True):
            fields = block.model_dump()
            state = part.state_dict()
            for name, places in axes(block).items():
                for axis, width in enumerate(places):
                    if width is not None:
                        fields[width] = state[name].shape[axis]
            blocks.append(type(block)(**fields))
        smaller = network.model_copy(update={"blocks": tuple(blocks)})
        fresh = build(Architecture.from_yaml(smaller.to_yaml()))
        fresh.load_state_dict(module.state_dict())
        return smaller, fresh

    def fastnas(self, share: float, step: int) -> Found:
        """Model Optimizer's network of this share of the operations, in steps of so many channels.

        Its score is the accuracy on the validation images, with batch norm's statistics estimated for each candidate.
        What it found of the layers one by one does not depend on the share, and is kept.
        """
        import modelopt.torch.prune as mtp  # type: ignore[import-not-found]
        from modelopt.torch.prune.fastnas import FastNASConfig  # type: ignore[import-not-found]

        network, module = self.checkpoint()
        rules = FastNASConfig().model_dump()
        rules["nn.Conv2d"]["*"]["channel_divisor"] = rules["nn.BatchNorm2d"]["*"]["feature_divisor"] = step
        data = self.data

        def score(candidate: nn.Module) -> float:
            right = 0
            for pixels, labels in data.val.batches(64):
                logits = candidate(normalise(pixels, data.mean, data.std))
                right += int((logits.argmax(1) == labels).sum())
            return right / len(data.val)

        symmetric(module)
        module, _ = mtp.prune(
            module.eval(), [("fastnas", rules)], {"flops": f"{share:.2%}"}, torch.zeros(network.input_shape),
            config={
                "score_func": score,
                "data_loader": self.batches(),
                "collect_func": lambda batch: batch[0],
                "max_iter_data_loader": 2,
                "checkpoint": str(self.folder / f"fastnas-{step}.pt"),
                "verbose": False,
            },
        )  # fmt: skip
        asymmetric(module)
        return self.rebuilt(network, module)

    def scaled(self, share: float, space: SearchSpace) -> Found:
        """The network with this share of every width, and the best channels by Taylor."""
        start = Start.load(self.full)
        network = start.sorted_network(space, self.data, self.data.train, SearchRecipe())

        def of(width: int) -> int:
            return max(8, min(width, int(width * share + 4) // 8 * 8))

        blocks: list[dict[str, Any]] = []
        for block in start.architecture.blocks:
            fields = block.model_dump(exclude={INPUT, "resolution"}, exclude_none=True)
            widths = [OUTPUT] if not block.ends_network else []
            widths += [name for name, how in (block.shrinks or {}).items() if how == "width"]
            fields |= {name: of(fields[name]) for name in widths if name in fields}
            blocks.append({"kind": block.kind, **fields})
        smaller = Architecture.model_validate(
            {"name": "factor", "resolution": start.architecture.resolution, "blocks": blocks}
        )
        module = build(smaller)
        for part, whole in zip(module, network, strict=True):
            take_slice(part, whole.state_dict())
        return smaller, module

    def table(self) -> tuple[Path, SearchSpace]:
        """The latency table of the space within the network, the same for all seeds."""
        path = self.options.work / "table.csv"
        if not path.exists():
            fm.profile(within=self.full, device="host", output=path, budget=self.options.budget)
        return path, load_space(LatencyTable.load(path).conditions.space)

    def table_elsewhere(self) -> Path:
        """The latency table of the space that is searched from random weights."""
        path: Path = self.options.work / "scratch.csv"
        pixels, classes = str(self.options.resolution), len(self.data.classes)
        if not path.exists():
            budget = self.options.budget
            fm.profile(space=SCRATCH, resolution=pixels, num_classes=classes, device="host", output=path, budget=budget)
        return path

    def limited(self) -> tuple[SearchSpace, Callable[[float], Constraint]]:
        """The space within the network, and a limit on what is brought down."""
        if self.options.by == "macs":
            space = SearchSpace.within(Start.load(self.full).architecture)
            return space, partial(limit_on, space, "macs")
        path, space = self.table()
        return space, partial(latency_constraint, space, LatencyTable.load(path))

    def drawn(self, target_us: float) -> tuple[Found, float]:
        """A network at random of the space, measured within the target."""
        space, limited = self.limited()
        start, ratio = Start.load(self.full), 1.0
        supernet = Supernet(space)
        supernet.adopt(start.sorted_network(space, self.data, self.data.train, SearchRecipe()))
        rng = random.Random(self.seed)
        while True:
            limit = limited(target_us / ratio)
            drawn = Within(space, [limit], require_feasible(space, [limit])).draw(rng)
            # Few of those within a limit are near it: one choice after the other is drawn anew, if that takes longer.
            while (cost := limit.total(space, drawn)) < 0.98 * limit.limit:
                variable = rng.choice(list(space.variables))
                other = {**drawn, variable: rng.choice(space.variables[variable])}
                drawn = other if cost < limit.total(space, other) <= limit.limit else drawn
            network = space.architecture(drawn)
            took_us = self.latency_us(network)
            print(f"    drawn: {took_us:.0f} of {target_us:.0f} us", flush=True)
            if (1 - WITHIN) * target_us <= took_us <= target_us:
                return (network, inherit(supernet, drawn)), took_us
            ratio = took_us / limit.total(space, drawn) * 1.01

    def searched(self, target_us: float, name: str, *, trained: bool = True) -> tuple[Found, float]:
        """What our search finds, from the fine-tuned network or from random weights."""
        folder = self.folder / name
        pixels = str(self.options.resolution)
        start: dict[str, Any] = {"within": self.full} if trained else {"space": SCRATCH, "resolution": pixels}
        limits: dict[str, Any] = {"max_macs": f"{target_us:.0f}"}
        if self.options.by == "latency":
            path = self.table()[0] if trained else self.table_elsewhere()
            limits = {"latency_table": [path], "target_latency": [f"{target_us:.1f}us"], "device": "host"}
        fm.search(
            **start,
            **limits,
            data=str(self.options.data),
            limit=self.options.images,
            epochs=self.options.search_epochs,
            seed=self.seed,
            output=folder,
        )
        network = Architecture.load(folder / "architecture.yaml")
        return (network, inherited(folder, network).network), self.latency_us(network)

    def shrunk(self, name: str, share: float, target_us: float) -> dict[str, Any]:
        """Keep the network of a method, as it is before it is trained."""
        began, place = time.process_time(), f"{name}-{share:g}"
        if name in ("taylor", "l1"):
            found, took_us = self.bisected(lambda kept: self.pruned(kept, name), target_us)
        elif name in ("fastnas", "fastnas32"):
            # In steps of 32 channels EfficientNet-Lite0 has 15 % of its operations at the least.
            step, lowest = (8, 0.05) if name == "fastnas" else (32, 0.2)
            found, took_us = self.bisected(partial(self.fastnas, step=step), target_us, lowest)
        elif name == "factor":
            space, _ = self.limited()
            found, took_us = self.bisected(lambda kept: self.scaled(kept, space), target_us)
        elif name == "random":
            found, took_us = self.drawn(target_us)
        else:
            found, took_us = self.searched(target_us, f"{place}-search", trained=name != "scratch")
        network, module = found
        torch.save({"architecture": network.to_yaml(), "state_dict": module.state_dict()}, self.kept(place))
        return {"latency_us": took_us, "shrink_cpu_s": time.process_time() - began}

    def kept(self, place: str) -> Path:
        """The file of a network before it is trained."""
        path: Path = self.folder / f"{place}-found.pt"
        return path

    def method(self, name: str, share: float, target_us: float) -> dict[str, Any]:
        """The network of a method, trained."""
        place = f"{name}-{share:g}"
        shrunk = self.once(f"{place}-found", partial(self.shrunk, name, share, target_us))
        found = torch.load(self.kept(place), weights_only=True)
        network = Architecture.from_yaml(found["architecture"])
        module = build(network)
        module.load_state_dict(found["state_dict"])
        epochs = self.options.epochs_after
        made = self.trained(place + self.after(), network, module, str(self.full), epochs)
        counts = {"macs": network.macs, "params": network.params, "resolution": network.resolution}
        return {**made, **shrunk, **counts}

    def after(self) -> str:
        """What tells names of other trainings afterwards apart."""
        epochs = self.options.epochs_after
        return f"-{epochs}-epochs" if epochs else ""


def symmetric(module: nn.Module) -> None:
    """Replace TensorFlow's "same" padding by the same on all sides, in place; Model Optimizer does not follow another.

    At stride 2 and an even size "same" begins one pixel later, so a row and a column of zeros come before each kernel.
    """
    for parent in list(module.modules()):
        for name, part in parent.named_children():
            if isinstance(part, SameConv2d):
                size, before = part.kernel_size[0], int(part.stride[0] == 2)
                plain = nn.Conv2d(
                    part.in_channels, part.out_channels, size + before, part.stride[0], size // 2,
                    groups=part.groups, bias=False,
                )  # fmt: skip
                plain.weight.data = F.pad(part.weight.data, (before, 0, before, 0))
                setattr(parent, name, plain)


def asymmetric(module: nn.Module) -> None:
    """Take the zeros out again."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and part.kernel_size[0] % 2 == 0:
            part.weight.data = part.weight.data[:, :, 1:, 1:]


def main() -> None:
    """Run what is not done yet, and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of images, as for fbnet-train")
    parser.add_argument("--work", type=Path, required=True, help="folder of all steps")
    parser.add_argument(
        "--network", default="efficientnet_lite0", help="to import, or a YAML file: trained from random"
    )
    parser.add_argument("--images", type=int, default=5000, help="training images")
    parser.add_argument("--test-images", type=int, default=0, help="0 for all")
    parser.add_argument("--resolution", type=int, default=96)
    parser.add_argument("--recipe", default=FINETUNE, help="of the fine-tuning, and of the training afterwards")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--epochs-after", type=int, help="of the training afterwards alone, instead of the recipe's")
    parser.add_argument("--by", choices=["latency", "macs"], default="latency", help="macs: a quick look, no device")
    parser.add_argument("--search-epochs", type=int, default=6)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.6, 0.35], help="shares of the latency")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--budget", default="10m", help="of fbnet-profile")
    parser.add_argument("--rounds", type=int, default=20, help="most rounds of measuring a network")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "shrink.json")
    options = parser.parse_args()
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    if options.output.exists():
        rows = {key(row): row for row in json.loads(options.output.read_text())["runs"]}
    for seed in options.seeds:
        run = Shrink(options, seed)
        full = run.once("full", run.fine_tune)
        base_us = run.once("base", run.base)["us"]
        row = {"seed": seed, "target": 1.0, "method": "original", **full, "latency_us": base_us}
        rows[key(row)] = row
        print(f"seed {seed}: original {full['accuracy']:.2%} at {base_us:.0f} us", flush=True)
        for share in options.targets:
            for name in options.methods:
                made = run.once(f"{name}-{share:g}{run.after()}", partial(run.method, name, share, share * base_us))
                row = {"seed": seed, "target": share, "method": name, **made}
                rows[key(row)] = row
                print(
                    f"  {share:4.0%} {name:8} {made['accuracy']:.2%} at {made['latency_us']:.0f} us "
                    f"({made['latency_us'] / base_us:.1%}), {made['macs'] / 1e6:.1f} M MACs, "
                    f"{made['resolution']} pixels, {made['shrink_cpu_s']:.0f} s",
                    flush=True,
                )
                write_results(options.output, {"runs": [rows[each] for each in sorted(rows)]}, options)


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row is of."""
    return row["seed"], -row["target"], row["method"]


if __name__ == "__main__":
    main()
