"""A progress bar on a terminal; a few lines, or silence, elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from fbnet_mobile.remarks import on_terminal, say


class _Rate(TextColumn):
    """Images (or whatever is counted) a second, over the last half minute."""

    def __init__(self, unit: str) -> None:
        super().__init__("")
        self._unit = unit

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text("" if rate is None else f"{rate:,.0f} {self._unit}/s")


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
        draw = show and on_terminal()
        self._show = show
        # FORCE_COLOR means colours, not bars in a file; NO_COLOR is rich's affair.
        console = Console(stderr=True, force_terminal=draw, soft_wrap=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[note]}"),
            _Rate(unit),
            TimeRemainingColumn(),
            console=console,
            disable=not draw,
        )
        self._task = self._progress.add_task(title, total=total, completed=done, note="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def advance(self, units: int, note: str | None = None) -> None:
        """Count ``units`` more as done, and replace the note if one is given."""
        if note is None:
            self._progress.advance(self._task, units)
        else:
            self._progress.update(self._task, advance=units, note=note)

    def say(self, line: str) -> None:
        """Write one lasting line, above the bar on a terminal; this is shown elsewhere too."""
        if self._progress.disable:
            if self._show:
                say(line)
        else:
            self._progress.console.print(line, markup=False)


@contextmanager
def steps() -> Iterator[Callable[[str, int, int], None]]:
    """For a job with several steps, a bar for the one under way; not on a terminal, a line when one is done.

    What it gives is called with (the step's name, models done, of how many).
    """
    with ExitStack() as shown:
        current: tuple[str, int] | None = None
        bar, before = None, 0

        def advance(step: str, done: int, total: int) -> None:
            nonlocal current, bar, before
            if bar is None or current != (step, total):
                shown.close()  # one bar at a time
                current, before = (step, total), done
                bar = shown.enter_context(ProgressBar(step, total, unit="models", done=done))
            bar.advance(done - before)
            before = done
            if done == total > 1 and not on_terminal():
                bar.say(f"{step}: {done} of {total}")

        yield advance
