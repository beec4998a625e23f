"""DMaskingNAS: a distribution over networks, learned by gradients through a Gumbel-softmax."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fbnet_mobile.cost.expectation import expected_cost
from fbnet_mobile.engine.loop import load_optimizer
from fbnet_mobile.engine.processes import mean
from fbnet_mobile.errors import UserError
from fbnet_mobile.search.choices import Choices, Weights, straight_through
from fbnet_mobile.search.derive import most_probable, require_feasible
from fbnet_mobile.search.recipe import SearchRecipe
from fbnet_mobile.search.strategies.base import STRATEGIES, Derived, Learned, SearchContext, Step, Strategy, held_back
from fbnet_mobile.space import RESOLUTION, Option

_ODDS = 20.0
"""Of an option against the next, which takes more from a trained network, when the search begins."""
_ARRIVED = 0.75
"""Share of the search after which the limits hold as they were given."""


class Gradient(Strategy):
    """Every variable is drawn by a Gumbel-softmax whose logits are trained by Adam (FBNetV2, arXiv 2004.05565).

    The loss of the logits is the cross-entropy on images that the weights do not see, plus each constraint E[cost] <=
    limit in the form of an augmented Lagrangian (Nocedal and Wright, Numerical Optimization, section 17.4) whose
    multiplier is learned, so that there is no weight to tune. E[cost] is exact. The network in the end is the most
    probable one within the constraints (``most_probable``).
    """

    learns: ClassVar[bool] = True

    def __init__(self, context: SearchContext) -> None:
        super().__init__(context)
        recipe, fabric = context.recipe, context.fabric
        # Few numbers with gradients that are averaged by hand: no need of the machinery for distributed modules.
        self.choices = Choices(context.space).to(fabric.device)
        adam = torch.optim.Adam(
            self.choices.parameters(),
            lr=recipe.architecture_learning_rate,
            weight_decay=recipe.architecture_weight_decay,
        )
        # Set up by Fabric, so that its loss scaling in half precision covers this optimiser too.
        self.optimizer = cast(torch.optim.Optimizer, fabric.setup_optimizers(adam))
        self.expected = [expected_cost(context.space, each).to(fabric.device) for each in context.constraints]
        self.multipliers = [0.0] * len(context.constraints)
        self.temperature = recipe.temperature_start
        self.usual_loss = math.nan
        self.drawn: Tensor | None = None
        if context.trained:
            self.choices.begin_with_first(_ODDS)
        self.begun = self._expected()

    def sample(self, step: Step) -> Weights:
        """A draw at the step's temperature; one input resolution alone if the recipe says so."""
        self.temperature = self.context.recipe.temperature_at(step.progress)
        weights = self.choices.sample(self.temperature, step.generator)
        if self.context.trained:
            self.drawn = weights[RESOLUTION].detach().argmax()
            return {**weights, RESOLUTION: F.one_hot(self.drawn, len(weights[RESOLUTION])).float()}
        if self.context.recipe.one_resolution:
            return {**weights, RESOLUTION: straight_through(weights[RESOLUTION])}
        return weights

    def follow(self, loss: Tensor, step: Step) -> None:
        """A step of Adam on the logits with the gradient that a step of the weights left there, and the constraints'.

        An input resolution is drawn and runs alone, so nothing of the others can be seen in that step: its logits
        follow the loss against its running mean (REINFORCE, Williams 1992). The limits come down from what the trained
        network costs, in equal ratios, until three quarters of the search are done: what can be spared is found before
        it is taken away.
        """
        context, fabric = self.context, self.context.fabric
        probabilities = self.choices.probabilities()
        excesses = [
            expected(probabilities) / self._limit(number, step) - 1 for number, expected in enumerate(self.expected)
        ]
        objective = torch.zeros((), device=fabric.device)
        for excess, multiplier in zip(excesses, self.multipliers, strict=True):
            objective = objective + 0.5 * F.relu(multiplier + excess).square()
        now = float(loss if fabric.world_size == 1 else mean(fabric, loss))
        if math.isnan(self.usual_loss):
            self.usual_loss = now
        if self.drawn is not None and len(probabilities[RESOLUTION]) > 1:
            objective = objective + (now - self.usual_loss) * probabilities[RESOLUTION][self.drawn].log()
        self.usual_loss += 0.05 * (now - self.usual_loss)
        torch.autograd.backward(objective)
        if fabric.world_size > 1:
            for parameter in self.choices.parameters():
                if parameter.grad is not None:
                    parameter.grad.copy_(mean(fabric, parameter.grad))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.multipliers = [
            max(0.0, multiplier + context.recipe.multiplier_rate * float(excess.detach()))
            for multiplier, excess in zip(self.multipliers, excesses, strict=True)
        ]

    def _limit(self, number: int, step: Step) -> float:
        """What a cost may be at a step."""
        limit, warmup = self.context.constraints[number].limit, self.context.recipe.warmup
        share = min(1.0, (step.progress - warmup) / (_ARRIVED - warmup)) if warmup < _ARRIVED else 1.0
        begun = self.begun[number]
        return float(max(limit, begun * (limit / begun) ** share))

    def learn(self, images: Tensor, labels: Tensor, step: Step) -> Learned:
        """A step of Adam on the logits, and one of each multiplier."""
        context, recipe, fabric = self.context, self.context.recipe, self.context.fabric
        supernet, precision = context.supernet, fabric.strategy.precision
        supernet.requires_grad_(False)
        # What Fabric does where the weights are trained: both kinds of steps see the same rounding.
        inputs = precision.convert_input((images, self.sample(step)))
        with precision.forward_context():
            logits = supernet(*inputs)
        loss = F.cross_entropy(logits.float(), labels)
        probabilities = self.choices.probabilities()
        costs = [expected(probabilities) for expected in self.expected]
        excesses = [cost / constraint.limit - 1 for cost, constraint in zip(costs, context.constraints, strict=True)]
        objective = architecture_objective(loss, costs[0], excesses, self.multipliers, recipe)
        self.optimizer.zero_grad()
        fabric.backward(objective)
        supernet.requires_grad_(True)
        if fabric.world_size > 1:
            for parameter in self.choices.parameters():
                assert parameter.grad is not None
                parameter.grad.copy_(mean(fabric, parameter.grad))
        self.optimizer.step()
        self.multipliers = [
            max(0.0, multiplier + recipe.multiplier_rate * float(excess.detach()))
            for multiplier, excess in zip(self.multipliers, excesses, strict=True)
        ]
        return Learned(loss.detach(), (logits.detach().argmax(1) == labels).float().mean())

    def columns(self) -> dict[str, float]:
        """``temperature`` at the last step; at the end ``expected_`` and ``multiplier_`` of each cost, ``confidence``.

        The confidence is the mean over all choices of the largest probability, 0 to 1.
        """
        names = [constraint.name for constraint in self.context.constraints]
        return {
            "temperature": self.temperature,
            **{f"expected_{name}": value for name, value in zip(names, self._expected(), strict=True)},
            **{f"multiplier_{name}": value for name, value in zip(names, self.multipliers, strict=True)},
            "confidence": self._confidence(),
        }

    def note(self) -> str:
        """The expected costs beside their limits, and the confidence."""
        costs = ", ".join(
            f"expected {constraint.label} {constraint.readable(value)} of {constraint.readable(constraint.limit)}"
            for constraint, value in zip(self.context.constraints, self._expected(), strict=True)
        )
        return f"{costs}, confidence {self._confidence():.0%}"

    @torch.no_grad()
    def _expected(self) -> list[float]:
        probabilities = self.choices.probabilities()
        return [float(expected(probabilities)) for expected in self.expected]

    @torch.no_grad()
    def _confidence(self) -> float:
        largest = [float(p.max()) for p in self.choices.probabilities().values() if len(p) > 1]
        return sum(largest) / len(largest) if largest else 1.0

    @torch.no_grad()
    def probabilities(self) -> Weights:
        """Of every option."""
        return self.choices.probabilities()

    def state_dict(self) -> dict[str, Any]:
        """Logits, optimiser and multipliers."""
        return {
            "choices": self.choices.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "multipliers": self.multipliers,
            "usual_loss": self.usual_loss,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See ``state_dict``."""
        self.choices.load_state_dict(state["choices"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.multipliers = [float(value) for value in state["multipliers"]]
        self.usual_loss = float(state["usual_loss"])
        if len(self.multipliers) != len(self.expected) or not all(map(math.isfinite, self.multipliers)):
            raise ValueError("multipliers of other constraints")

    def derive(self) -> Derived:
        """The most probable network within the constraints."""
        space = self.context.space
        probabilities = {name: np.asarray(p.cpu().double()) for name, p in self.probabilities().items()}
        log_probabilities = {name: np.log(np.maximum(p, 1e-30)) for name, p in probabilities.items()}
        if self.context.trained:
            assignment = self._most_accurate(log_probabilities)
        else:
            assignment = most_probable(space, log_probabilities, self.context.constraints)
        return Derived(
            assignment=assignment,
            most_likely={name: options[int(probabilities[name].argmax())] for name, options in space.variables.items()},
        )

    def _most_accurate(self, log_probabilities: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Option]:
        """Of the most probable networks of each input resolution, the one that is best on the images held back."""
        context, held = self.context, held_back(self.context)
        require_feasible(context.space, context.constraints)
        found = []
        for number, resolution in enumerate(context.space.resolution):
            space = context.space.changed(resolution=(resolution,))
            # The resolution is the first axis of every position's costs.
            limits = [
                replace(each, costs={name: array[number : number + 1] for name, array in each.costs.items()})
                for each in context.constraints
            ]
            try:
                network = most_probable(space, {**log_probabilities, RESOLUTION: np.zeros(1)}, limits)
            except UserError:  # too small a budget for that many pixels
                continue
            found.append((held.accuracy(network), network))
        return max(found, key=lambda each: each[0])[1]


STRATEGIES.add("gradient", Gradient)


def architecture_objective(
    cross_entropy: Tensor,
    latency_us: Tensor,
    excesses: Sequence[Tensor],
    multipliers: Sequence[float],
    recipe: SearchRecipe,
) -> Tensor:
    """What the architecture parameters minimise; see ``Gradient`` and ``SearchRecipe.objective``.

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
