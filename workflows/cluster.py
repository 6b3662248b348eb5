"""Run a plain function over many items: in this process, in local Dask workers, in SLURM jobs or on a Dask cluster.

Dask is a thin skin here: the function knows nothing of it, the outcomes come in the order of the items however many
workers there are, and what fails is recorded beside what succeeds. Workers may come, go and die at any time: what
they were working on runs again elsewhere, so a function must leave its result whole or not at all.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from shutterless.workflows.progress import Progress

if TYPE_CHECKING:
    from distributed import Client, Worker, WorkerPlugin

Item = TypeVar("Item")
Value = TypeVar("Value")

# what a damaged file, a full disk or a file too large for a worker raise (FrameError, ProfileError and all errors of
# this package are ValueErrors); anything else is a mistake in the program and stops the run
EXPECTED_ERRORS = (OSError, ValueError, MemoryError)

ITEMS_IN_FLIGHT_PER_WORKER = 4
RETRIES = 2
# workers that may die of one item before it is given up; nearly always it is the item that is too large for them
ALLOWED_FAILURES = 3
PATIENCE_S = 120.0

_CONNECT_TIMEOUT_S = 10
_LOOK_EVERY_S = 2.0
_FIRST_PAUSE_S = 0.5
_PAUSE_GROWTH = 4
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_WAY_OUT = "what is finished is kept: run the same command again with --resume"

# Dask spills, pauses and kills by resident memory, in which every page of a memory-mapped store counts that was looked
# at, although the kernel takes these back when it needs them: a worker that reads a large store would be stopped for
# nothing, and one that is paused never goes on, because it holds nothing to spill. All of that is off; `_end_above`
# counts what a worker has for itself.
_MEMORY_THRESHOLDS = ("target", "spill", "pause", "terminate")
_MEMORY_EVERY_S = 0.2
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_UNPREPARED: set[str] = set()  # in a worker: preparations that failed here


class ClusterError(OSError):
    """A Dask cluster that cannot be reached or started, or is lost."""


@dataclass(frozen=True)
class Outcome(Generic[Item, Value]):
    """What became of one item: its value, or the reason why there is none (``"FrameError: ..."``)."""

    item: Item
    value: Value | None = None
    error: str | None = None


class Executor(Protocol):
    """Something that maps a function over items."""

    @property
    def n_workers(self) -> int:
        """Items that run at the same time."""

    def prepare(self, function: Callable[[], object]) -> None:
        """Call a function once in every worker, also those that start later, before it gets any item."""

    def map(
        self,
        function: Callable[[Item], Value],
        items: Iterable[Item],
        *,
        describe: str,
        progress: Progress | None = None,
        ordered: bool = True,
    ) -> Iterator[Outcome[Item, Value]]:
        """Yield one outcome per item, in the order of the items; ``describe`` names the work on the progress bar.

        With ``ordered=False`` they come as they are finished.
        """


class SerialExecutor:
    """Everything in this process, one item after the other.

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
    ) -> Iterator[Outcome[Item, Value]]:
        """Yield one outcome per item, in the order of the items."""
        items = list(items)
        outcomes = (self._call(function, item) for item in items)
        yield from _tracked(outcomes, len(items), describe, progress)

    def _call(self, function: Callable[[Item], Value], item: Item) -> Outcome[Item, Value]:
        attempt = 0
        while True:
            outcome, worth = _try_item(function, item, pause_before(attempt))
            if attempt >= min(self._retries, worth):
                return outcome
            attempt += 1


@dataclass(frozen=True)
class _Trial(Generic[Item]):
    """An item that goes to a worker for the first time (attempt 0) or again."""

    index: int
    item: Item
    attempt: int = 0


