"""Is the choice of the input resolution biased by how the supernet makes images small?

    python benchmarks/resolution_bias.py --data path/to/cifar10 -o runs/resolution_bias

In the supernet every input resolution takes pixels of the images of the largest one (FBNetV2's subsampling, arXiv
2004.05565, section 3.2). The images that a found network is trained on were averaged when they were made small. Two
questions, on a space with three resolutions:

    alone      one network trained at each resolution, on images made small in each way, and on images as load_data
               makes them for that resolution: what a resolution is worth
    supernet   the supernet trained with equal probabilities, images made small in each way: what the search believes a
               resolution is worth, as the mean over random networks, at that resolution, of the supernet's weights

A resolution's worth is its validation accuracy and cross-entropy less those of the largest. Small resolutions are
disadvantaged if taking pixels makes them worth less than averaging does, by more than the seeds differ. Prints a table
and writes results.json.
"""

import argparse
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from results_file import write_results
from torch import Tensor, nn

from fbnet_mobile.blocks.network import build
from fbnet_mobile.data.augment import derive_seed, normalise
from fbnet_mobile.data.data import Data, load_data, training_batches
from fbnet_mobile.data.store import Request
from fbnet_mobile.engine.allocator import tune_allocator
from fbnet_mobile.search import supernet as supernet_module
from fbnet_mobile.search.choices import Choices
from fbnet_mobile.search.supernet import Supernet
from fbnet_mobile.space import RESOLUTION, Option, SearchSpace

SPACE = """
name: three-resolutions
resolution: [16, 24, 32]
classes: 10
stem: {out_channels: 12, stride: 1, activation: relu}
stages:
  - {out_channels: [12, 16], depth: 1, stride: 2, expansion_ratio: [2, 3], kernel_size: [3, 5],
     squeeze_excite: false, activation: relu}
  - {out_channels: [24, 32], depth: 2, stride: 2, expansion_ratio: [2, 3], kernel_size: [3, 5],
     squeeze_excite: false, activation: relu, skip: true}
  - {out_channels: [48, 64], depth: 1, stride: 2, expansion_ratio: [2, 3], kernel_size: [3, 5],
     squeeze_excite: false, activation: relu}
head: {conv_channels: 128, activation: relu}
"""
BATCH = 64
NETWORKS = 8
Shrink = Callable[[Tensor, int], Tensor]
Scores = dict[int, tuple[float, float]]
"""Of each resolution: top-1 accuracy and mean cross-entropy on the validation images."""


def nearest(images: Tensor, size: int) -> Tensor:
    """(N, 3, R, R) to (N, 3, size, size) by taking pixels."""
    return images if images.shape[-1] == size else F.interpolate(images, size=(size, size))


def averaged(images: Tensor, size: int) -> Tensor:
    """(N, 3, R, R) to (N, 3, size, size) by a bilinear filter as wide as the pixels that it makes."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


SHRINKS: dict[str, Shrink] = {"nearest": nearest, "averaged": averaged}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of images, as for fbnet-search")
    parser.add_argument("--limit", type=int, default=4000, help="training images")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tune_allocator()
    space = SearchSpace.from_yaml(SPACE)
    loaded = {
        size: load_data(options.data, resolution=size, limit=options.limit, show_progress=False)
        for size in space.resolution
    }
    largest = loaded[max(space.resolution)]
    found: dict[str, list[Scores]] = {}

    def note(name: str, scores: Scores) -> None:
        found.setdefault(name, []).append(scores)
        print(name, {size: f"{accuracy:.1%} {loss:.3f}" for size, (accuracy, loss) in scores.items()}, flush=True)

    for seed in range(options.seeds):
        for name, shrink in SHRINKS.items():
            note(f"supernet, {name}", supernet(space, largest, shrink, options.epochs, seed))
        note(
            "alone, as trained",
            {size: alone(space, data, None, size, options.epochs, seed) for size, data in loaded.items()},
        )
        for name, shrink in SHRINKS.items():
            note(
                f"alone, {name}",
                {size: alone(space, largest, shrink, size, options.epochs, seed) for size in space.resolution},
            )
    results = {name: summary(runs) for name, runs in found.items()}
    for name, rows in results.items():
        for size, row in rows.items():
            print(f"{name:20} {size:>3} px: " + ", ".join(f"{key} {value:+.3f}" for key, value in row.items()))
    write_results(options.output / "results.json", {"results": results}, options, ["torchvision"])


def summary(runs: list[Scores]) -> dict[str, dict[str, float]]:
    """Mean over the seeds of each resolution's accuracy and its worth beside the largest, with their spread."""
    top = max(runs[0])
    rows = {}
    for size in runs[0]:
        gaps = [run[size][0] - run[top][0] for run in runs]
        losses = [run[size][1] - run[top][1] for run in runs]
        rows[str(size)] = {
            "accuracy": statistics.mean(run[size][0] for run in runs),
            "accuracy less the largest's": statistics.mean(gaps),
            "spread of that": max(gaps) - min(gaps),
            "cross-entropy less the largest's": statistics.mean(losses),
            "spread of that one": max(losses) - min(losses),
        }
    return rows


