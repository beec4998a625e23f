"""How long to measure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MeasuringPlan:
    """How long to measure.

    Attributes:
        min_rounds: rounds that are always made.
        max_rounds: rounds after which it ends whatever the spread.
        repeatability: it ends when half of the blocks, and half of the whole networks, differ by at most this share
            between even and odd rounds.
        budget_s: no new round is begun that would not end within this time; None for no limit.
        warmup_ms: how long a model runs before it is timed, in each round.
        min_ms: how long a model is timed at least, in each round.
        seed: of the order of models in each round.
    """

    min_rounds: int = 4
    max_rounds: int = 6
    repeatability: float = 0.01
    budget_s: float | None = None
    warmup_ms: float = 1.0
    min_ms: float = 5.0
    seed: int = 0
