"""Progress bars on a terminal, silence or a line elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Rate(TextColumn):
    """Images (or whatever is counted) a second, over the last half minute."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        rate, unit = task.finished_speed or task.speed, task.fields["unit"]
        return Text("" if rate is None or not unit else f"{rate:,.0f} {unit}/s")


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[note]}"),
        _Rate(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal or console.quiet,
    )


class ProgressBar:
    """A bar with a note, the rate and the time left, on stderr while it is a terminal.

    Args:
        title: what is being done, such as ``"reading images"``.
        total: how many units the whole job has.
        unit: what is counted, in the plural.
        done: units finished in an earlier run.
        show: False for no output at all, as on all but the first of several processes.
    """

    def __init__(self, title: str, total: int, *, unit: str = "images", done: int = 0, show: bool = True) -> None:
        self._bars = _bars(Console(stderr=True, quiet=not show, soft_wrap=True, highlight=False))
        self._task = self._bars.add_task(title, total=total, completed=done, note="", unit=unit)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def advance(self, units: int, note: str | None = None) -> None:
        """Count ``units`` more as done, and replace the note if one is given."""
        if note is None:
            self._bars.advance(self._task, units)
        else:
            self._bars.update(self._task, advance=units, note=note)

    def say(self, line: str) -> None:
        """Write one lasting line, above the bar on a terminal; this is shown elsewhere too."""
        self._bars.console.print(line, markup=False)


@contextmanager
def progress_steps() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each step that is named, by (step, done, total); not on a terminal, a line when a step is done."""
    console = Console(stderr=True)
    with _bars(console) as bars:
        tasks: dict[str, TaskID] = {}

        def advance(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(f"{step:24}", total=total, note="", unit="")
            bars.update(tasks[step], completed=done, total=total, note=f"{done}/{total}")
            if done == total > 1 and not console.is_terminal:
                sys.stderr.write(f"{step}: {done} of {total}\n")

        yield advance