class DaskExecutor:
    """Items go to the workers of a Dask cluster, at most `ITEMS_IN_FLIGHT_PER_WORKER` per worker at a time.

    These are the items that were submitted and not yet yielded: also an outcome that waits for an earlier item counts,
    so that neither the scheduler nor this process ever holds more.

    Parameters
    ----------
    client : Client
    retries : int
        As `open_executor`.
    patience_s : float
        How long there may be no worker at all.
    keep_up : callable, optional
        Called every `_LOOK_EVERY_S` while items are out, to replace workers.
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
        self._preparations: list[str] = []  # names of plugins and of the topics that their failures are told under
        self._failed_workers: deque[tuple[str, str, str]] = deque()  # filled by the thread of the client
        self._why_unprepared: str | None = None
        self._deserted_since: float | None = None
        self._next_look = 0.0
        self._n_threads = sum(client.nthreads().values())

    @property
    def n_workers(self) -> int:
        """Items that run at the same time, as of at most `_LOOK_EVERY_S` ago while items are out."""
        return max(1, self._n_threads)

    def prepare(self, function: Callable[[], object]) -> None:
        """Call a function once in every worker, also those that start later, before it gets any item.

        A worker that starts later and fails is sent away with a warning, and the others go on.

        Raises
        ------
        ClusterError
            If it fails in a worker that is there already.
        """
        name = f"shutterless-{self._client.id}-{next(self._numbers)}"
        self._preparations.append(name)
        self._client.subscribe_topic(name, lambda event: self._failed_workers.append((name, *event[1])))
        try:
            self._client.register_plugin(_make_plugin(function, name), name=name)
        except Exception as error:
            self._take_off(name)
            if isinstance(error, EXPECTED_ERRORS):
                raise ClusterError(f"a worker could not prepare for the work: {describe_error(error)}") from error
            raise

    def close(self) -> None:
        """Take what `prepare` left behind off a cluster that goes on."""
        for name in tuple(self._preparations):
            self._take_off(name)

    def _take_off(self, name: str) -> None:
        self._preparations.remove(name)
        if self._client.status == "running":  # a scheduler that is lost would be waited for
            with suppress(OSError):  # or is being lost
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
    ) -> Iterator[Outcome[Item, Value]]:
        """Yield one outcome per item, in the order of the items or with ``ordered=False`` as they are finished.

        Raises
        ------
        ClusterError
            If the scheduler is lost, or all workers are and none comes back.
        """
        items = list(items)
        yield from _tracked(self._outcomes(function, items, ordered), len(items), describe, progress)

    def _outcomes(
        self, function: Callable[[Item], Value], items: list[Item], ordered: bool
    ) -> Iterator[Outcome[Item, Value]]:
        """Slide a window of futures over the items, so that a million files do not fill the scheduler."""
        trials = (_Trial(index, item) for index, item in enumerate(items))
        line: _Line[Outcome[Item, Value]] = _Line(ordered)
        running: dict[Any, tuple[_Trial[Item], Any]] = {}  # by the key of the future
        finished: SimpleQueue[Any] = SimpleQueue()
        task = partial(_try_in_worker, tuple(self._preparations), function)
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
            with suppress(Exception):  # of a scheduler that is lost
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
    ) -> tuple[_Trial[Item], Outcome[Item, Any], float]:
        """Wait for any of the futures, read and release it."""
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
                future.release()  # at once, also where it raises and the traceback keeps it

    def _read(self, item: Item, future: Any) -> tuple[Outcome[Item, Any], float]:
        from distributed import CancelledError, KilledWorker

        try:
            outcome, worth = future.result()
        except KilledWorker:
            # Dask has tried it on several workers, each of which died (usually of memory)
            reason = "KilledWorker: every worker that tried this died, most often for lack of memory"
            return Outcome(item, error=reason), 0
        except (CancelledError, OSError) as error:  # an OSError of the item itself is in its outcome
            raise self._lost(error) from None
        return Outcome(item, outcome.value, outcome.error), worth

    def _lost(self, error: BaseException) -> ClusterError:
        reason = getattr(error, "reason", None) or describe_error(error)  # Dask's own text is about one future
        return ClusterError(f"the Dask scheduler at {self._address} is lost ({reason}); {_WAY_OUT}")

    def _look_after_workers(self) -> None:
        """Now and then: send away workers that could not prepare, replace those that ended, count those there are."""
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
    """Values that come in any order and leave in the order of their numbers, or at once."""

    def __init__(self, ordered: bool) -> None:
        self._ordered = ordered
        self._held: dict[int, Value] = {}
        self._due = 0

    def __len__(self) -> int:
        return len(self._held)

    def put(self, number: int, value: Value) -> Iterator[Value]:
        """Take a value and yield what can leave now."""
        if not self._ordered:
            yield value
            return
        self._held[number] = value
        while self._due in self._held:
            self._due += 1
            yield self._held.pop(self._due - 1)


def call_recorded(function: Callable[[Item], Value], item: Item) -> Outcome[Item, Value]:
    """Call a function on an item with its expected failures turned into a recorded reason."""
    return _try_item(function, item)[0]


def describe_error(error: BaseException) -> str:
    """One line: the type and the message of an exception."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def worth_retrying(error: BaseException) -> float:
    """How often it makes sense to try again after an error.

    A file system that hiccups (an NFS server that restarts, a stale handle) raises an `OSError`. A file that is not
    there may not have reached this machine yet, which is worth one more try. What is damaged stays damaged; but where
    the operating system's own error, which has a number, was the cause of a `FrameError`, nobody knows that yet.
    """
    cause = error.__cause__
    if isinstance(error, ValueError) and isinstance(cause, OSError) and cause.errno is not None:
        error = cause
    if isinstance(error, FileNotFoundError):
        return 1
    return float("inf") if isinstance(error, OSError) else 0


