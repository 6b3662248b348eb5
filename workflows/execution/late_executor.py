"""Run little work in this process, and start workers only for work that is worth their start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack

from shutterless.workflows.execution.executors import Executor, SerialExecutor
from shutterless.workflows.execution.local_workers import count_cores
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.execution.retries import RETRIES, Item, ItemOutcome, Value

# seconds until two workers have started and imported what a search needs, on two cores; a first segment took 2 s here
START_S = 8.0
_IMPORTS_S = 6.0  # until a command has imported what it needs and begins


class LateExecutor:
    """Runs items in this process until there is work that workers finish sooner.

    Parameters
    ----------
    start : callable
        Opens the executor with workers.
    n_workers : int
        Number of those workers.
    retries : int
        As `open_executor`.
    """

    def __init__(
        self, start: Callable[[], AbstractContextManager[Executor]], n_workers: int, *, retries: int = RETRIES
    ) -> None:
        self.n_workers = n_workers
        self._start = start
        self._here = SerialExecutor(retries=retries)
        self._workers: Executor | None = None
        self._open = ExitStack()
        self._waiting: list[Callable[[], object]] = []  # preparations that nobody has needed yet
        self._given: list[Callable[[], object]] = []

    def __enter__(self) -> LateExecutor:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def prepare(self, function: Callable[[], object]) -> None:
        """Call a function once before the next item, in this process or in every worker."""
        self._given.append(function)
        if self._workers is None:
            self._waiting.append(function)
        else:
            self._workers.prepare(function)

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
        """As `Executor.map`; of several items that take an unknown time, workers are started."""
        items = list(items)
        if self._workers is None and is_worth_workers(len(items), self.n_workers, seconds):
            self._start_workers()
        if self._workers is not None:
            yield from self._workers.map(function, items, describe=describe, progress=progress, ordered=ordered)
            return
        while self._waiting and items:
            self._waiting.pop(0)()
        yield from self._here.map(function, items, describe=describe, progress=progress)

    def _start_workers(self) -> None:
        self._workers = self._open.enter_context(self._start())
        for function in self._given:
            self._workers.prepare(function)


def is_worth_workers(n_items: int, n_workers: int, seconds: float | None) -> bool:
    """Whether workers save more time than their start takes; ``seconds`` are those of one process."""
    at_once = min(n_items, n_workers)
    if at_once < 2:
        return False
    return seconds is None or seconds * (1 - 1 / at_once) > START_S


def estimate_duration(n_items: int, seconds: float, workers: int | None = None) -> tuple[float, int]:
    """Time that a command takes, and the processes that work.

    Parameters
    ----------
    n_items : int
    seconds : float
        Of all items in one process.
    workers : int, optional
        Number of workers; when left out, as `LateExecutor` decides on this machine.
    """
    if workers is None:
        cores = count_cores()
        workers = cores if is_worth_workers(n_items, cores, seconds) else 1
    at_once = max(min(workers, n_items), 1)
    return _IMPORTS_S + (START_S if workers > 1 else 0) + seconds / at_once, workers