def alone(
    space: SearchSpace, data: Data, shrink: Shrink | None, size: int, epochs: int, seed: int
) -> tuple[float, float]:
    """Train the space's largest network at one resolution; its validation accuracy and cross-entropy."""
    torch.manual_seed(derive_seed(seed))
    assignment = {name: options[-1] for name, options in space.variables.items()}
    network = build(space.architecture({**assignment, RESOLUTION: size}, "alone"))

    def predict(images: Tensor) -> Tensor:
        logits: Tensor = network(shrink(images, size) if shrink else images)
        return logits

    fit(network, predict, data, epochs, seed)
    network.eval()
    return scores(predict, data)


def supernet(space: SearchSpace, data: Data, shrink: Shrink, epochs: int, seed: int) -> Scores:
    """Train the weights of all networks at once; what networks of each resolution reach with them."""
    torch.manual_seed(derive_seed(seed))
    network, choices = Supernet(space), Choices(space)
    generator = torch.Generator().manual_seed(derive_seed(seed, 1))
    subsample = supernet_module._subsample

    def images_by(features: Tensor, size: int) -> Tensor:
        """As ``shrink`` says for images, which alone have three channels; features stay as they are."""
        return shrink(features, size) if features.shape[1] == 3 else subsample(features, size)

    with mock.patch.object(supernet_module, "_subsample", images_by):

        def predict(images: Tensor) -> Tensor:
            weights = choices.sample(1.0, generator)
            logits: Tensor = network(images, {name: value.detach() for name, value in weights.items()})
            return logits

        fit(network, predict, data, epochs, seed)
        rng = random.Random(seed)
        drawn = [space.draw(rng) for _ in range(NETWORKS)]
        # The statistics of batch norm are those of mixtures, so a single network is judged by those of its batch, as
        # in the steps of the search.
        network.train()
        return {size: over(network, choices, drawn, size, data) for size in space.resolution}


def over(
    network: nn.Module, choices: Choices, drawn: Sequence[Mapping[str, Option]], size: int, data: Data
) -> tuple[float, float]:
    """Mean accuracy and cross-entropy of networks at one resolution."""
    both = []
    for assignment in drawn:
        weights = choices.one_hot({**assignment, RESOLUTION: size})
        both.append(scores(lambda images, weights=weights: network(images, weights), data))  # type: ignore[misc]
    accuracies, losses = zip(*both, strict=True)
    return statistics.mean(accuracies), statistics.mean(losses)


def fit(network: nn.Module, predict: Callable[[Tensor], Tensor], data: Data, epochs: int, seed: int) -> None:
    """Stochastic gradient descent with momentum, the rate falling linearly to zero."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = data.train.steps(BATCH) * epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (0.1 * steps), (steps - step) / steps)
    )
    network.train()
    for epoch in range(epochs):
        batches = training_batches(data.train, data, BATCH, seed=seed, epoch=epoch, device=torch.device("cpu"))
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(predict(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


def scores(predict: Callable[[Tensor], Tensor], data: Data) -> tuple[float, float]:
    """Accuracy and mean cross-entropy on 2,000 validation images at most."""
    hits, loss, count = 0.0, 0.0, 0
    shuffled = torch.randperm(len(data.val), generator=torch.Generator().manual_seed(0))[:2000]
    with torch.no_grad():
        for part in torch.split(shuffled, 250):
            pixels = next(iter(data.val.store.fetch([Request(data.val.index[part])])))
            logits, labels = predict(normalise(pixels, data.mean, data.std)), data.val.labels[part]
            hits += float((logits.argmax(1) == labels).sum())
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            count += len(part)
    return hits / count, loss / count


if __name__ == "__main__":
    main()
