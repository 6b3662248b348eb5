"""Run the scoring server: strips or FITS files in, scores or candidates out, over HTTP."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import uvicorn

from shutterless.workflows.execution.workers import start_resource_tracker
from shutterless.workflows.pages.loopback import Address, is_loopback, listen, run_until_signal
from shutterless.workflows.serving.app import ScoringService, build_app
from shutterless.workflows.serving.limits import LimitError, Limits
from shutterless.workflows.serving.models import ModelKeeper, ServeError, Source
from shutterless.workflows.serving.tasks import SearchOptions
from shutterless.workflows.tracking.tracking import Tracking

_CONNECTIONS = 256


def serve_model(
    reference: str,
    tracking: Callable[[], Tracking],
    where: Address,
    limits: Limits,
    options: SearchOptions,
    *,
    n_searches: int = 1,
    refresh_s: float = 10.0,
    quiet: bool = False,
) -> None:
    """Serve a model until the process gets a signal to end; requests in progress are finished.

    Parameters
    ----------
    reference : str
        A model as for the commands. The server follows ``models:/NAME@ALIAS`` when the alias moves.
    tracking : callable
        Opens the tracking store; called if the model is in a registry.
    where : Address
    limits : Limits
    options : SearchOptions
    n_searches : int
        Number of searches at the same time.
    refresh_s : float
        Seconds between two looks at the alias.
    quiet : bool
        Print errors only.

    Raises
    ------
    ServeError, TrackingError
        If there is no such model, or it cannot be used.
    LimitError, AddressError
        If a number is out of range, or the address cannot be used.
    """
    if n_searches < 1 or not refresh_s > 0:
        raise LimitError(f"searches = {n_searches} and refresh = {refresh_s} must be positive")
    store = tracking() if reference.startswith("models:/") else None
    source = Source(reference, store, limits, options, n_searches)
    address = source.find_address()
    first = address, source.find_folder(address)
    listener = listen(where)
    with listener:
        port = listener.getsockname()[1]
        if not is_loopback(listener):
            print(
                f"warning: {where.host} is open to other machines and there is no authentication: whoever reaches "
                f"port {port} can use this server",
                file=sys.stderr,
                flush=True,
            )
        _log_to_stderr(logging.WARNING if quiet else logging.INFO)
        if not quiet:
            print(f"serving {address} at http://{_in_url(where.host)}:{port}", flush=True)
        _run(source, first, refresh_s, listener)


def _run(source: Source, first: tuple[str, Path | None], refresh_s: float, listener: socket.socket) -> None:
    failures: list[Exception] = []

    def give_up(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    start_resource_tracker()
    service = ScoringService(ModelKeeper(source), source.limits, source.n_searches)
    app = build_app(service, first, refresh_s, give_up)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, limit_concurrency=_CONNECTIONS, lifespan="on"
    )
    server = uvicorn.Server(config)
    run_until_signal(server, listener)
    if failures:
        raise ServeError(str(failures[0])) from failures[0]


def _log_to_stderr(level: int) -> None:
    log = logging.getLogger("shutterless.serve")
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(handler)
    log.setLevel(level)
    log.propagate = False


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
