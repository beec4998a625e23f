"""The search: weights and architecture parameters trained in turn, until one network is derived."""

import csv
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric, seed_everything
from torch import Tensor

from fbnet_mobile.arch import Architecture
from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.files import read_text, write_whole
from fbnet_mobile.latency.table import LatencyTable
from fbnet_mobile.nn import Network
from fbnet_mobile.search.choices import Choices
from fbnet_mobile.search.cost import ExpectedCost
from fbnet_mobile.search.derive import cost_range, most_probable
from fbnet_mobile.search.inherit import inherit
from fbnet_mobile.search.supernet import Supernet
from fbnet_mobile.space import Option, SearchSpace
from fbnet_mobile.train.allocator import tune_allocator
from fbnet_mobile.train.augment import derive_seed
from fbnet_mobile.train.checkpoint import read_tensors, write_tensors
from fbnet_mobile.train.data import Data, training_batches
from fbnet_mobile.train.progress import ProgressBar

_STATE_FORMAT = "fbnet-mobile search state 1"
_STATE_NAME, _RESULT_NAME = "last.pt", "result.json"
_REPORT_STEPS = 20


@dataclass(frozen=True)
class SearchRecipe:
    """How to search.

    Defaults after FBNet (arXiv 1812.03443, section 4.1) and FBNetV2 (arXiv 2004.05565, section 4.1): 90 epochs, weights
    by SGD on 80 % of the training images, architecture parameters by Adam on the rest, frozen for the first epochs, and
    a temperature that falls from 5 by a factor of 0.956 an epoch, which is to 0.087 after 90 epochs. Here the
    temperature falls with every step from its start to its end however many epochs there are.

    Attributes:
        epochs: passes over the weights' images.
        batch_size: images a step, of all processes together.
        learning_rate: of the weights, falling to zero as a cosine.
        momentum: of the weights.
        weight_decay: of the weights.
        warmup: share of the epochs in which only the weights are trained.
        architecture_learning_rate: of the architecture parameters.
        architecture_weight_decay: of the architecture parameters.
        temperature_start: of Gumbel-softmax.
        temperature_end: of Gumbel-softmax.
        weight_share: share of the training images that the weights are trained on.
        multiplier_rate: by how much the multiplier of the latency constraint grows in a step at which the expected
            latency is twice the target.
        seed: decides order, augmentation and Gumbel noise.
    """

    epochs: int = 90
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup: float = 0.11
    architecture_learning_rate: float = 0.01
    architecture_weight_decay: float = 5e-4
    temperature_start: float = 5.0
    temperature_end: float = 0.087
    weight_share: float = 0.8
    multiplier_rate: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            UserError: one of them is.
        """
        for name in (
            "epochs",
            "batch_size",
            "learning_rate",
            "architecture_learning_rate",
            "temperature_end",
        ):
            if getattr(self, name) <= 0:
                raise UserError(f"a {name} of {getattr(self, name):g} is impossible; give a positive number")
        for name in ("warmup", "weight_share"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"a {name} of {getattr(self, name):g} is impossible; give a number from 0 to below 1")

    def temperature_at(self, progress: float) -> float:
        """Temperature after a share of the search, from 0 to 1."""
        return float(self.temperature_start * (self.temperature_end / self.temperature_start) ** progress)

    def learning_rate_at(self, progress: float) -> float:
        """Learning rate of the weights after a share of the search, from 0 to 1; a short linear rise comes first."""
        rise = min(1.0, progress / 0.05)
        return self.learning_rate * rise * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class SearchEpoch:
    """One line of ``log.csv``.

    Attributes:
        epoch: its number, from 1.
        temperature: at its last step.
        weight_loss: mean cross-entropy on the weights' images.
        architecture_loss: mean cross-entropy on the architecture parameters' images; empty while they are frozen.
        architecture_accuracy: top-1 on the same images with sampled architectures, 0 to 1.
        expected_latency_us: over the distributions at its end.
        multiplier: of the latency constraint at its end.
        confidence: mean over all choices of the largest probability, 0 to 1.
        seconds: time it took.
    """

    epoch: int
    temperature: float
    weight_loss: float
    architecture_loss: float
    architecture_accuracy: float
    expected_latency_us: float
    multiplier: float
    confidence: float
    seconds: float


@dataclass(frozen=True)
class SearchResult:
    """What a search came to.

    Attributes:
        architecture: the most probable network within the target.
        assignment: its choices.
        predicted_us: its latency by the table.
        target_us: what was asked for.
        most_likely_us: predicted latency of the network that takes each choice's most probable option, whatever its
            latency.
        history: every epoch.
    """

    architecture: Architecture
    assignment: dict[str, Option]
    predicted_us: float
    target_us: float
    most_likely_us: float
    history: tuple[SearchEpoch, ...]


def search(
    space: SearchSpace,
    table: LatencyTable,
    target_us: float,
    data: Data,
    recipe: SearchRecipe,
    out_dir: Path,
    fabric: Fabric,
    *,
    show_progress: bool = True,
) -> SearchResult:
    """Search a space for the most accurate network within a latency, or continue where an earlier run stopped.

    The loss of the architecture parameters is the cross-entropy on images that the weights do not see, plus the
    constraint E[latency] <= target in the form of an augmented Lagrangian (Nocedal and Wright, Numerical Optimization,
    section 17.4) whose multiplier is learned, so that there is no weight to tune. E[latency] is exact over the table.

    ``out_dir`` gets ``architecture.yaml``, ``result.json``, ``log.csv`` (a ``SearchEpoch`` a line) and ``last.pt``
    (what is needed to continue, the supernet's weights among it).

    Args:
        space: with as many classes as the data.
        table: with a row for every candidate of the space.
        target_us: the latency budget in us.
        data: the images, at the space's largest resolution.
        recipe: how.
        out_dir: folder of the run; made if it is not there.
        fabric: where and at which precision; already launched.
        show_progress: whether to draw a bar, if stderr is a terminal, and write a line per epoch.

    Raises:
        UserError: no network of the space meets the target, a candidate is missing from the table, or ``out_dir`` holds
            a search with other settings.
        JobError: the loss stopped being a finite number; the last good epoch stays in ``out_dir``.
    """
    costs = space.costs(table.block_us)
    reach = cost_range(space, costs, table.fixed_us)
    if target_us < reach.lowest:
        raise UserError(
            f"target latency {target_us:.4g} us cannot be reached: by the table, networks of space {space.name} take "
            f"{reach.lowest:.4g} to {reach.highest:.4g} us on {table.conditions.device}"
        )
    tune_allocator()
    run = _Search(space, costs, table.fixed_us, target_us, data, recipe, out_dir, fabric)
    first = run.resume() + 1
    images = run.steps * recipe.batch_size
    bar = ProgressBar(
        "searching",
        images * recipe.epochs,
        done=images * (first - 1),
        show=show_progress and fabric.is_global_zero,
    )
    with bar:
        for epoch in range(first, recipe.epochs + 1):
            row = run.epoch(epoch, bar)
            bar.say(
                f"epoch {epoch}/{recipe.epochs}: weight loss {row.weight_loss:.3f}, architecture accuracy "
                f"{row.architecture_accuracy:.1%}, expected latency {row.expected_latency_us:.1f} us of "
                f"{target_us:.1f} us, confidence {row.confidence:.0%}, {images / row.seconds:,.0f} images/s"
            )
    result = run.derive(table)
    if fabric.is_global_zero:
        _write_result(result, space, table, out_dir)
    fabric.barrier()
    return result


def inherited_network(folder: Path, architecture: Architecture) -> Network:
    """The network that a search found, with the weights of the supernet that it was found in.

    Args:
        folder: of a finished search.
        architecture: the network; must be the one that the search derived.

    Raises:
        UserError: the folder holds no finished search, or one that derived another network.
    """
    state = read_tensors(folder / _STATE_NAME, _STATE_FORMAT)
    try:
        assignment = json.loads(read_text(folder / _RESULT_NAME))["assignment"]
    except (ValueError, KeyError) as error:
        raise UserError(f"{folder / _RESULT_NAME} is damaged; give the search's command again") from error
    supernet = Supernet(SearchSpace.model_validate_json(state["settings"]["space"]))
    supernet.load_state_dict(state["supernet"])
    network = inherit(supernet, assignment)
    if supernet.space.architecture(assignment).blocks != architecture.blocks:
        raise UserError(f"{folder} found another network than {architecture.name}; give the folder that found it")
    return network


class _Search:
    """A search folder and what is in motion."""

    def __init__(
        self,
        space: SearchSpace,
        costs: dict[str, Any],
        fixed_us: float,
        target_us: float,
        data: Data,
        recipe: SearchRecipe,
        out_dir: Path,
        fabric: Fabric,
    ) -> None:
        seed_everything(recipe.seed, verbose=False)
        self.space, self.costs, self.fixed_us, self.target_us = space, costs, fixed_us, target_us
        self.data, self.recipe, self.fabric, self.out_dir = data, recipe, fabric, out_dir
        self.weight_images, self.architecture_images = data.train.split(recipe.weight_share, recipe.seed)
        self.steps = self.weight_images.steps(recipe.batch_size)
        self.architecture_steps = self.architecture_images.steps(recipe.batch_size)

        self.supernet = Supernet(space).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.supernet.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.parallel, self.optimizer = fabric.setup(self.supernet, self.optimizer)
        # Few numbers with gradients that are averaged by hand: no need of the machinery for distributed modules.
        self.choices = Choices(space).to(fabric.device)
        adam = torch.optim.Adam(
            self.choices.parameters(),
            lr=recipe.architecture_learning_rate,
            weight_decay=recipe.architecture_weight_decay,
        )
        # Set up by Fabric, so that its loss scaling in half precision covers this optimiser too.
        self.architecture_optimizer = cast(torch.optim.Optimizer, fabric.setup_optimizers(adam))
        self.expected = ExpectedCost(space, costs, fixed_us).to(fabric.device)
        self.multiplier = 0.0
        self.history: list[SearchEpoch] = []
        self.settings = {
            **asdict(recipe),
            "space": space.model_dump_json(),
            "target latency": target_us,
            "latency table": float(sum(array.sum() for array in costs.values())),
            "data": data.source,
            "training images": len(data.train),
            "precision": str(fabric.strategy.precision.precision),
        }

    @property
    def _state_path(self) -> Path:
        return self.out_dir / _STATE_NAME

    def resume(self) -> int:
        """Take up the state of ``last.pt`` if there is one; the number of epochs already done."""
        if not self._state_path.exists():
            return 0
        state = read_tensors(self._state_path, _STATE_FORMAT)
        for name, value in self.settings.items():
            if state["settings"].get(name) != value:
                raise UserError(f"{self.out_dir} holds a search with another {name}; use another folder, or remove it")
        self.supernet.load_state_dict(state["supernet"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.choices.load_state_dict(state["choices"])
        self.architecture_optimizer.load_state_dict(state["architecture_optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.multiplier = state["multiplier"]
        self.history = [SearchEpoch(**row) for row in state["history"]]
        return len(self.history)

    def epoch(self, epoch: int, bar: ProgressBar) -> SearchEpoch:
        """One pass over the weights' images with architecture steps spread evenly among the weight steps."""
        started = time.monotonic()
        recipe = self.recipe
        weight_batches = self._batches(self.weight_images, epoch)
        architecture_batches = self._batches(self.architecture_images, epoch)
        sums = torch.zeros(3, device=self.fabric.device)
        architecture_seen = architecture_done = 0
        temperature = recipe.temperature_start
        for step in range(1, self.steps + 1):
            progress = (epoch - 1 + step / self.steps) / recipe.epochs
            temperature = recipe.temperature_at(progress)
            sums[0] += self._weight_step(*next(weight_batches), temperature, progress, epoch, step)
            while architecture_seen < step * self.architecture_steps // self.steps:
                architecture_seen += 1
                if progress < recipe.warmup:
                    continue
                architecture_done += 1
                sums[1:] += self._architecture_step(*next(architecture_batches), temperature, epoch, step)
            note = None
            if step % _REPORT_STEPS == 0 or step == self.steps:
                loss = float(self._mean(sums[0] / step))
                if not math.isfinite(loss + float(sums[1])):
                    raise JobError(
                        f"the loss became {loss} in epoch {epoch}; the epochs before it are kept in {self.out_dir}: "
                        f"search into another folder with a learning rate below {recipe.learning_rate:g}"
                    )
                note = f"epoch {epoch}/{recipe.epochs} loss {loss:.3f} expected {self._expected_us():.1f} us"
            bar.advance(recipe.batch_size, note)
        means = self._mean(sums[1:] / architecture_done).tolist() if architecture_done else [math.nan, math.nan]
        row = SearchEpoch(
            epoch=epoch,
            temperature=temperature,
            weight_loss=float(self._mean(sums[0] / self.steps)),
            architecture_loss=means[0],
            architecture_accuracy=means[1],
            expected_latency_us=self._expected_us(),
            multiplier=self.multiplier,
            confidence=self._confidence(),
            seconds=time.monotonic() - started,
        )
        self.history.append(row)
        if self.fabric.is_global_zero:
            self._save()
        self.fabric.barrier()
        return row

    def _batches(self, split: Any, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        return training_batches(
            split,
            self.data,
            self.recipe.batch_size,
            seed=self.recipe.seed,
            epoch=epoch,
            device=self.fabric.device,
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
        )

    def _generator(self, epoch: int, step: int, purpose: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.recipe.seed, epoch, step, purpose))

    def _weight_step(
        self, images: Tensor, labels: Tensor, temperature: float, progress: float, epoch: int, step: int
    ) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate_at(progress)
        with torch.no_grad():
            weights = self.choices.sample(temperature, self._generator(epoch, step, 0))
        self.parallel.train()
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.parallel(images, weights), labels)
        self.fabric.backward(loss)
        self.optimizer.step()
        return loss.detach()

    def _architecture_step(self, images: Tensor, labels: Tensor, temperature: float, epoch: int, step: int) -> Tensor:
        self.supernet.requires_grad_(False)
        weights = self.choices.sample(temperature, self._generator(epoch, step, 1))
        with self.fabric.autocast():
            logits = self.supernet(images, weights)
        loss = F.cross_entropy(logits.float(), labels)
        excess = self.expected(self.choices.probabilities()) / self.target_us - 1
        # Augmented Lagrangian of excess <= 0 with penalty 1 (Nocedal and Wright, equation 17.65).
        constraint = 0.5 * F.relu(self.multiplier + excess).square()
        self.architecture_optimizer.zero_grad()
        self.fabric.backward(loss + constraint)
        self.supernet.requires_grad_(True)
        if self.fabric.world_size > 1:
            for logits_of_choice in self.choices.parameters():
                assert logits_of_choice.grad is not None
                logits_of_choice.grad.copy_(self._mean(logits_of_choice.grad))
        self.architecture_optimizer.step()
        self.multiplier = max(0.0, self.multiplier + self.recipe.multiplier_rate * float(excess.detach()))
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        return torch.stack([loss.detach(), accuracy])

    def _mean(self, value: Tensor) -> Tensor:
        if self.fabric.world_size == 1:
            return value
        mean = self.fabric.all_reduce(value, reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    @torch.no_grad()
    def _expected_us(self) -> float:
        return float(self.expected(self.choices.probabilities()))

    @torch.no_grad()
    def _confidence(self) -> float:
        largest = [float(p.max()) for p in self.choices.probabilities().values() if len(p) > 1]
        return sum(largest) / len(largest) if largest else 1.0

    def _save(self) -> None:
        state = {
            "settings": self.settings,
            "supernet": self.supernet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "choices": self.choices.state_dict(),
            "architecture_optimizer": self.architecture_optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "multiplier": self.multiplier,
            "history": [asdict(row) for row in self.history],
        }
        write_tensors(self._state_path, state, _STATE_FORMAT)
        with write_whole(self.out_dir / "log.csv") as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(SearchEpoch)])
            writer.writeheader()
            writer.writerows(asdict(row) for row in self.history)

    def derive(self, table: LatencyTable) -> SearchResult:
        """The network to train."""
        with torch.no_grad():
            probabilities = {name: np.asarray(p.cpu().double()) for name, p in self.choices.probabilities().items()}
        log_probabilities = {name: np.log(np.maximum(p, 1e-30)) for name, p in probabilities.items()}
        assignment = most_probable(self.space, log_probabilities, self.costs, self.target_us, self.fixed_us)
        most_likely = {
            name: options[int(probabilities[name].argmax())] for name, options in self.space.variables.items()
        }
        conditions = table.conditions
        description = (
            f"found in space {self.space.name} for {self.target_us:.4g} us by {conditions.runtime} "
            f"{conditions.runtime_version}, {conditions.threads} thread{'s' if conditions.threads > 1 else ''}, "
            f"{conditions.precision}, on {conditions.device} ({conditions.cpu})"
        )
        architecture = self.space.architecture(assignment, f"{self.space.name}-{self.target_us:.0f}us", description)
        return SearchResult(
            architecture=architecture,
            assignment=assignment,
            predicted_us=table.total(architecture),
            target_us=self.target_us,
            most_likely_us=table.total(self.space.architecture(most_likely)),
            history=tuple(self.history),
        )


def _write_result(result: SearchResult, space: SearchSpace, table: LatencyTable, out_dir: Path) -> None:
    result.architecture.save(out_dir / "architecture.yaml")
    content = {
        "target_us": result.target_us,
        "predicted_us": result.predicted_us,
        "most_likely_us": result.most_likely_us,
        "macs": result.architecture.macs,
        "params": result.architecture.params,
        "conditions": asdict(table.conditions),
        "space": space.name,
        "assignment": result.assignment,
    }
    with write_whole(out_dir / _RESULT_NAME) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
