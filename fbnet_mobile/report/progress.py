"""Progress of a job with several steps, each of which counts models."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from fbnet_mobile.engine.progress import ProgressBar


@contextmanager
def steps() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for the step that is under way; not on a terminal, a line when a step is done.

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
            if done == total > 1 and not sys.stderr.isatty():
                bar.say(f"{step}: {done} of {total}")

        yield advance
