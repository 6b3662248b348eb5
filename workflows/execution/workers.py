"""Prepare a worker process, run its items, and end it in time.

Dask sends the functions to workers by name; they need no executor there.
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
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from shutterless.workflows.execution.garbage import collect_less_often
from shutterless.workflows.execution.retries import Item, ItemOutcome, Value, describe_error, pause_before, try_item

if TYPE_CHECKING:
    from distributed import Worker, WorkerPlugin

_MEMORY_EVERY_S = 0.2
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_UNPREPARED: set[str] = set()  # preparations that failed in this worker


def make_preparation(function: Callable[[], object], name: str) -> WorkerPlugin:
    """Plugin that prepares workers. The class is defined here so that commands without Dask do not import it."""
    from distributed import WorkerPlugin

    class Preparation(WorkerPlugin):
        async def setup(self, worker: Worker) -> None:
            await _prepare_worker(worker, function, name)

        def teardown(self, worker: Worker) -> None:
            _forget_preparation(name)

    return Preparation()


async def _prepare_worker(worker: Worker, function: Callable[[], object], name: str) -> None:
    """Call the function in the thread that will run the items; a worker starts no item before."""
    try:
        await asyncio.get_running_loop().run_in_executor(worker.executors["default"], function)
    except Exception as error:
        _UNPREPARED.add(name)
        worker.log_event(name, (worker.address, describe_error(error)))
        raise  # Dask records it and raises it in the driver, in `DaskExecutor.prepare`


def _forget_preparation(name: str) -> None:
    _UNPREPARED.discard(name)


def try_in_worker(
    preparations: Iterable[str], function: Callable[[Item], Value], item: Item, pause_s: float
) -> tuple[ItemOutcome[Item, Value], float]:
    """`try_item`, except that a worker whose preparation failed gives the item back until it is removed."""
    if not _UNPREPARED.isdisjoint(preparations):
        from distributed import Reschedule

        time.sleep(pause_before(1))
        raise Reschedule
    return try_item(function, item, pause_s)


def guard_worker(dask_worker: Worker) -> None:
    """End a worker with the process that started it, and when it exceeds its memory; on Linux."""
    collect_less_often()
    if sys.platform == "linux":
        _end_with_parent()
        if limit := dask_worker.memory_manager.memory_limit:
            threading.Thread(target=_end_above, args=(limit,), name="memory guard", daemon=True).start()


def _end_with_parent() -> None:
    """Ask the kernel for a SIGKILL when the parent dies.

    Dask ends orphans from a thread, which waits while compiled code holds the interpreter's lock: for hours at worst.
    """
    parent = multiprocessing.parent_process()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and parent.pid != os.getppid():  # the parent died before
        os._exit(1)


def _end_above(limit: int) -> None:
    while (own := own_memory()) <= limit:
        time.sleep(_MEMORY_EVERY_S)
    logging.getLogger("distributed.worker").error("worker ended: it has %.3g bytes, the limit is %.3g", own, limit)
    os._exit(1)


def own_memory() -> int:
    """Resident bytes of this process, without pages of files, which the kernel can take back."""
    _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def start_resource_tracker() -> None:
    """Start the process with which multiprocessing tracks shared memory, and keep the blocked signals blocked.

    Its start unblocks SIGINT in this thread. Processes that are spawned later would each print a traceback at Ctrl-C.
    """
    if not hasattr(signal, "pthread_sigmask"):
        return
    from multiprocessing import resource_tracker

    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
