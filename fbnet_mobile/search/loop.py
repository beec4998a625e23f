"""The search: the supernet's weights trained on samples of a strategy, until it derives one network."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

from fbnet_mobile.arch import Architecture
from fbnet_mobile.cost.constraint import Constraint
from fbnet_mobile.data.augment import derive_seed
from fbnet_mobile.data.data import Data, training_batches
from fbnet_mobile.data.split import Split
from fbnet_mobile.engine.forecast import forecast
from fbnet_mobile.engine.loop import Means, Task, load_optimizer, run_epochs, seeded
from fbnet_mobile.engine.losses import Teacher
from fbnet_mobile.engine.processes import in_first_process
from fbnet_mobile.engine.run_folder import RunFolder, data_settings
from fbnet_mobile.remarks import say
from fbnet_mobile.search.board import Board
from fbnet_mobile.search.confirm import Confirmation, Measure, confirm
from fbnet_mobile.search.derive import require_feasible
from fbnet_mobile.search.recipe import SearchRecipe
from fbnet_mobile.search.results import ARCHITECTURE, RESULT, Searched, SearchEpoch, log_probabilities
from fbnet_mobile.search.start import Start
from fbnet_mobile.search.strategies.base import STRATEGIES, SearchContext, Step
from fbnet_mobile.search.supernet import Supernet
from fbnet_mobile.search.trial import trial_passes
from fbnet_mobile.space import SearchSpace

_LIMITS = "limits"


def search(
    space: SearchSpace,
    constraints: Sequence[Constraint],
    data: Data,
    recipe: SearchRecipe,
    out_dir: Path,
    fabric: Fabric,
    *,
    start: Start | None = None,
    measure: Measure | None = None,
    shared_warmup: Path | None = None,
    tensorboard: bool = False,
    show_progress: bool = True,
) -> Searched:
    """Search a space for the most accurate network within constraints, or continue where an earlier run stopped.

    ``out_dir`` gets ``architecture.yaml``, ``result.json``, ``log.csv`` (a ``SearchEpoch`` a line),
    ``probabilities.csv`` (those of every option, a line an epoch) and ``last.pt`` (what is needed to continue, the
    supernet's weights among it).

    Args:
        space: with as many classes as the data.
        constraints: at least one; the first names the network.
        data: the images, at the space's largest resolution.
        recipe: how, the name of the strategy among it; what is 0 in it is fitted to the number of images.
        out_dir: folder of the run; made if it is not there.
        fabric: where and at which precision; already launched.
        start: the trained network that the space is within; random weights without one. Weights and probabilities are
            then learned in the same steps, from all images but those held back.
        measure: on the device that the first constraint is of; what is derived is then measured, and derived again
            (``confirm``).
        shared_warmup: a file for the state after the warm-up's whole epochs: taken up if it is there, else written.
            Searches that differ in nothing but their limits do the same until then.
        tensorboard: write scalars and the probabilities of all choices into ``out_dir/tensorboard`` too.
        show_progress: whether to draw a bar, if stderr is a terminal, and write a line per epoch.

    Raises:
        UserError: no network of the space meets the constraints, or ``out_dir`` holds a search with other settings.
        JobError: the loss stopped being a finite number, memory or disk ran out (the last good epoch stays in
            ``out_dir``), or another process works there.
    """
    require_feasible(space, constraints)
    recipe = recipe.fitted(len(data.train), within=start is not None)
    with seeded(fabric, recipe.seed):
        run = _Search(space, constraints, data, recipe, out_dir, fabric, start, shared_warmup, show_progress)
    settings = {
        **asdict(recipe),
        **data_settings(data),
        "space": space.model_dump_json(),
        "constraints": [[constraint.name, constraint.digest] for constraint in constraints],
        _LIMITS: [constraint.limit for constraint in constraints],
        "precision": str(fabric.strategy.precision.precision),
        "within": start.digest if start is not None else "",
    }
    run.folder = RunFolder(out_dir, "search", settings, SearchEpoch, fabric, results=[ARCHITECTURE, RESULT])
    with run.folder, ExitStack() as held:
        run.folder.resume(run.load_state_dict, run.state_dict, shared=shared_warmup, free=[_LIMITS])
        if tensorboard:
            in_first_process(fabric, lambda: run.open_board(held, out_dir / "tensorboard"))
        run_epochs(run, run.folder, show_progress=show_progress)
        rounds: tuple[Confirmation, ...] = ()
        if measure is None:
            derived = run.strategy.derive()
        else:
            one = partial(_in_one_process, fabric, measure)
            confirmed = confirm(run.strategy, one, partial(_say_first, fabric))
            derived, constraints, rounds = confirmed.derived, confirmed.constraints, confirmed.rounds
        result = Searched.of(
            space,
            constraints,
            recipe.strategy,
            derived.assignment,
            derived.most_likely,
            run.folder.history,
            rounds,
            start.architecture.name if start is not None else "",
        )
        in_first_process(fabric, lambda: result.save(out_dir))
    return result


def _in_one_process(fabric: Fabric, measure: Measure, network: Architecture) -> float:
    """A latency that all processes agree on."""
    return float(fabric.broadcast(measure(network) if fabric.is_global_zero else 0.0))


def _say_first(fabric: Fabric, line: str) -> None:
    if fabric.is_global_zero:
        say(line)


class _Search(Task[SearchEpoch]):
    title = "searching"
    folder: RunFolder[SearchEpoch]
    board: Board | None = None

    def __init__(
        self,
        space: SearchSpace,
        constraints: Sequence[Constraint],
        data: Data,
        recipe: SearchRecipe,
        out_dir: Path,
        fabric: Fabric,
        start: Start | None,
        shared_warmup: Path | None,
        show_progress: bool,
    ) -> None:
        self.epochs, self.batch_size, self.seed = recipe.epochs, recipe.batch_size, recipe.seed
        self.learning_rate, self.images = recipe.learning_rate, f"{data.resolution} x {data.resolution} pixels"
        self.space, self.constraints, self.shared_warmup = space, constraints, shared_warmup
        self.data, self.recipe, self.fabric = data, recipe, fabric
        self.weight_images, self.architecture_images = data.train.split(recipe.weight_share, recipe.seed)
        self.steps = self.weight_images.steps(recipe.batch_size)

        self.supernet = Supernet(space, recipe.mode)
        self.trained = start is not None
        self.loss: Callable[..., Tensor] = lambda logits, labels, *_: F.cross_entropy(logits, labels)
        self.teacher: Teacher | None = None
        if start is not None:
            self.supernet.adopt(start.sorted_network(space, data, self.weight_images, recipe))
            self.loss, self.teacher = start.loss(recipe, data, fabric)
        self.supernet = self.supernet.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.supernet.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.parallel, self.optimizer = fabric.setup(self.supernet, self.optimizer)
        context = SearchContext(
            space,
            constraints,
            recipe,
            fabric,
            self.supernet,
            self.architecture_images,
            data,
            out_dir,
            self.trained,
            show_progress,
        )
        self.strategy = STRATEGIES.get(recipe.strategy)(context)
        apart = self.strategy.learns and not self.trained
        self.learning_steps = self.architecture_images.steps(recipe.batch_size) if apart else 0
        self.weight_means, self.learned_means = Means(fabric, 1), Means(fabric, 2)

    def run(self, epoch: int) -> Iterator[None]:
        """One pass over the weights' images, the steps of the strategy spread evenly among those of the weights."""
        batches = self._batches(self.weight_images, epoch)
        learning_batches = self._batches(self.architecture_images, epoch)
        self.weight_means, self.learned_means = Means(self.fabric, 1), Means(self.fabric, 2)
        seen = 0
        for number, (images, labels) in enumerate(batches, start=1):
            self._train_weights(images, labels, self._step(epoch, number, 0))
            while seen < number * self.learning_steps // self.steps:
                seen += 1
                if epoch - 1 + number / self.steps > self.recipe.warmup * self.epochs:
                    learned = self.strategy.learn(*next(learning_batches), self._step(epoch, number, 1))
                    self.learned_means.add(learned.loss, learned.accuracy)
            yield

    def steps_left(self, epoch: int, step: int) -> float:
        """See ``Task``; a step of the strategy counts as much as one of the weights."""
        done, frozen = epoch - 1 + step / self.steps, self.recipe.warmup * self.epochs
        return super().steps_left(epoch, step) + (self.epochs - max(done, frozen)) * self.learning_steps

    def forecast(self) -> str:
        """See ``Task``."""
        with torch.no_grad():
            weights = self.strategy.sample(self._step(1, 1, 0))
        probabilities = self.strategy.probabilities()
        passes = trial_passes(self.supernet, weights, probabilities, self.data.resolution, self.fabric)
        done = len(self.folder.history)
        batch = self.batch_size // self.fabric.world_size
        with seeded(self.fabric, self.seed):
            found = forecast(self.supernet, passes, batch, self.steps_left(done, self.steps))
        left = self.epochs - done
        return (
            f"{'to go' if done else 'the search'}: {found}, by a trial step; {left} epoch{'s' * (left != 1)} of "
            f"{len(self.weight_images):,} images for the weights and {len(self.architecture_images):,} for the choices"
        )

    def _step(self, epoch: int, number: int, purpose: int) -> Step:
        generator = torch.Generator().manual_seed(derive_seed(self.recipe.seed, epoch, number, purpose))
        return Step(epoch, number, (epoch - 1 + number / self.steps) / self.epochs, generator)

    def _batches(self, split: Split, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        return training_batches(
            split,
            self.data,
            self.batch_size,
            seed=self.seed,
            epoch=epoch,
            device=self.fabric.device,
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
        )

    def _train_weights(self, images: Tensor, labels: Tensor, step: Step) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate_at(step.progress)
        follows = self.trained and step.progress > self.recipe.warmup
        with torch.set_grad_enabled(follows):
            weights = self.strategy.sample(step)
        self.parallel.train()
        self.optimizer.zero_grad()
        logits = self.parallel(images, weights)
        loss = self.loss(logits, labels, images, self.teacher)
        self.fabric.backward(loss)
        self.optimizer.step()
        if follows:
            self.strategy.follow(loss.detach(), step)
        self.weight_means.add(loss.detach())

    def losses(self) -> list[float]:
        """See ``Task``."""
        (self.weight_loss,) = self.weight_means.read() or (0.0,)
        self.learned: Sequence[float | None] = self.learned_means.read() or (None, None)
        return [loss for loss in (self.weight_loss, self.learned[0]) if loss is not None]

    def note(self) -> str:
        """See ``Task``."""
        return ", ".join(filter(None, (f"loss {self.weight_loss:.3f}", self._accuracy(), self.strategy.note())))

    def _accuracy(self) -> str:
        return "" if self.learned[1] is None else f"architecture accuracy {self.learned[1]:.1%}"

    def row(self, epoch: int, started: float) -> SearchEpoch:
        """See ``Task``."""
        loss, accuracy = self.learned
        columns = self.strategy.columns()
        return SearchEpoch(epoch, self.weight_loss, loss, accuracy, time.monotonic() - started, columns)

    def open_board(self, held: ExitStack, folder: Path) -> None:
        """Write TensorBoard's files too, until ``held`` is closed."""
        self.board = held.enter_context(Board(folder, len(self.folder.history) + 1))

    def write(self, row: SearchEpoch) -> None:
        """The warm-up for other searches, and TensorBoard's files."""
        warmup = self.shared_warmup
        if warmup is not None and row.epoch == self.recipe.shared_epochs and not warmup.exists():
            self.folder.write_state(warmup, self.state_dict)
        probabilities = self.strategy.probabilities()
        if probabilities:
            log_probabilities(self.folder.path, row.epoch, probabilities, self.space)
        if self.board is not None:
            self.board.log_epoch(row, probabilities, self.space)

    def line(self, row: SearchEpoch) -> str:
        """See ``Task``."""
        parts = (f"weight loss {row.weight_loss:.3f}", self._accuracy(), self.strategy.note())
        return ", ".join(filter(None, parts))

    def state_dict(self) -> dict[str, Any]:
        """See ``Task``."""
        return {
            "supernet": self.supernet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "strategy": self.strategy.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Task``."""
        self.supernet.load_state_dict(state["supernet"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.strategy.load_state_dict(state["strategy"])