def pause_before(attempt: int) -> float:
    """Seconds to wait before an item is tried for the first time (none), the second (0.5), the third (2), …."""
    return _FIRST_PAUSE_S * _PAUSE_GROWTH ** (attempt - 1) if attempt else 0.0


@contextmanager
def open_executor(
    workers: int | None = None,
    scheduler: str | None = None,
    no_dask: bool = False,
    slurm: str | Path | None = None,
    *,
    preload: Callable[[], object] | None = None,
    retries: int = RETRIES,
    allowed_failures: int = ALLOWED_FAILURES,
    memory_limit: float | None = None,
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
    slurm : path, optional
        TOML file with the keys of `shutterless.workflows.slurm.SlurmSettings`: workers are SLURM jobs.
    preload : callable, optional
        As `Executor.prepare`; loads what every item needs, such as a model.
    retries : int
        How often an item is tried again whose function raised an `OSError`, after a pause that grows.
    allowed_failures : int
        Of local workers: so many may die of one item, and with one more it is given up and recorded. SLURM jobs have
        a key for it; an existing scheduler has its own.
    memory_limit : float, optional
        Bytes that a local worker may have for itself before it is ended (memory-mapped files do not count); half of
        the machine's when left out, all for a single one.

    Raises
    ------
    ValueError
        If the options contradict each other.
    ClusterError
        If no scheduler answers, or the workers do not start or prepare.
    SlurmError
        If SLURM takes no jobs from here.
    """
    check_options(workers, scheduler, no_dask, slurm)
    if no_dask:
        serial = SerialExecutor(retries=retries)
        if preload is not None:
            serial.prepare(preload)
        yield serial
        return
    with _open_cluster(workers, scheduler, slurm, allowed_failures, memory_limit) as (client, options):
        executor = DaskExecutor(client, retries=retries, **options)
        try:
            if preload is not None:
                executor.prepare(preload)
            yield executor
        finally:
            executor.close()


def check_options(workers: int | None, scheduler: str | None, no_dask: bool, slurm: str | Path | None) -> None:
    """Refuse cluster options that contradict each other.

    Raises
    ------
    ValueError
        If they do.
    """
    if no_dask and (workers is not None or scheduler is not None or slurm is not None):
        raise ValueError("--no-dask runs in one process and takes neither --workers nor --scheduler nor --slurm")
    if scheduler is not None and workers is not None:
        raise ValueError("--scheduler uses the workers of that cluster; leave out --workers")
    if slurm is not None and (workers is not None or scheduler is not None):
        raise ValueError("--slurm starts its own scheduler and workers (jobs, cores); leave out the other option")
    if workers is not None and workers < 1:
        raise ValueError(f"--workers {workers}: at least one worker is needed; --no-dask runs without any")


def describe_jobs(slurm: str | Path) -> tuple[str, int]:
    """Script of the jobs that ``--slurm`` would submit, and how many workers they are together; nothing is started."""
    from shutterless.workflows.slurm import job_script, load_slurm

    settings = load_slurm(slurm)
    return job_script(settings, _job_environment()), settings.jobs * settings.cores


def _open_cluster(
    workers: int | None,
    scheduler: str | None,
    slurm: str | Path | None,
    allowed_failures: int,
    memory_limit: float | None,
) -> AbstractContextManager[tuple[Client, dict[str, Any]]]:
    """Client of the cluster and what its `DaskExecutor` has to know of it."""
    if scheduler is not None:
        return _connect(scheduler)
    return _start_workers(workers, allowed_failures, memory_limit) if slurm is None else _start_jobs(slurm)


@contextmanager
def _connect(address: str) -> Iterator[tuple[Client, dict[str, Any]]]:
    from distributed import Client
    from distributed.utils import silence_logging_cmgr

    try:
        client = Client(address, timeout=_CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(f"no Dask scheduler answers at {address}: {describe_error(error)}") from error
    with silence_logging_cmgr(logging.CRITICAL), closing(client):  # a lost scheduler would be pages of tracebacks
        if not client.nthreads():
            raise ClusterError(f"the Dask scheduler at {address} has no workers; start some (dask worker {address})")
        yield client, {}


@contextmanager
def _start_workers(
    workers: int | None, allowed_failures: int, memory_limit: float | None
) -> Iterator[tuple[Client, dict[str, Any]]]:
    import dask
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster
    from distributed.system import MEMORY_LIMIT

    n_workers = workers or CPU_COUNT
    environment = {"distributed.nanny.pre-spawn-environ": dict.fromkeys(_THREAD_VARIABLES, 1)}
    with _keep_environment(), dask.config.set({**environment, **_dask_options(allowed_failures)}):
        try:
            # started by spawn: two workers are there after 0.5 s, against 0.95 s by forkserver, and a fork of this
            # process with its threads can hang
            cluster = LocalCluster(
                n_workers=n_workers,
                threads_per_worker=1,
                processes=True,
                # a worker may use what the others leave, but one that runs wild ends before the machine swaps
                memory_limit=int(memory_limit or MEMORY_LIMIT / min(n_workers, 2)),
                dashboard_address="127.0.0.1:0",  # None would ask for port 8787 and warn where it is taken
                silence_logs=logging.CRITICAL,
            )
        except (OSError, RuntimeError) as error:
            raise ClusterError(f"local workers did not start: {describe_error(error)}; try --no-dask") from error
        with cluster, Client(cluster, set_as_default=False) as client:
            client.register_worker_callbacks(_guard_worker)
            yield client, {}


@contextmanager
def _start_jobs(path: str | Path) -> Iterator[tuple[Client, dict[str, Any]]]:
    import dask
    from distributed import Client

    from shutterless.workflows.slurm import load_slurm, start_jobs

    settings = load_slurm(path)
    with (
        dask.config.set(_dask_options(settings.allowed_failures)),
        start_jobs(settings, _job_environment()) as (cluster, keeper),
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_worker_callbacks(_guard_worker)
        yield client, {"keep_up": keeper, "patience_s": 3600 * settings.wait_hours}


def _dask_options(allowed_failures: int) -> dict[str, Any]:
    return {
        # tasks wait at the scheduler, so that a worker that dies takes only the task it was running with it
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.scheduler.allowed-failures": allowed_failures,
        # 15 s after a worker died Dask ends its nanny (or cancels its job) if the worker is not there at that moment:
        # also where it had come back, died again and is just being started
        "distributed.deploy.lost-worker-timeout": "1000 days",
        **{f"distributed.worker.memory.{name}": False for name in _MEMORY_THRESHOLDS},
    }


def _job_environment() -> dict[str, str]:
    """What `_start_workers` sets, as environment variables."""
    memory = {f"DASK_DISTRIBUTED__WORKER__MEMORY__{name.upper()}": "False" for name in _MEMORY_THRESHOLDS}
    return {**dict.fromkeys(_THREAD_VARIABLES, "1"), **memory}


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


def _make_plugin(function: Callable[[], object], name: str) -> WorkerPlugin:
    """Plugin that prepares workers. The class is made here so that commands without Dask need not import it."""
    from distributed import WorkerPlugin

    class Preparation(WorkerPlugin):
        async def setup(self, worker: Worker) -> None:
            await _prepare_worker(worker, function, name)

        def teardown(self, worker: Worker) -> None:
            _forget_preparation(name)

    return Preparation()


async def _prepare_worker(worker: Worker, function: Callable[[], object], name: str) -> None:
    """Call the function in the thread that will run the items; a worker reads no item before this is done."""
    try:
        await asyncio.get_running_loop().run_in_executor(worker.executors["default"], function)
    except Exception as error:
        _UNPREPARED.add(name)
        worker.log_event(name, (worker.address, describe_error(error)))
        raise  # recorded by Dask, and raised in the driver that waits in `DaskExecutor.prepare`


def _forget_preparation(name: str) -> None:
    _UNPREPARED.discard(name)


def _try_in_worker(
    preparations: Iterable[str], function: Callable[[Item], Value], item: Item, pause_s: float
) -> tuple[Outcome[Item, Value], float]:
    """`_try_item`, except where the preparation failed: such a worker gives the item back until it is sent away."""
    if not _UNPREPARED.isdisjoint(preparations):
        from distributed import Reschedule

        time.sleep(_FIRST_PAUSE_S)
        raise Reschedule
    return _try_item(function, item, pause_s)


def _try_item(
    function: Callable[[Item], Value], item: Item, pause_s: float = 0.0
) -> tuple[Outcome[Item, Value], float]:
    """Outcome of one try after a pause, and how many more it is worth."""
    time.sleep(pause_s)
    try:
        return Outcome(item, value=function(item)), 0
    except EXPECTED_ERRORS as error:
        return Outcome(item, error=describe_error(error)), worth_retrying(error)


def _guard_worker(dask_worker: Worker) -> None:
    """Make a worker end with the process that started it, and when it has more memory than it may; on Linux."""
    if sys.platform == "linux":
        _end_with_parent()
        if limit := dask_worker.memory_manager.memory_limit:
            threading.Thread(target=_end_above, args=(limit,), name="memory guard", daemon=True).start()


def _end_with_parent() -> None:
    """Ask the kernel for a SIGKILL when the parent dies.

    Dask ends orphans from a thread, which waits as long as compiled code holds the interpreter's lock: hours of work,
    at worst.
    """
    parent = multiprocessing.parent_process()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and parent.pid != os.getppid():  # it died before
        os._exit(1)


def _end_above(limit: int) -> None:
    while (own := own_memory()) <= limit:
        time.sleep(_MEMORY_EVERY_S)
    logging.getLogger("distributed.worker").error("worker ended: it has %.3g bytes, the limit is %.3g", own, limit)
    os._exit(1)


def own_memory() -> int:
    """Resident bytes of this process without the pages of files, which the kernel can take back."""
    _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def _tracked(
    outcomes: Iterator[Outcome[Item, Value]], total: int, describe: str, progress: Progress | None
) -> Iterator[Outcome[Item, Value]]:
    return outcomes if progress is None else progress.track(outcomes, describe, total)
