"""The search: weights and architecture parameters trained in turn, until one network is derived."""

import csv
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric, seed_everything
from torch import Tensor

from fbnet_mobile.arch import Architecture
from fbnet_mobile.blocks.network import Network
from fbnet_mobile.cost.constraint import Constraint
from fbnet_mobile.cost.expectation import expected_cost
from fbnet_mobile.data.augment import derive_seed
from fbnet_mobile.data.data import Data, training_batches
from fbnet_mobile.engine.allocator import tune_allocator
from fbnet_mobile.engine.checkpoint import read_tensors, write_tensors
from fbnet_mobile.engine.progress import ProgressBar
from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.files import read_text, write_whole
from fbnet_mobile.search.choices import Choices, Weights, straight_through
from fbnet_mobile.search.derive import most_probable, require_reachable
from fbnet_mobile.search.inherit import inherit
from fbnet_mobile.search.recipe import SearchRecipe
from fbnet_mobile.search.supernet import Supernet
from fbnet_mobile.space import RESOLUTION, Option, SearchSpace

_STATE_FORMAT = "fbnet-mobile search state 1"
_STATE_NAME, _RESULT_NAME = "last.pt", "result.json"
_LIMITS = "set of constraints"
_REPORT_STEPS = 20


@dataclass(frozen=True)
class SearchEpoch:
    """One line of ``log.csv``.

    Attributes:
        epoch: its number, from 1.
        temperature: at its last step.
        weight_loss: mean cross-entropy on the weights' images.
        architecture_loss: mean cross-entropy on the architecture parameters' images; empty while they are frozen.
        architecture_accuracy: top-1 on the same images with sampled architectures, 0 to 1.
        expected: of each constrained cost, over the distributions at its end.
        multiplier: of each constraint at its end.
        confidence: mean over all choices of the largest probability, 0 to 1.
        seconds: time it took.
    """

    epoch: int
    temperature: float
    weight_loss: float
    architecture_loss: float
    architecture_accuracy: float
    expected: dict[str, float]
    multiplier: dict[str, float]
    confidence: float
    seconds: float

    def columns(self) -> dict[str, float]:
        """Everything by name, one number each, such as ``expected_latency_us``."""
        found: dict[str, float] = {}
        for name, value in asdict(self).items():
            found |= (
                {f"{name}_{cost}": number for cost, number in value.items()}
                if isinstance(value, dict)
                else {name: value}
            )
        return found


@dataclass(frozen=True)
class Met:
    """How a derived network meets a constraint.

    Attributes:
        name: of the cost, with its unit.
        limit: the most that was allowed.
        value: what the network costs.
        most_likely: what the network would cost that takes each choice's most probable option, whatever its cost.
    """

    name: str
    limit: float
    value: float
    most_likely: float


@dataclass(frozen=True)
class SearchResult:
    """What a search came to.

    Attributes:
        architecture: the most probable network within the constraints.
        assignment: its choices.
        most_likely: the choices of the network that takes each one's most probable option, whatever its costs.
        constraints: how they are met, in the order given.
        history: every epoch.
    """

    architecture: Architecture
    assignment: dict[str, Option]
    most_likely: dict[str, Option]
    constraints: tuple[Met, ...]
    history: tuple[SearchEpoch, ...]


