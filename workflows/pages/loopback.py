"""Serve pages to a browser on this machine, so that no page of another origin reads or changes anything.

Others cannot reach the port, since only the loopback address listens. A page elsewhere could still let the browser of
this machine ask: it may point a name of its own at 127.0.0.1 (DNS rebinding), or send a form here. So a request must
name this server as its host, and one that changes something must come from a page of this server.
"""

from __future__ import annotations

import ipaddress
import secrets
import signal
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK = "127.0.0.1"
_READING = ("GET", "HEAD")
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class AddressError(ValueError):
    """An address at which nothing can listen."""


@dataclass(frozen=True)
class Address:
    """Host and port of a server; port 0 is any free port."""

    host: str = LOOPBACK
    port: int = 8000


def listen(where: Address) -> socket.socket:
    """Open the socket of a server.

    Raises
    ------
    AddressError
        If the port is none, or something else listens there.
    """
    if not 0 <= where.port < 1 << 16:
        raise AddressError(f"port {where.port} is not one of 0 to 65535")
    try:
        family, *_, address = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise AddressError(f"cannot listen at {where.host}, port {where.port}: {error.strerror or error}") from error


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches a socket."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def run_until_signal(server: uvicorn.Server, listener: socket.socket) -> None:
    """Run a server until the process gets SIGTERM or SIGINT; requests in progress are finished."""
    # uvicorn ends gracefully and then raises the signal again, which is no failure
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def build_page_app(title: str, refused: Iterable[type[Exception]]) -> FastAPI:
    """Build an application without endpoints, which answers errors of some kinds with their reason.

    Parameters
    ----------
    title : str
    refused : iterable of type
        Kinds of errors; the status of an answer is ``error.status``, 500 without one.
    """
    app = FastAPI(title=title, docs_url=None, redoc_url=None, openapi_url=None)
    for kind in (*refused, HTTPException):
        app.add_exception_handler(kind, _refuse)
    return app


async def _refuse(_: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else getattr(error, "status", 500)
    reason = error.detail if isinstance(error, HTTPException) else str(error)
    return JSONResponse({"error": str(reason)}, status)


def serve_pages(build: Callable[[], FastAPI], port: int, announce: Callable[[str], None]) -> None:
    """Serve an application to the browsers of this machine until the process gets a signal to end.

    Parameters
    ----------
    build : callable
        Makes the application, once the port is known to be free.
    port : int
        0 takes a free one.
    announce : callable
        Gets the address of the page.

    Raises
    ------
    AddressError
        As `listen`.
    """
    with listen(Address(LOOPBACK, port)) as listener:
        found = listener.getsockname()[1]
        app = protect(build(), found)
        announce(f"http://{LOOPBACK}:{found}/")
        config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False)
        run_until_signal(uvicorn.Server(config), listener)


def protect(app: ASGIApp, port: int) -> ASGIApp:
    """Put the checks of hosts and origins before an application.

    A request whose ``Host`` is not this server is refused (421). One that is no GET is refused (403) unless its
    ``Origin`` is this server, and (415) unless it is JSON, which no form sends.
    """
    hosts = {f"{name}:{port}" for name in (LOOPBACK, "localhost")}

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        refusal = _find_fault(scope["method"], Headers(scope=scope), hosts)
        if refusal is not None:
            await JSONResponse({"error": refusal[1]}, refusal[0], _HEADERS)(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        await app(scope, receive, send_with_headers)

    return checked


def _find_fault(method: str, headers: Headers, hosts: set[str]) -> tuple[int, str] | None:
    """Status and reason with which a request is refused."""
    if headers.getlist("host") not in [[host] for host in hosts]:
        return 421, f"the host {', '.join(headers.getlist('host'))!a} is not this server; open {min(hosts)}"
    if method in _READING:
        return None
    if headers.get("origin") not in {f"http://{host}" for host in hosts}:
        return 403, f"the origin {headers.get('origin')!a} is no page of this server"
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return 415, f"Content-Type is {headers.get('content-type', '')!a}; application/json is expected"
    return None


def page_response(render: Callable[[str], str], status: int = 200) -> HTMLResponse:
    """Answer with a page that runs its own script alone and loads nothing from elsewhere.

    Parameters
    ----------
    render : callable
        Makes the page from the nonce that its ``<script>`` must have.
    status : int
    """
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(render(nonce), status, {"Content-Security-Policy": policy})
