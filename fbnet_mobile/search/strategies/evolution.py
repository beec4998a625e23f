"""Evolution: weights trained for all networks alike, then generations of networks measured with them."""

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError
from torch import Tensor

from fbnet_mobile.cost.within import Assignment, Within
from fbnet_mobile.data.augment import derive_seed
from fbnet_mobile.documents import write_json
from fbnet_mobile.engine.processes import in_first_process
from fbnet_mobile.progress import ProgressBar
from fbnet_mobile.search.choices import Weights
from fbnet_mobile.search.derive import require_feasible
from fbnet_mobile.search.strategies.base import STRATEGIES, Derived, SearchContext, Step, Strategy, held_back

_STATE_NAME = "evolution.json"
_TRIES = 100
"""How often a child that was measured before is mutated."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Measured(_Strict):
    """A network and its top-1 accuracy with the supernet's weights, 0 to 1; its options by their numbers."""

    options: tuple[NonNegativeInt, ...]
    accuracy: Annotated[float, Field(ge=0, le=1)]


class _State(_Strict):
    """``evolution.json``: every generation that is done, and a digest of all that they depend on."""

    depends_on: str
    generations: tuple[tuple[Measured, ...], ...]


class Evolution(Strategy):
    """Single-path one-shot search with uniform sampling (Guo et al. 2020, arXiv 1904.00420).

    Each step trains the weights of one network, every option being equally likely (section 3.1). Then generations of
    networks within the limits are measured with those weights on the images that they have not seen (section 3.3): the
    first at random, each further one by half from mutations of the best so far and by half from crossing two of them; a
    child that was measured before is mutated until it is new. The most accurate of all is the result. With the paper's
    sizes, which are the recipe's defaults, 1,000 are measured.

    A network is measured as it will stand alone; see ``HeldBack``.

    The networks of each generation and their accuracies are kept in ``evolution.json`` in the folder of the run. What
    is drawn for a generation depends on the seed and the generations before, so a search that was killed ends as if it
    had not been.
    """

    learns: ClassVar[bool] = False

    def __init__(self, context: SearchContext) -> None:
        super().__init__(context)
        self.variables, self.held_back = context.space.variables, held_back(context)

    def sample(self, step: Step) -> Weights:
        """One network, each of its variables drawn uniformly."""
        return {
            name: F.one_hot(torch.randint(len(options), (), generator=step.generator), len(options))
            .float()
            .to(self.context.fabric.device)
            for name, options in self.variables.items()
        }

    def derive(self) -> Derived:
        """The most accurate network of all generations; ``most_likely`` has the best ones' most frequent options.

        Raises:
            UserError: no network was found that meets all constraints.
        """
        context, recipe = self.context, self.context.recipe
        within = Within(context.space, context.constraints, require_feasible(context.space, context.constraints))
        path, depends_on = context.folder / _STATE_NAME, self._depends_on()
        generations = self._resumed(path, depends_on)
        bar = ProgressBar(
            "evolving",
            recipe.generations,
            unit="generations",
            done=len(generations),
            show=context.show_progress and context.fabric.is_global_zero,
        )
        with bar:
            while len(generations) < recipe.generations:
                networks = self._generation(within, generations)
                generations.append(self._measured(networks))
                state = _State(depends_on=depends_on, generations=tuple(generations))
                in_first_process(context.fabric, partial(write_json, path, state.model_dump()))
                best = self._best(generations)
                bar.advance(1, f"best accuracy {best[0].accuracy:.1%}")
                bar.say(
                    f"generation {len(generations)}/{recipe.generations}: best accuracy {best[0].accuracy:.1%} with "
                    f"the supernet's weights, {len(generations[-1])} networks measured"
                )
        best = self._best(generations)
        frequent = {
            name: options[Counter(each.options[number] for each in best).most_common(1)[0][0]]
            for number, (name, options) in enumerate(self.variables.items())
        }
        return Derived(assignment=self._assignment(best[0]), most_likely=frequent)

    def _generation(self, within: Within, generations: Sequence[Sequence[Measured]]) -> list[Assignment]:
        """The networks of the next generation, none of which was measured before; fewer if there are not as many."""
        recipe = self.context.recipe
        rng = random.Random(derive_seed(recipe.seed, len(generations)))
        parents = [self._assignment(each) for each in self._best(generations)]
        known = {each.options for generation in generations for each in generation}
        found: list[Assignment] = []
        for number in range(recipe.population):
            child = rng.choice(parents) if parents else within.draw(rng)
            if parents and number % 2 == 0:
                child = within.crossed(child, rng.choice(parents), rng)
            for _ in range(_TRIES):
                if self._options(child) not in known:
                    known.add(self._options(child))
                    found.append(child)
                    break
                child = within.mutated(child, recipe.mutation_rate, rng)
        return found

    def _best(self, generations: Sequence[Sequence[Measured]]) -> list[Measured]:
        """The most accurate fifth of a population, of all that were measured; of equals those that came first."""
        every = [each for generation in generations for each in generation]
        return sorted(every, key=lambda each: -each.accuracy)[: max(2, self.context.recipe.population // 5)]

    def _measured(self, networks: Sequence[Assignment]) -> tuple[Measured, ...]:
        """The accuracy of networks, each measured by one of the processes."""
        fabric = self.context.fabric
        accuracies = torch.zeros(len(networks), dtype=torch.float64)
        for number in range(fabric.global_rank, len(networks), fabric.world_size):
            accuracies[number] = self.accuracy(networks[number])
        if fabric.world_size > 1:
            reduced = fabric.all_reduce(accuracies.to(fabric.device), reduce_op="sum")
            assert isinstance(reduced, Tensor)
            accuracies = reduced
        return tuple(
            Measured(options=self._options(network), accuracy=accuracy)
            for network, accuracy in zip(networks, accuracies.tolist(), strict=True)
        )

    def accuracy(self, assignment: Assignment) -> float:
        """Top-1 of a network on the architecture's images with the supernet's weights, 0 to 1."""
        return self.held_back.accuracy(assignment)

    def _options(self, assignment: Assignment) -> tuple[int, ...]:
        return tuple(options.index(assignment[name]) for name, options in self.variables.items())

    def _assignment(self, network: Measured) -> Assignment:
        return {
            name: options[number]
            for (name, options), number in zip(self.variables.items(), network.options, strict=True)
        }

    def _depends_on(self) -> str:
        """A digest of the weights, and of what else decides the generations."""
        recipe, context = self.context.recipe, self.context
        digest = hashlib.sha256()
        for value in context.supernet.state_dict().values():
            digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
        limits = [(each.name, each.limit, each.digest) for each in context.constraints]
        digest.update(repr((limits, recipe, context.space, context.data.source)).encode())
        return digest.hexdigest()

    def _resumed(self, path: Path, depends_on: str) -> list[tuple[Measured, ...]]:
        """The generations that an earlier run did; none if the file is of other weights or damaged."""
        try:
            state = _State.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return []
        counts = [len(options) for options in self.variables.values()]
        networks = [each.options for generation in state.generations for each in generation]
        sound = all(len(n) == len(counts) and all(i < c for i, c in zip(n, counts, strict=True)) for n in networks)
        return list(state.generations) if sound and state.depends_on == depends_on else []


STRATEGIES.add("evolution", Evolution)