def search(
    space: SearchSpace,
    constraints: Sequence[Constraint],
    data: Data,
    recipe: SearchRecipe,
    out_dir: Path,
    fabric: Fabric,
    *,
    shared_warmup: Path | None = None,
    tensorboard: bool = False,
    show_progress: bool = True,
) -> SearchResult:
    """Search a space for the most accurate network within constraints, or continue where an earlier run stopped.

    The loss of the architecture parameters is the cross-entropy on images that the weights do not see, plus each
    constraint E[cost] <= limit in the form of an augmented Lagrangian (Nocedal and Wright, Numerical Optimization,
    section 17.4) whose multiplier is learned, so that there is no weight to tune. E[cost] is exact.

    ``out_dir`` gets ``architecture.yaml``, ``result.json``, ``log.csv`` (a ``SearchEpoch`` a line) and ``last.pt``
    (what is needed to continue, the supernet's weights among it).

    Args:
        space: with as many classes as the data.
        constraints: at least one; the first names the network.
        data: the images, at the space's largest resolution.
        recipe: how.
        out_dir: folder of the run; made if it is not there.
        fabric: where and at which precision; already launched.
        shared_warmup: a file for the state after the warm-up's whole epochs: taken up if it is there, else written.
            Searches that differ in nothing but their limits do the same until then.
        tensorboard: write scalars and the probabilities of all choices into ``out_dir/tensorboard`` too.
        show_progress: whether to draw a bar, if stderr is a terminal, and write a line per epoch.

    Raises:
        UserError: no network of the space meets the constraints, or ``out_dir`` holds a search with other settings.
        JobError: the loss stopped being a finite number; the last good epoch stays in ``out_dir``.
    """
    require_reachable(space, constraints)
    tune_allocator()
    run = _Search(space, constraints, data, recipe, out_dir, fabric, shared_warmup)
    first = run.resume() + 1
    board = _board(out_dir / "tensorboard", first) if tensorboard and fabric.is_global_zero else None
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
            if board is not None:
                _log(board, row, run.choices)
            expected = ", ".join(
                f"expected {constraint.label} {constraint.readable(row.expected[constraint.name])} of "
                f"{constraint.readable(constraint.limit)}"
                for constraint in constraints
            )
            bar.say(
                f"epoch {epoch}/{recipe.epochs}: weight loss {row.weight_loss:.3f}, architecture accuracy "
                f"{row.architecture_accuracy:.1%}, {expected}, confidence {row.confidence:.0%}, "
                f"{images / row.seconds:,.0f} images/s"
            )
    if board is not None:
        board.close()
    result = run.derive()
    if fabric.is_global_zero:
        _write_result(result, space, constraints, out_dir)
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
    settings = state["settings"]
    supernet = Supernet(SearchSpace.model_validate_json(settings["space"]), settings["mode"])
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
        constraints: Sequence[Constraint],
        data: Data,
        recipe: SearchRecipe,
        out_dir: Path,
        fabric: Fabric,
        shared_warmup: Path | None,
    ) -> None:
        seed_everything(recipe.seed, verbose=False)
        self.space, self.constraints, self.shared_warmup = space, constraints, shared_warmup
        self.data, self.recipe, self.fabric, self.out_dir = data, recipe, fabric, out_dir
        self.weight_images, self.architecture_images = data.train.split(recipe.weight_share, recipe.seed)
        self.steps = self.weight_images.steps(recipe.batch_size)
        self.architecture_steps = self.architecture_images.steps(recipe.batch_size)

        self.supernet = Supernet(space, recipe.mode).to(memory_format=torch.channels_last)
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
        self.expected = [expected_cost(space, constraint).to(fabric.device) for constraint in constraints]
        self.multipliers = [0.0] * len(constraints)
        self.history: list[SearchEpoch] = []
        self.settings = {
            **asdict(recipe),
            "space": space.model_dump_json(),
            _LIMITS: [
                [constraint.name, constraint.limit, float(sum(array.sum() for array in constraint.costs.values()))]
                for constraint in constraints
            ],
            "data": data.source,
            "training images": len(data.train),
            "precision": str(fabric.strategy.precision.precision),
        }

    @property
    def _state_path(self) -> Path:
        return self.out_dir / _STATE_NAME

    def resume(self) -> int:
        """Take up the state of ``last.pt`` if there is one; the number of epochs already done."""
        path, shared = self._state_path, self.shared_warmup
        if not path.exists():
            if shared is None or not shared.exists():
                return 0
            path = shared
        state = read_tensors(path, _STATE_FORMAT)
        for name, value in self.settings.items():
            if state["settings"].get(name) != value and (path, name) != (shared, _LIMITS):
                raise UserError(f"{path.parent} holds a search with another {name}; use another folder, or remove it")
        self.supernet.load_state_dict(state["supernet"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.choices.load_state_dict(state["choices"])
        self.architecture_optimizer.load_state_dict(state["architecture_optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.multipliers = state["multipliers"]
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
                if epoch - 1 + step / self.steps <= recipe.warmup * recipe.epochs:
                    continue
                architecture_done += 1
                sums[1:] += self._architecture_step(*next(architecture_batches), temperature, epoch, step)
            note = None
            if step % _REPORT_STEPS == 0 or step == self.steps:
                loss, architecture_loss = self._mean(sums[:2] / step).tolist()
                for value in (loss, architecture_loss):
                    if not math.isfinite(value):
                        raise self._exploded(f"the loss became {value}", epoch)
                note = self._note(epoch, loss, float(sums[2]) / architecture_done if architecture_done else math.nan)
            bar.advance(recipe.batch_size, note)
        # The last step may have spoilt what no loss has seen yet.
        values = (*self.supernet.state_dict().values(), *self.choices.parameters())
        if not all(bool(value.isfinite().all()) for value in values):
            raise self._exploded("the weights became infinite", epoch)
        means = self._mean(sums[1:] / architecture_done).tolist() if architecture_done else [math.nan, math.nan]
        row = SearchEpoch(
            epoch=epoch,
            temperature=temperature,
            weight_loss=float(self._mean(sums[0] / self.steps)),
            architecture_loss=means[0],
            architecture_accuracy=means[1],
            expected=self._expected(),
            multiplier={c.name: value for c, value in zip(self.constraints, self.multipliers, strict=True)},
            confidence=self._confidence(),
            seconds=time.monotonic() - started,
        )
        self.history.append(row)
        if self.fabric.is_global_zero:
            if self.shared_warmup is not None and epoch == recipe.shared_epochs and not self.shared_warmup.exists():
                write_tensors(self.shared_warmup, self._state(), _STATE_FORMAT)
            self._save()
        self.fabric.barrier()
        return row

    def _exploded(self, what: str, epoch: int) -> JobError:
        return JobError(
            f"{what} in epoch {epoch}; the epochs before it are kept in {self.out_dir}: "
            f"search into another folder with a learning rate below {self.recipe.learning_rate:g}"
        )

    def _note(self, epoch: int, loss: float, accuracy: float) -> str:
        expected = self._expected()
        costs = ", ".join(constraint.readable(expected[constraint.name]) for constraint in self.constraints)
        return f"epoch {epoch}/{self.recipe.epochs} loss {loss:.3f} accuracy {accuracy:.1%} expected {costs}"

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
            weights = self._sample(temperature, self._generator(epoch, step, 0))
        self.parallel.train()
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.parallel(images, weights), labels)
        self.fabric.backward(loss)
        self.optimizer.step()
        return loss.detach()

    def _architecture_step(self, images: Tensor, labels: Tensor, temperature: float, epoch: int, step: int) -> Tensor:
        self.supernet.requires_grad_(False)
        weights = self._sample(temperature, self._generator(epoch, step, 1))
        with self.fabric.autocast():
            logits = self.supernet(images, weights)
        loss = F.cross_entropy(logits.float(), labels)
        probabilities = self.choices.probabilities()
        costs = [expected(probabilities) for expected in self.expected]
        excesses = [cost / constraint.limit - 1 for cost, constraint in zip(costs, self.constraints, strict=True)]
        objective = architecture_objective(loss, costs[0], excesses, self.multipliers, self.recipe)
        self.architecture_optimizer.zero_grad()
        self.fabric.backward(objective)
        self.supernet.requires_grad_(True)
        if self.fabric.world_size > 1:
            for logits_of_choice in self.choices.parameters():
                assert logits_of_choice.grad is not None
                logits_of_choice.grad.copy_(self._mean(logits_of_choice.grad))
        self.architecture_optimizer.step()
        self.multipliers = [
            max(0.0, multiplier + self.recipe.multiplier_rate * float(excess.detach()))
            for multiplier, excess in zip(self.multipliers, excesses, strict=True)
        ]
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        return torch.stack([loss.detach(), accuracy])

    def _mean(self, value: Tensor) -> Tensor:
        if self.fabric.world_size == 1:
            return value
        mean = self.fabric.all_reduce(value, reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    def _sample(self, temperature: float, generator: torch.Generator) -> Weights:
        weights = self.choices.sample(temperature, generator)
        return {**weights, RESOLUTION: straight_through(weights[RESOLUTION])} if self.recipe.one_resolution else weights

    @torch.no_grad()
    def _expected(self) -> dict[str, float]:
        probabilities = self.choices.probabilities()
        return {c.name: float(of(probabilities)) for c, of in zip(self.constraints, self.expected, strict=True)}

    @torch.no_grad()
    def _confidence(self) -> float:
        largest = [float(p.max()) for p in self.choices.probabilities().values() if len(p) > 1]
        return sum(largest) / len(largest) if largest else 1.0

    def _state(self) -> dict[str, Any]:
        return {
            "settings": self.settings,
            "supernet": self.supernet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "choices": self.choices.state_dict(),
            "architecture_optimizer": self.architecture_optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "multipliers": self.multipliers,
            "history": [asdict(row) for row in self.history],
        }

    def _save(self) -> None:
        write_tensors(self._state_path, self._state(), _STATE_FORMAT)
        rows = [row.columns() for row in self.history]
        with write_whole(self.out_dir / "log.csv") as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def derive(self) -> SearchResult:
        """The network to train."""
        with torch.no_grad():
            probabilities = {name: np.asarray(p.cpu().double()) for name, p in self.choices.probabilities().items()}
        log_probabilities = {name: np.log(np.maximum(p, 1e-30)) for name, p in probabilities.items()}
        assignment = most_probable(self.space, log_probabilities, self.constraints)
        most_likely = {
            name: options[int(probabilities[name].argmax())] for name, options in self.space.variables.items()
        }
        met = [
            Met(
                name=constraint.name,
                limit=constraint.limit,
                value=constraint.total(self.space, assignment),
                most_likely=constraint.total(self.space, most_likely),
            )
            for constraint in self.constraints
        ]
        first = self.constraints[0]
        name = f"{self.space.name}-{first.limit:.0f}{'us' if first.conditions else first.name}"
        description = f"found in space {self.space.name} for " + " and ".join(map(_described, self.constraints))
        return SearchResult(
            architecture=self.space.architecture(assignment, name, description),
            assignment=assignment,
            most_likely=most_likely,
            constraints=tuple(met),
            history=tuple(self.history),
        )


def architecture_objective(
    cross_entropy: Tensor,
    latency_us: Tensor,
    excesses: Sequence[Tensor],
    multipliers: Sequence[float],
    recipe: SearchRecipe,
) -> Tensor:
    """What the architecture parameters minimise; see ``search`` and ``SearchRecipe.objective``.

    Args:
        cross_entropy: on a batch.
        latency_us: the expectation of the first constrained cost.
        excesses: of each constraint, E[cost] / limit - 1.
        multipliers: of each constraint.
        recipe: which objective, and its alpha and beta.
    """
    objective = cross_entropy
    if recipe.objective == "product":
        objective = cross_entropy * recipe.alpha * latency_us.log().clamp_min(1e-3) ** recipe.beta
        excesses, multipliers = excesses[1:], multipliers[1:]
    for excess, multiplier in zip(excesses, multipliers, strict=True):
        # Augmented Lagrangian of excess <= 0 with penalty 1 (Nocedal and Wright, equation 17.65).
        objective = objective + 0.5 * F.relu(multiplier + excess).square()
    return objective


def _described(constraint: Constraint) -> str:
    if not constraint.conditions:
        return str(constraint)
    conditions = constraint.conditions
    return (
        f"{constraint.limit:.4g} us by {conditions['runtime']} {conditions['runtime_version']}, "
        f"{conditions['threads']} thread{'s' if conditions['threads'] > 1 else ''}, {conditions['precision']}, on "
        f"{conditions['device']} ({conditions['cpu']})"
    )


def _write_result(result: SearchResult, space: SearchSpace, constraints: Sequence[Constraint], out_dir: Path) -> None:
    result.architecture.save(out_dir / "architecture.yaml")
    content = {
        "constraints": [
            {**asdict(met), "conditions": constraint.conditions}
            for met, constraint in zip(result.constraints, constraints, strict=True)
        ],
        "macs": result.architecture.macs,
        "params": result.architecture.params,
        "peak_activations": result.architecture.peak_activations,
        "space": space.name,
        "assignment": result.assignment,
        "most_likely": result.most_likely,
    }
    with write_whole(out_dir / _RESULT_NAME) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _board(folder: Path, first_epoch: int) -> Any:
    """TensorBoard's writer; what an interrupted run wrote of epochs that are repeated is dropped."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UserError(
            "no tensorboardX to write TensorBoard's files with; pip install fbnet-mobile[tensorboard]"
        ) from error
    return SummaryWriter(str(folder), purge_step=first_epoch)


@torch.no_grad()
def _log(board: Any, row: SearchEpoch, choices: Choices) -> None:
    for name, value in row.columns().items():
        if name != "epoch" and math.isfinite(value):
            board.add_scalar(f"search/{name}", value, row.epoch)
    for name, probabilities in choices.probabilities().items():
        for option, probability in zip(choices.options[name], probabilities.tolist(), strict=True):
            if len(probabilities) > 1:
                board.add_scalar(f"{name}/{option}", probability, row.epoch)
    board.flush()
