"""fbnet-train: train the network of an architecture file, or a published one; or measure one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fbnet_mobile.api import dry_run, evaluate
from fbnet_mobile.api import train as api
from fbnet_mobile.cli.common import Lines, Program, run
from fbnet_mobile.errors import UserError
from fbnet_mobile.recipe import option, recipe_fields
from fbnet_mobile.report.console import dry_run_lines, evaluation_lines, train_lines

_INSTEAD = "Instead of training"


@dataclass(frozen=True, kw_only=True)
class Instead:
    """What fbnet-train does instead of training."""

    evaluate: Path | None = option(
        None,
        group=_INSTEAD,
        shown="none",
        metavar="CHECKPOINT",
        help="Only measure this checkpoint on the test images of --data, class by class; with -o, into a folder.",
    )
    dry_run: bool = option(
        False, group=_INSTEAD, help="Only print all options, the schedule, and the time and memory to expect."
    )


def _look(asked: Instead, others: dict[str, Any]) -> tuple[Any, Lines] | None:
    if asked.evaluate is not None:
        known = {item.name for item in recipe_fields(evaluate.EvaluateOptions)} - {
            "checkpoint"
        }  # which it names itself
        for name in others:
            if name not in known:
                raise UserError(
                    f"--evaluate trains nothing, so --{name.replace('_', '-')} has no meaning; leave it out"
                )
        return evaluate.evaluate(checkpoint=asked.evaluate, **others), evaluation_lines
    if asked.dry_run:
        return dry_run.dry_run(**{"output": Path("run"), **others}), dry_run_lines
    return None


PROGRAM = Program(
    name="train",
    example="fbnet-train --architecture runs/search/architecture.yaml --data path/to/images -o runs/train",
    options=api.TrainOptions,
    work=api.train,
    lines=train_lines,
    continues=True,
    instead=Instead,
    look=_look,
)


def main() -> None:
    """Entry point."""
    run(PROGRAM)
