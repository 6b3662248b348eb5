"""Run a plain function over many items: in this process, in local Dask workers, in SLURM jobs or on a Dask cluster.

The function does not depend on Dask. The outcomes come in the order of the items with any number of workers. Failures
are recorded beside successes. Workers may start, stop and die at any time. Their items then run again on other workers,
so a function must write its result completely or not at all.

Commands import everything from here; the parts are in ``executors``, ``dask_executor``, ``local_workers``,
``workers`` and ``retries``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shutterless.workflows.execution.dask_executor import DaskExecutor
from shutterless.workflows.execution.executors import ClusterError, Executor, SerialExecutor
from shutterless.workflows.execution.late_executor import LateExecutor
from shutterless.workflows.execution.local_workers import (
    count_cores,
    dask_options,
    job_environment,
    start_local_workers,
)
from shutterless.workflows.execution.retries import EXPECTED_ERRORS, RETRIES, ItemOutcome, call_recorded, describe_error
from shutterless.workflows.execution.workers import guard_worker

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "ALLOWED_FAILURES",
    "EXPECTED_ERRORS",
    "RETRIES",
    "ClusterError",
    "DaskExecutor",
    "Executor",
    "ItemOutcome",
    "SerialExecutor",
    "call_recorded",
    "check_options",
    "describe_error",
    "describe_jobs",
    "open_executor",
]

# workers that may die on one item before it is given up; nearly always the item is too large for them
ALLOWED_FAILURES = 3

_CONNECT_TIMEOUT_S = 10


@contextmanager
def open_executor(
    workers: int | None = None,
    scheduler: str | None = None,
    no_dask: bool = False,
    slurm: str | Path | None = None,
    *,
    out: Path | None = None,
    preload: Callable[[], object] | None = None,
    retries: int = RETRIES,
    allowed_failures: int = ALLOWED_FAILURES,
    memory_limit: float | None = None,
    when_worth: bool = False,
    announce: Callable[[str], object] | None = None,
) -> Iterator[Executor]:
    """Open the executor of the command line's cluster options, and close it again.

    Parameters
    ----------
    workers : int, optional
        Local worker processes of one thread each; one per core when left out.
    scheduler : str, optional
        Address of an existing Dask scheduler (``tcp://host:8786``); it is used and left running.
    no_dask : bool
        Run everything in this process.
    slurm : path, optional
        TOML file with the keys of `shutterless.workflows.execution.slurm.SlurmSettings`: workers are SLURM jobs.
    out : Path, optional
        Folder of the results, for the logs of SLURM jobs.
    preload : callable, optional
        As `Executor.prepare`; loads what every item needs, such as a model.
    retries : int
        How often an item is tried again after an `OSError`, with growing pauses.
    allowed_failures : int
        Number of local workers that may die on one item; after one more it is given up and recorded. SLURM jobs have
        a key for it; an existing scheduler has its own limit.
    memory_limit : float, optional
        Bytes of a local worker (without memory-mapped files) above which it is ended. When left out, half of the
        machine's memory, or all for a single worker.
    when_worth : bool
        Where no option says where the work runs, start local workers only once there is enough to do
        (`shutterless.workflows.execution.late_executor.LateExecutor`).
    announce : callable, optional
        Gets the number of workers and the address of Dask's dashboard in a line when workers have started.

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
    if when_worth and workers is None and scheduler is None and slurm is None:
        start = partial(
            open_executor, retries=retries, allowed_failures=allowed_failures, memory_limit=memory_limit,
            announce=announce,
        )  # fmt: skip
        with LateExecutor(start, count_cores(), retries=retries) as late:
            if preload is not None:
                late.prepare(preload)
            yield late
        return
    with _open_cluster(workers, scheduler, slurm, out, allowed_failures, memory_limit) as (client, options):
        if announce is not None:
            announce(describe_cluster(client))
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
        If they contradict each other.
    """
    if no_dask and (workers is not None or scheduler is not None or slurm is not None):
        raise ValueError("--no-dask runs in one process and takes neither --workers nor --scheduler nor --slurm")
    if scheduler is not None and workers is not None:
        raise ValueError("--scheduler uses the workers of that cluster; leave out --workers")
    if slurm is not None and (workers is not None or scheduler is not None):
        raise ValueError("--slurm starts its own scheduler and workers (jobs, cores); leave out the other option")
    if workers is not None and workers < 1:
        raise ValueError(f"--workers {workers}: at least one worker is needed; --no-dask runs without any")


def describe_jobs(slurm: str | Path, out: Path | None = None) -> tuple[str, int]:
    """Script of the jobs that ``--slurm`` would submit, and their number of workers; nothing is started."""
    from shutterless.workflows.execution.slurm import job_script, load_slurm

    settings = load_slurm(slurm, out)
    return job_script(settings, job_environment()), settings.jobs * settings.cores


def describe_cluster(client: Client) -> str:
    """Number of workers, and where to watch them: Dask's dashboard, which needs bokeh."""
    n_workers = len(client.scheduler_info(n_workers=-1)["workers"])
    where = client.dashboard_link if find_spec("bokeh") else "needs `pip install 'dask[diagnostics]'`"
    return f"{n_workers} Dask worker{'s' if n_workers != 1 else ''}; dashboard: {where}"


@contextmanager
def _open_cluster(
    workers: int | None,
    scheduler: str | None,
    slurm: str | Path | None,
    out: Path | None,
    allowed_failures: int,
    memory_limit: float | None,
) -> Iterator[tuple[Client, dict[str, Any]]]:
    """Client of the cluster, and the options of its `DaskExecutor`."""
    if slurm is not None:
        with _start_jobs(slurm, out) as (client, options):
            yield client, options
    elif scheduler is not None:
        with _connect(scheduler) as client:
            yield client, {}
    else:
        with start_local_workers(workers, allowed_failures, memory_limit) as client:
            yield client, {}


@contextmanager
def _connect(address: str) -> Iterator[Client]:
    from distributed import Client
    from distributed.utils import silence_logging_cmgr

    try:
        client = Client(address, timeout=_CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(f"no Dask scheduler answers at {address}: {describe_error(error)}") from error
    with silence_logging_cmgr(logging.CRITICAL), closing(client):  # a lost scheduler would print pages of tracebacks
        if not client.nthreads():
            raise ClusterError(f"the Dask scheduler at {address} has no workers; start some (dask worker {address})")
        yield client


@contextmanager
def _start_jobs(path: str | Path, out: Path | None) -> Iterator[tuple[Client, dict[str, Any]]]:
    import dask
    from distributed import Client

    from shutterless.workflows.execution.slurm import load_slurm, start_jobs

    settings = load_slurm(path, out)
    with (
        dask.config.set(dask_options(settings.allowed_failures)),
        start_jobs(settings, job_environment()) as (cluster, keeper),
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_worker_callbacks(guard_worker)
        yield client, {"keep_up": keeper, "patience_s": 3600 * settings.wait_hours}
