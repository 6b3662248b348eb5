"""Run a server's worker processes: one scores strips, others search files, each with its own copy of the model.

The server's own process holds strips only as bytes, and no pixels. A request that takes too long, needs too much memory
or crashes ends its worker, and a new worker takes its place.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shutterless.workflows.serving.bodies import RequestError, parse_object, read_strips, table_records, to_json
from shutterless.workflows.serving.limits import Limits, SearchRequest

if TYPE_CHECKING:
    from shutterless.pipeline.tokens import TokenGrid
    from shutterless.workflows.searching.detect import Detector
    from shutterless.workflows.serving.tasks import SearchOptions

_REASON_LENGTH = 2000
_END_S = 5.0  # for a worker to end by itself

log = logging.getLogger("shutterless.serve")


class WorkerError(OSError):
    """A worker that does not start; the message gives the reason."""


@dataclass(frozen=True)
class Reply:
    """Status and body of an answer; the body of a refusal is the reason."""

    status: int
    body: bytes


@dataclass(frozen=True)
class WorkerSetup:
    """Arguments of a model's worker.

    Parameters
    ----------
    address : str
        Address of the model, as in answers.
    detector : Detector
    options : SearchOptions
    limits : Limits
    about : dict
        The model's entry in every answer.
    """

    address: str
    detector: Detector
    options: SearchOptions
    limits: Limits
    about: dict[str, Any]


class Scorer:
    """Scores strips, in a worker."""

    def __init__(self, setup: WorkerSetup) -> None:
        from shutterless.models.families import load_model
        from shutterless.workflows.serving.tasks import check_model

        assert setup.detector.folder is not None, "the template bank scores no strips"
        self._setup = setup
        self._model = load_model(setup.detector.folder)
        check_model(self._model)

    def answer(self, body: bytes) -> bytes:
        """Scores as JSON of the strips in a JSON object."""
        from shutterless.models.scoring import score_strips

        values = parse_object(body)
        strips = read_strips(values, self._setup.limits.max_strips)
        batch_size = self._setup.options.settings.batch_size
        scores = score_strips(self._model, strips, batch_size, grid=_read_grid(values.get("grid")))
        return to_json({"model": self._setup.about, "scores": table_records(scores)})


class Searcher:
    """Searches files, in a worker."""

    def __init__(self, setup: WorkerSetup) -> None:
        from shutterless.workflows.searching.segment_search import warm_up
        from shutterless.workflows.serving.tasks import check_threshold

        self._setup = setup
        check_threshold(setup.detector, setup.options)
        warm_up(setup.detector)

    def answer(self, request: tuple[SearchRequest, str]) -> bytes:
        """Candidates as JSON of the files in a request; the tables of the search go to a folder."""
        from shutterless.workflows.serving.tasks import search_request

        asked, out = request
        setup, started = self._setup, time.monotonic()
        result = search_request(
            asked, setup.address, setup.detector, setup.options, setup.limits.max_rows, Path(out)
        )  # fmt: skip
        finite = abs(result.threshold) < float("inf")
        answer = {
            "model": setup.about,
            "threshold": result.threshold if finite else None,
            "candidates": table_records(result.candidates),
            "failures": table_records(result.failures),
            "warnings": list(result.warnings),
            "instruments": list(result.instruments),
            "seconds": round(time.monotonic() - started, 3),
        }
        return to_json(answer)


def _read_grid(values: Any) -> TokenGrid | None:
    from shutterless.pipeline.tokens import TokenGrid

    if not isinstance(values, dict | None):
        raise RequestError(f"grid is {values!a}; an object such as that of GET /version is expected")
    return None if values is None else TokenGrid(**values)


class Worker:
    """One worker process, from the server's side. Threads that send requests wait for their turn.

    Parameters
    ----------
    role : type
        `Scorer` or `Searcher`.
    setup : WorkerSetup
    """

    def __init__(self, role: type[Scorer] | type[Searcher], setup: WorkerSetup) -> None:
        self._role, self._setup = role, setup
        self._turn = threading.Lock()
        self._closed = False
        self._spawn()

    @property
    def process_id(self) -> int | None:
        """Id of the present process."""
        return self._process.pid

    def start(self, timeout_s: float) -> None:
        """Wait until the worker is ready.

        Raises
        ------
        WorkerError
            If its model cannot be used, or it is not ready in time.
        """
        with self._turn:
            self._await_ready(time.monotonic() + timeout_s)

    def ask(self, payload: Any, timeout_s: float) -> Reply:
        """Answer to a request. A worker that takes too long or dies is replaced, and the reply states it."""
        deadline = time.monotonic() + timeout_s
        if not self._turn.acquire(timeout=timeout_s):
            return Reply(504, f"no answer within {timeout_s:g} s: others came first".encode())
        try:
            self._await_ready(deadline)
            self._pipe.send(payload)
            if not self._pipe.poll(max(deadline - time.monotonic(), 0)):
                self._replace()
                return Reply(504, f"no answer within {timeout_s:g} s; ask for less at a time".encode())
            return self._pipe.recv()
        except WorkerError as error:
            return Reply(503, str(error).encode())
        except (EOFError, OSError):
            return Reply(500, f"the process that worked on this ended{self._describe_end()}".encode())
        finally:
            self._turn.release()

    def close(self) -> None:
        """End the process at once."""
        self._closed = True
        self._process.kill()
        self._process.join(_END_S)
        with self._turn:
            self._pipe.close()

    def _spawn(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self._pipe, theirs = context.Pipe()
        self._ready = self._failed = False
        self._process: BaseProcess = context.Process(
            target=_run_worker, args=(theirs, self._role, self._setup), daemon=True, name=self._role.__name__
        )
        self._process.start()
        theirs.close()

    def _await_ready(self, deadline: float) -> None:
        if self._failed or (self._ready and not self._process.is_alive()):
            self._replace()
        if self._ready:
            return
        if not self._pipe.poll(max(deadline - time.monotonic(), 0)):
            raise WorkerError("the model is still being loaded")
        try:
            reason = self._pipe.recv()
        except (EOFError, OSError):
            raise WorkerError(f"the process that loaded the model ended{self._describe_end()}") from None
        self._ready, self._failed = reason is None, reason is not None
        if self._failed:
            raise WorkerError(reason)

    def _describe_end(self) -> str:
        """How the process ended; a process that ended by itself is replaced."""
        self._process.join(_END_S)
        code = self._process.exitcode or 0
        self._replace()
        return f" with signal {signal.Signals(-code).name}" if code < 0 else f" with exit code {code}"

    def _replace(self) -> None:
        self._process.kill()
        self._process.join(_END_S)
        self._pipe.close()
        if not self._closed:
            self._spawn()


class WorkerTeam:
    """Equal workers; each request takes a free one."""

    def __init__(self, workers: list[Worker]) -> None:
        self.workers = workers
        self._free = list(workers)
        self._lock = threading.Lock()

    def ask(self, payload: Any, timeout_s: float) -> Reply:
        """As `Worker.ask`; there are never more requests at a time than workers."""
        with self._lock:
            worker = self._free.pop()
        try:
            return worker.ask(payload, timeout_s)
        finally:
            with self._lock:
                self._free.append(worker)


@contextmanager
def search_payload(request: SearchRequest) -> Iterator[tuple[SearchRequest, str]]:
    """Request to a `Searcher`. Its folder is deleted after the answer, even if the worker was killed."""
    with tempfile.TemporaryDirectory(prefix="shutterless-") as out:
        yield request, out


def _run_worker(pipe: Connection, role: type[Scorer] | type[Searcher], setup: WorkerSetup) -> None:
    """Body of a worker process: load, report whether it is ready, answer until the server closes the pipe."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a terminal sends them to all processes; the server ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    try:
        worker = role(setup)
    except Exception as error:  # the server reports whatever a broken model raises
        pipe.send(_describe(error))
        return
    pipe.send(None)
    while True:
        try:
            payload = pipe.recv()
        except EOFError:
            return
        pipe.send(_reply(worker, payload))


def _reply(worker: Scorer | Searcher, payload: Any) -> Reply:
    try:
        return Reply(200, worker.answer(payload))
    except RequestError as error:
        return Reply(error.status, _encode(error))
    except ValueError as error:
        return Reply(422, _encode(error))
    except MemoryError:
        return Reply(413, b"this needs more memory than there is; ask for less at a time")
    except Exception as error:
        log.exception("a request failed")
        return Reply(500, f"{type(error).__name__}: ".encode() + _encode(error))


def _describe(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _REASON_LENGTH else f"{text[:_REASON_LENGTH]}…"


def _encode(error: BaseException) -> bytes:
    return _describe(error).encode("utf-8", "backslashreplace")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
