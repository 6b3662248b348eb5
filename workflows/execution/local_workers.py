"""Start Dask workers on this machine, with the Dask configuration and environment that workers in jobs get, too."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shutterless.workflows.execution.executors import ClusterError
from shutterless.workflows.execution.retries import describe_error
from shutterless.workflows.execution.workers import guard_worker, start_resource_tracker

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

_START_ATTEMPTS = 3
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")

# Dask spills, pauses and kills by resident memory. That counts every page of a memory-mapped store that was read,
# although the kernel takes these back when needed. So a worker that reads a large store would be stopped without
# reason, and a paused worker never resumes, because it holds nothing to spill. All of that is off; the guard of
# `shutterless.workflows.execution.workers` counts only a worker's own memory.
_MEMORY_THRESHOLDS = ("target", "spill", "pause", "terminate")


@contextmanager
def start_local_workers(workers: int | None, allowed_failures: int, memory_limit: float | None) -> Iterator[Client]:
    """Start worker processes of one thread each on this machine, and end them again.

    Parameters
    ----------
    workers : int, optional
        One per core when left out.
    allowed_failures, memory_limit
        As `shutterless.workflows.execution.cluster.open_executor`.

    Raises
    ------
    ClusterError
        If they do not start.
    """
    import dask
    from distributed import Client
    from distributed.system import MEMORY_LIMIT

    n_workers = workers or count_cores()
    start_resource_tracker()
    environment = {"distributed.nanny.pre-spawn-environ": dict.fromkeys(_THREAD_VARIABLES, 1)}
    with _keep_environment(), dask.config.set({**environment, **dask_options(allowed_failures)}):
        cluster = _start_cluster(
            # started by spawn: two workers start in 0.5 s, against 0.95 s by forkserver, and a fork of this
            # process with its threads can hang
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            # a worker may use memory that the others leave, but it ends before the machine swaps
            memory_limit=int(memory_limit or MEMORY_LIMIT / min(n_workers, 2)),
            dashboard_address="127.0.0.1:0",  # None would use port 8787 and warn if it is taken
            silence_logs=logging.CRITICAL,
        )
        with cluster, Client(cluster, set_as_default=False) as client:
            client.register_worker_callbacks(guard_worker)
            yield client


def count_cores() -> int:
    """Cores that this process may use."""
    from dask.system import CPU_COUNT

    return CPU_COUNT


def _start_cluster(**options: Any) -> LocalCluster:
    """Start workers. Try again if one was killed during its start: Dask then gives all of them up."""
    from distributed import LocalCluster

    attempts = 0
    while True:
        try:
            return LocalCluster(**options)
        except (OSError, RuntimeError) as error:
            attempts += 1
            if attempts == _START_ATTEMPTS:
                raise ClusterError(f"local workers did not start: {describe_error(error)}; try --no-dask") from error


def dask_options(allowed_failures: int) -> dict[str, Any]:
    """Configuration of Dask for the scheduler and the workers that this process starts."""
    return {
        # tasks wait at the scheduler, so that a dying worker loses only its running task
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.scheduler.allowed-failures": allowed_failures,
        # 15 s after a worker died Dask ends its nanny (or cancels its job) if the worker is absent at that moment,
        # even if it had come back, died again and is just being started
        "distributed.deploy.lost-worker-timeout": "1000 days",
        **{f"distributed.worker.memory.{name}": False for name in _MEMORY_THRESHOLDS},
    }


def job_environment() -> dict[str, str]:
    """What `start_local_workers` sets, as environment variables."""
    memory = {f"DASK_DISTRIBUTED__WORKER__MEMORY__{name.upper()}": "False" for name in _MEMORY_THRESHOLDS}
    return {**dict.fromkeys(_THREAD_VARIABLES, "1"), **memory}


@contextmanager
def _keep_environment() -> Iterator[None]:
    """Restore this process's environment after workers have started.

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
