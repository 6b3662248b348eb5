"""Show the progress of a command: bars on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

T = TypeVar("T")

_LINE_EVERY_S = 10.0
_COLUMNS = (
    TextColumn("{task.description}", markup=False),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
)


class Progress:
    """Progress of one command.

    Parameters
    ----------
    quiet : bool
        Print nothing.
    console : rich.console.Console, optional
        The output; standard error by default, so that results on standard output can be piped.
    clock : callable, optional
        Returns seconds that only grow; set in tests.
    """

    def __init__(
        self, *, quiet: bool = False, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.quiet = quiet
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._clock = clock

    def write_line(self, text: str) -> None:
        """Print one line."""
        if not self.quiet:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def track(self, items: Iterable[T], describe: str, total: int) -> Iterator[T]:
        """Yield the items, and show how many of ``total`` are done."""
        if self.quiet or total == 0:
            yield from items
        elif self._console.is_terminal:
            yield from self._bar(items, describe, total)
        else:
            yield from self._lines(items, describe, total)

    @contextmanager
    def count(self, describe: str) -> Iterator[Callable[[int, int, str], None]]:
        """Give a function ``show(done, total, text)`` for work that counts by itself; it says how much time is left."""
        if self.quiet:
            yield lambda done, total, text: None
        elif self._console.is_terminal:
            with RichProgress(*_COLUMNS, TextColumn("{task.fields[text]}", markup=False), console=self._console) as bar:
                task = bar.add_task(describe, total=None, text="")
                yield lambda done, total, text: bar.update(task, completed=done, total=total, text=text)
        else:
            yield self._counted_lines(describe)

    def _counted_lines(self, describe: str) -> Callable[[int, int, str], None]:
        """Print the first and the last count, and one every `_LINE_EVERY_S` seconds between."""
        start = self._clock()
        printed = start - _LINE_EVERY_S

        def show(done: int, total: int, text: str) -> None:
            nonlocal printed
            now = self._clock()
            if done < total and now - printed < _LINE_EVERY_S:
                return
            left = f", {(now - start) / done * (total - done):.0f} s left" if done < total else ""
            said = f", {text}" if text else ""
            self.write_line(f"{describe}: step {done}/{total}{said} ({now - start:.0f} s{left})")
            printed = now

        return show

    def _bar(self, items: Iterable[T], describe: str, total: int) -> Iterator[T]:
        with RichProgress(*_COLUMNS, console=self._console) as bar:
            task = bar.add_task(describe, total=total)
            for item in items:
                bar.advance(task)
                yield item

    def _lines(self, items: Iterable[T], describe: str, total: int) -> Iterator[T]:
        """Print the first and the last count, and one every `_LINE_EVERY_S` seconds between."""
        start = self._clock()
        printed, first = start - _LINE_EVERY_S, start
        for count, item in enumerate(items, start=1):
            now = self._clock()
            if count == total or now - printed >= _LINE_EVERY_S:
                first = now if count == 1 else first
                # what the first item takes to start is not in the others
                left = f", {(now - first) / (count - 1) * (total - count):.0f} s left" if 1 < count < total else ""
                self.write_line(f"{describe}: {count}/{total} ({now - start:.0f} s{left})")
                printed = now
            yield item
