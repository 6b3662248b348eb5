"""Map a function over items: the interface of all executors, and the executor of this process.

The function does not depend on the executor. Outcomes come in the order of the items, and failures are recorded beside
successes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.execution.retries import RETRIES, Item, ItemOutcome, Value, pause_before, try_item


class ClusterError(OSError):
    """A Dask cluster that cannot be reached or started, or that was lost."""


class Executor(Protocol):
    """An object that maps a function over items."""

    @property
    def n_workers(self) -> int:
        """Number of items that run at the same time."""

    def prepare(self, function: Callable[[], object]) -> None:
        """Call a function once in every worker before its first item, including workers that start later."""

    def map(
        self,
        function: Callable[[Item], Value],
        items: Iterable[Item],
        *,
        describe: str,
        progress: Progress | None = None,
        ordered: bool = True,
        seconds: float | None = None,
    ) -> Iterator[ItemOutcome[Item, Value]]:
        """Yield one outcome per item, in the order of the items; ``describe`` names the work on the progress bar.

        With ``ordered=False`` they come as soon as they are finished. ``seconds`` is about how long all items take in
        one process; by it `LateExecutor` decides.
        """


class SerialExecutor:
    """Runs all items in this process, one after the other.

    Parameters
    ----------
    retries : int
        As `open_executor`.
    """

    n_workers = 1

    def __init__(self, *, retries: int = RETRIES) -> None:
        self._retries = retries

    def prepare(self, function: Callable[[], object]) -> None:
        """Call the function."""
        function()

    def map(
        self,
        function: Callable[[Item], Value],
        items: Iterable[Item],
        *,
        describe: str,
        progress: Progress | None = None,
        ordered: bool = True,
        seconds: float | None = None,
    ) -> Iterator[ItemOutcome[Item, Value]]:
        """Yield one outcome per item, in the order of the items."""
        items = list(items)
        outcomes = (self._call(function, item) for item in items)
        yield from track_outcomes(outcomes, len(items), describe, progress)

    def _call(self, function: Callable[[Item], Value], item: Item) -> ItemOutcome[Item, Value]:
        attempt = 0
        while True:
            outcome, worth = try_item(function, item, pause_before(attempt))
            if attempt >= min(self._retries, worth):
                return outcome
            attempt += 1


def track_outcomes(
    outcomes: Iterator[ItemOutcome[Item, Value]], total: int, describe: str, progress: Progress | None
) -> Iterator[ItemOutcome[Item, Value]]:
    """Show the progress of the outcomes, if a `Progress` is given; ``describe`` is its text."""
    return outcomes if progress is None else progress.track(outcomes, describe, total)
