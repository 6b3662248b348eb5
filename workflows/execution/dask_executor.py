"""Map a function over items on the workers of a Dask cluster.

Workers may start, stop and die at any time. Their items then run again on other workers, so a function must write its
result completely or not at all.
"""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic

from shutterless.workflows.execution.executors import ClusterError, track_outcomes
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.execution.retries import (
    EXPECTED_ERRORS,
    RETRIES,
    Item,
    ItemOutcome,
    Value,
    describe_error,
    pause_before,
)
from shutterless.workflows.execution.workers import make_preparation, try_in_worker

if TYPE_CHECKING:
    from distributed import Client

ITEMS_IN_FLIGHT_PER_WORKER = 4
PATIENCE_S = 120.0

_LOOK_EVERY_S = 2.0
_WAY_OUT = "what is finished is kept: run the same command again with --resume"


@dataclass(frozen=True)
class _Trial(Generic[Item]):
    """One try of an item; attempt 0 is the first."""

    index: int
    item: Item
    attempt: int = 0


_REGISTER_ATTEMPTS = 4


class DaskExecutor:
    """Sends items to the workers of a Dask cluster, at most `ITEMS_IN_FLIGHT_PER_WORKER` per worker at a time.

    These are the items that were submitted and not yet yielded. An outcome that waits for an earlier item counts, too,
    so that neither the scheduler nor this process ever holds more.

    Parameters
    ----------
    client : Client
    retries : int
        As `open_executor`.
    patience_s : float
        Longest time without any worker.
    keep_up : callable, optional
        Called every `_LOOK_EVERY_S` while items are running, to replace workers.
    """

    def __init__(
        self,
        client: Client,
        *,
        retries: int = RETRIES,
        patience_s: float = PATIENCE_S,
        keep_up: Callable[[], None] | None = None,
    ) -> None:
        self._client = client
        self._address = client.scheduler.address
        self._retries = retries
        self._patience_s = patience_s
        self._keep_up = keep_up
        self._numbers = count()
        self._preparations: list[str] = []  # names of plugins, and of the topics of their failures
        self._failed_workers: deque[tuple[str, str, str]] = deque()  # filled by the thread of the client
        self._why_unprepared: str | None = None
        self._deserted_since: float | None = None
        self._next_look = 0.0
        self._n_threads = sum(client.nthreads().values())

    @property
    def n_workers(self) -> int:
        """Number of items that run at the same time; at most `_LOOK_EVERY_S` old while items are running."""
        return max(1, self._n_threads)

    def prepare(self, function: Callable[[], object]) -> None:
        """Call a function once in every worker before its first item, including workers that start later.

        A worker that starts later and fails is removed with a warning, and the others continue.

        Raises
        ------
        ClusterError
            If it fails in a worker that has started already.
        """
        name = f"shutterless-{self._client.id}-{next(self._numbers)}"
        self._preparations.append(name)
        self._client.subscribe_topic(name, lambda event: self._failed_workers.append((name, *event[1])))
        try:
            self._register(make_preparation(function, name), name)
        except Exception as error:
            self._take_off(name)
            if isinstance(error, EXPECTED_ERRORS):
                raise ClusterError(f"a worker could not prepare for the work: {describe_error(error)}") from error
            raise

    def _register(self, plugin: Any, name: str) -> None:
        """Send a preparation to all workers; repeat it if one was killed meanwhile, for its successor."""
        from distributed.comm import CommClosedError

        for attempt in range(1, _REGISTER_ATTEMPTS + 1):
            try:
                self._client.register_plugin(plugin, name=name)
                return
            except CommClosedError:
                if attempt == _REGISTER_ATTEMPTS or self._client.status != "running":
                    raise
                time.sleep(pause_before(attempt))

    def close(self) -> None:
        """Remove the plugins of `prepare` from a cluster that keeps running."""
        for name in tuple(self._preparations):
            self._take_off(name)

    def _take_off(self, name: str) -> None:
        self._preparations.remove(name)
        if self._client.status == "running":  # do not wait for a lost scheduler
            with suppress(OSError):  # the scheduler is being lost
                self._client.unsubscribe_topic(name)
                self._client.unregister_worker_plugin(name)

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
        """Yield one outcome per item, in the order of the items or with ``ordered=False`` as they are finished.

        Raises
        ------
        ClusterError
            If the scheduler is lost, or all workers are lost and none comes back.
        """
        items = list(items)
        yield from track_outcomes(self._outcomes(function, items, ordered), len(items), describe, progress)

    def _outcomes(
        self, function: Callable[[Item], Value], items: list[Item], ordered: bool
    ) -> Iterator[ItemOutcome[Item, Value]]:
        """Slide a window of futures over the items, so that a million files do not fill the scheduler."""
        trials = (_Trial(index, item) for index, item in enumerate(items))
        line: _Line[ItemOutcome[Item, Value]] = _Line(ordered)
        running: dict[Any, tuple[_Trial[Item], Any]] = {}  # by the key of the future
        finished: SimpleQueue[Any] = SimpleQueue()
        task = partial(try_in_worker, tuple(self._preparations), function)
        try:
            while True:
                room = ITEMS_IN_FLIGHT_PER_WORKER * self.n_workers - len(running) - len(line)
                for trial in islice(trials, max(0, room)):
                    self._submit(task, trial, running, finished)
                if not running:
                    return
                trial, outcome, worth = self._next(running, finished)
                if trial.attempt < min(self._retries, worth):
                    self._submit(task, _Trial(trial.index, trial.item, trial.attempt + 1), running, finished)
                else:
                    yield from line.put(trial.index, outcome)
        finally:
            with suppress(Exception):  # the scheduler is lost
                self._client.cancel([future for _, future in running.values()])

    def _submit(
        self, task: Callable[..., Any], trial: _Trial[Any], running: dict[Any, Any], finished: SimpleQueue[Any]
    ) -> None:
        from distributed.client import ClosedClientError

        try:
            future = self._client.submit(task, trial.item, pause_before(trial.attempt), pure=False)
        except ClosedClientError as error:
            raise self._lost(error) from None
        running[future.key] = trial, future
        future.add_done_callback(finished.put)

    def _next(
        self, running: dict[Any, tuple[_Trial[Item], Any]], finished: SimpleQueue[Any]
    ) -> tuple[_Trial[Item], ItemOutcome[Item, Any], float]:
        """Wait for any of the futures, read it and release it."""
        while True:
            self._look_after_workers()
            try:
                future = finished.get(timeout=_LOOK_EVERY_S)
            except Empty:
                continue
            trial, _ = running.pop(future.key)
            try:
                return trial, *self._read(trial.item, future)
            finally:
                future.release()  # at once, even if it raises and the traceback keeps it

    def _read(self, item: Item, future: Any) -> tuple[ItemOutcome[Item, Any], float]:
        from distributed import CancelledError, KilledWorker

        try:
            outcome, worth = future.result()
        except KilledWorker:
            # Dask has tried it on several workers, and each died (usually for lack of memory)
            reason = "KilledWorker: every worker that tried this died, most often for lack of memory"
            return ItemOutcome(item, error=reason), 0
        except (CancelledError, OSError) as error:  # an OSError of the item itself lies in its outcome
            raise self._lost(error) from None
        return ItemOutcome(item, outcome.value, outcome.error), worth

    def _lost(self, error: BaseException) -> ClusterError:
        reason = getattr(error, "reason", None) or describe_error(error)  # Dask's own text is about one future
        return ClusterError(f"the Dask scheduler at {self._address} is lost ({reason}); {_WAY_OUT}")

    def _look_after_workers(self) -> None:
        """At intervals remove workers that could not prepare, replace those that ended, and count the rest."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_EVERY_S
        try:
            self._dismiss_unprepared()
            if self._keep_up is not None:
                self._keep_up()
            self._n_threads = sum(self._client.nthreads().values())
        except OSError as error:
            raise self._lost(error) from error
        self._check_deserted(now)

    def _dismiss_unprepared(self) -> None:
        while self._failed_workers:
            name, address, reason = self._failed_workers.popleft()
            if name not in self._preparations:
                continue  # `prepare` has raised this
            self._why_unprepared = reason
            warnings.warn(
                f"worker {address} could not prepare for the work and is left out: {reason}",
                RuntimeWarning,
                stacklevel=2,
            )
            self._client.retire_workers([address], close_workers=True, remove=True)

    def _check_deserted(self, now: float) -> None:
        if self._n_threads:
            self._deserted_since = None
            return
        if self._deserted_since is None:
            self._deserted_since = now
        if self._why_unprepared is not None:
            raise ClusterError(f"no worker is left; the last could not prepare for the work: {self._why_unprepared}")
        if now - self._deserted_since >= self._patience_s:
            raise ClusterError(
                f"the Dask scheduler at {self._address} has had no worker for {self._patience_s:g} s; see why they end "
                f"or do not start (their logs, squeue); {_WAY_OUT}"
            )


class _Line(Generic[Value]):
    """Takes values in any order and yields them in the order of their numbers, or at once."""

    def __init__(self, ordered: bool) -> None:
        self._ordered = ordered
        self._held: dict[int, Value] = {}
        self._due = 0

    def __len__(self) -> int:
        return len(self._held)

    def put(self, number: int, value: Value) -> Iterator[Value]:
        """Take a value and yield all that are next in order."""
        if not self._ordered:
            yield value
            return
        self._held[number] = value
        while self._due in self._held:
            self._due += 1
            yield self._held.pop(self._due - 1)
