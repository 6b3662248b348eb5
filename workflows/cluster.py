"""Run a plain function over many items: in this process, in local Dask workers or on an existing Dask cluster.

Dask is a thin skin here: the function knows nothing of it, the outcomes come in the order of the items however many
workers there are, and what fails is recorded beside what succeeds.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from shutterless.workflows.progress import Progress

if TYPE_CHECKING:
    from distributed import Client

Item = TypeVar("Item")
Value = TypeVar("Value")

# what a damaged file, a full disk or a file too large for a worker raise (FrameError, ProfileError and all errors of
# this package are ValueErrors); anything else is a mistake in the program and stops the run
EXPECTED_ERRORS = (OSError, ValueError, MemoryError)

ITEMS_IN_FLIGHT_PER_WORKER = 4
_CONNECT_TIMEOUT_S = 10
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


class ClusterError(OSError):
    """A Dask cluster that cannot be reached or started."""


@dataclass(frozen=True)
class Outcome(Generic[Item, Value]):
    """What became of one item: its value, or the reason why there is none (``"FrameError: ..."``)."""

    item: Item
    value: Value | None = None
    error: str | None = None


class Executor(Protocol):
    """Something that maps a function over items."""

    n_workers: int

    def map(
        self,
        function: Callable[[Item], Value],
        items: Iterable[Item],
        *,
        describe: str,
        progress: Progress | None = None,
    ) -> Iterator[Outcome[Item, Value]]:
        """Yield one outcome per item, in the order of the items; ``describe`` names the work on the progress bar."""


class SerialExecutor:
    """Everything in this process, one item after the other."""

    n_workers = 1

    def map(
        self,
        function: Callable[[Item], Value],
        items: Iterable[Item],
        *,
        describe: str,
        progress: Progress | None = None,
    ) -> Iterator[Outcome[Item, Value]]:
        """Yield one outcome per item, in the order of the items."""
        items = list(items)
        outcomes = (call_recorded(function, item) for item in items)
        yield from _tracked(outcomes, len(items), describe, progress)


class DaskExecutor:
    """Items go to the workers of a Dask cluster, at most `ITEMS_IN_FLIGHT_PER_WORKER` per worker at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.n_workers = max(1, sum(client.nthreads().values()))

    def map(
        self,
        function: Callable[[Item], Value],
        items: Iterable[Item],
        *,
        describe: str,
        progress: Progress | None = None,
    ) -> Iterator[Outcome[Item, Value]]:
        """Yield one outcome per item, in the order of the items."""
        items = list(items)
        yield from _tracked(self._outcomes(function, items), len(items), describe, progress)

    def _outcomes(self, function: Callable[[Item], Value], items: list[Item]) -> Iterator[Outcome[Item, Value]]:
        """Slide a window of futures over the items, so that a million files do not fill the scheduler."""
        task = partial(call_recorded, function)
        window: deque[tuple[Item, Any]] = deque()
        try:
            for item in items:
                if len(window) >= ITEMS_IN_FLIGHT_PER_WORKER * self.n_workers:
                    yield _collect(*window.popleft())
                window.append((item, self._client.submit(task, item, pure=False)))
            while window:
                yield _collect(*window.popleft())
        finally:
            self._client.cancel([future for _, future in window])


def call_recorded(function: Callable[[Item], Value], item: Item) -> Outcome[Item, Value]:
    """Call a function on an item with its expected failures turned into a recorded reason."""
    try:
        return Outcome(item, value=function(item))
    except EXPECTED_ERRORS as error:
        return Outcome(item, error=describe_error(error))


def describe_error(error: BaseException) -> str:
    """One line: the type and the message of an exception."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


@contextmanager
def open_executor(
    workers: int | None = None, scheduler: str | None = None, no_dask: bool = False
) -> Iterator[Executor]:
    """Open what the cluster options of the command line ask for, and close it again.

    Parameters
    ----------
    workers : int, optional
        Local worker processes of one thread each; as many as there are cores when left out.
    scheduler : str, optional
        Address of an existing Dask scheduler (``tcp://host:8786``); it is used and left running.
    no_dask : bool
        Run everything in this process.

    Raises
    ------
    ValueError
        If the options contradict each other.
    ClusterError
        If no scheduler answers, or the workers do not start.
    """
    if no_dask and (workers is not None or scheduler is not None):
        raise ValueError("--no-dask runs in one process and takes neither --workers nor --scheduler")
    if scheduler is not None and workers is not None:
        raise ValueError("--scheduler uses the workers of that cluster; leave out --workers")
    if workers is not None and workers < 1:
        raise ValueError(f"--workers {workers}: at least one worker is needed; --no-dask runs without any")
    if no_dask:
        yield SerialExecutor()
    elif scheduler is not None:
        with _connect(scheduler) as client:
            yield DaskExecutor(client)
    else:
        with _keep_environment(), _start_workers(workers) as client:
            yield DaskExecutor(client)


@contextmanager
def _connect(address: str) -> Iterator[Client]:
    from distributed import Client

    try:
        client = Client(address, timeout=_CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(f"no Dask scheduler answers at {address}: {describe_error(error)}") from error
    try:
        if not client.nthreads():
            raise ClusterError(f"the Dask scheduler at {address} has no workers; start some (dask worker {address})")
        yield client
    finally:
        client.close()


@contextmanager
def _start_workers(workers: int | None) -> Iterator[Client]:
    import dask
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster

    options = {
        "distributed.nanny.pre-spawn-environ": dict.fromkeys(_THREAD_VARIABLES, 1),
        # tasks wait at the scheduler, so that a worker that dies takes only the task it was running with it
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.worker.memory.spill": False,
    }
    with dask.config.set(options):
        try:
            cluster = LocalCluster(
                n_workers=workers or CPU_COUNT,
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0",  # None would ask for port 8787 and warn where it is taken
                silence_logs=logging.CRITICAL,
            )
        except (OSError, RuntimeError) as error:
            raise ClusterError(f"local workers did not start: {describe_error(error)}; try --no-dask") from error
        with cluster, Client(cluster, set_as_default=False) as client:
            yield client


@contextmanager
def _keep_environment() -> Iterator[None]:
    """Undo what starting workers does to this process's environment.

    Dask sets the workers' thread variables in the parent before it spawns them and leaves them there, and a library
    imported later (torch) would then run on one thread.
    """
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _collect(item: Item, future: Any) -> Outcome[Item, Any]:
    from distributed import KilledWorker

    try:
        outcome = future.result()
    except KilledWorker:
        # Dask has tried it on several workers, each of which died (usually of memory)
        return Outcome(item, error="KilledWorker: every worker that tried this died, most often for lack of memory")
    return Outcome(item, outcome.value, outcome.error)


def _tracked(
    outcomes: Iterator[Outcome[Item, Value]], total: int, describe: str, progress: Progress | None
) -> Iterator[Outcome[Item, Value]]:
    return outcomes if progress is None else progress.track(outcomes, describe, total)
