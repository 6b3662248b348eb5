"""Define the endpoints of the scoring server: read a request, refuse it or pass it to a worker, answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from shutterless.workflows.serving.bodies import RequestError, parse_object
from shutterless.workflows.serving.limits import Limits, SearchRequest
from shutterless.workflows.serving.models import ModelKeeper
from shutterless.workflows.serving.page import ERRORS, HEALTH, SCORE, SEARCH, VERSION, render_page
from shutterless.workflows.serving.worker import Reply, search_payload

SCORES_WAITING = 8  # most bodies of strips in memory at a time
MODEL_HEADER = "X-Shutterless-Model"
_SEARCH_BYTES = 1_000_000
_BODY_S = 60.0  # longest time for a body to arrive
_PAUSE_S, _LEAST_BYTES_S = 5.0, 20_000  # longest pause in a body, and its slowest rate after so long
_ENDS_CONNECTION = (408, 413)  # else the rest of the body is read for as long as it comes
_LINGER_S, _LINGER_BYTES = 2.0, 256_000_000  # of a refused body are read, or its sender never sees why

log = logging.getLogger("shutterless.serve")


class Admission:
    """Lets a number of requests through at a time and refuses the others."""

    def __init__(self, what: str, limit: int, retry_after_s: int) -> None:
        self.inside = 0
        self._what, self._limit, self._retry_after_s = what, limit, retry_after_s

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Count one request while the block lasts.

        Raises
        ------
        RequestError
            If there are as many requests already.
        """
        if self.inside >= self._limit:
            raise RequestError(f"{self.inside} {self._what} already; try again later", 503, self._retry_after_s)
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


class BodyMemory:
    """Counts the bytes of all bodies in memory, and refuses more than a number of them."""

    def __init__(self, limit: int) -> None:
        self.held = 0
        self._limit = limit

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """Yield what counts the bytes of one body as they arrive; they are given back at the end of the block.

        Raises
        ------
        RequestError
            If all bodies together would be too large.
        """
        own = 0

        def take(n_bytes: int) -> None:
            nonlocal own
            if self.held + n_bytes > self._limit:
                raise RequestError(f"bodies of {self.held:,} bytes are in memory already; try again later", 503, 1)
            self.held += n_bytes
            own += n_bytes

        try:
            yield take
        finally:
            self.held -= own


class ScoringService:
    """The work behind the endpoints, apart from HTTP.

    Parameters
    ----------
    keeper : ModelKeeper
    limits : Limits
    n_searches : int
        Number of searches at the same time.
    """

    def __init__(self, keeper: ModelKeeper, limits: Limits, n_searches: int = 1) -> None:
        self.keeper, self.limits = keeper, limits
        self.scoring = Admission("requests are being scored or wait for it", SCORES_WAITING, 1)
        self.bodies = BodyMemory(SCORES_WAITING * limits.max_bytes)
        self.searching = Admission("searches are running", n_searches, 10)
        self._threads = ThreadPoolExecutor(SCORES_WAITING + n_searches + 2, thread_name_prefix="serve")

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a blocking function in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *arguments))

    async def score(self, request: Request) -> Response:
        """Scores of the strips in the body of a request."""
        with self.keeper.lease() as model, self.bodies.share() as take:
            body = await read_body(request, self.limits.max_bytes, take)
            if model.scorer is None:
                return _answer(
                    model, Reply(422, f"{model.address} scores no strips; POST /search takes files".encode())
                )
            with self.scoring.enter():  # not before: who sends slowly would keep others out
                return _answer(model, await self.run(model.scorer.ask, body, self.limits.timeout_s))

    async def search(self, request: Request) -> Response:
        """Candidates of the files that a request names."""
        body = await read_body(request, min(self.limits.max_bytes, _SEARCH_BYTES))
        wanted = await self.run(lambda: SearchRequest.parse(parse_object(body), self.limits.allowed))
        with self.keeper.lease() as model, self.searching.enter(), search_payload(wanted) as payload:
            return _answer(model, await self.run(model.searcher.ask, payload, self.limits.timeout_s))

    def health(self) -> JSONResponse:
        """Whether a model is ready, the requests in progress, and why a newer model was refused."""
        model, keeper = self.keeper.current, self.keeper
        state = {
            "status": "starting" if model is None else "ready",
            "model": None if model is None else model.address,
            "problem": keeper.problem,
            "checked": keeper.checked,
            "scoring": self.scoring.inside,
            "searching": self.searching.inside,
        }
        return JSONResponse(state, 503 if model is None else 200)

    def version(self) -> JSONResponse:
        """The model and version in use, since when, and the limits."""
        with self.keeper.lease() as model:
            limits = {name: getattr(self.limits, name) for name in ("max_bytes", "max_strips", "max_rows", "timeout_s")}
            about = {**model.about, "since": self.keeper.since, "searches": model.searcher is not None}
            return JSONResponse({**about, "limits": limits})


def build_app(
    service: ScoringService, first: tuple[str, Path | None], refresh_s: float, on_failure: Callable[[Exception], None]
) -> FastAPI:
    """Build the application.

    Parameters
    ----------
    service : ScoringService
    first : (str, Path or None)
        Address and folder of the first model.
    refresh_s : float
        Seconds between two looks at the alias.
    on_failure : callable
        Gets the error if that model cannot be used.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_keep(service, first, refresh_s, on_failure))
        yield
        task.cancel()
        service.keeper.close()

    app = FastAPI(title="shutterless", lifespan=lifespan, docs_url=None, redoc_url=None)
    _add_endpoints(app, service)
    app.add_exception_handler(RequestError, _refuse)
    app.add_exception_handler(HTTPException, _refuse)
    app.add_exception_handler(Exception, _fail)
    return app


def _add_endpoints(app: FastAPI, service: ScoringService) -> None:
    @app.get("/health", summary="Whether a model is ready", responses=HEALTH)
    async def health() -> Response:
        return service.health()

    @app.get("/version", summary="Which model answers, since when, within which limits", responses=VERSION)
    async def version() -> Response:
        return service.version()

    @app.post("/score", summary="Score strips", openapi_extra=SCORE, responses=ERRORS)
    async def score(request: Request) -> Response:
        return await service.score(request)

    @app.post("/search", summary="Search FITS files", openapi_extra=SEARCH, responses=ERRORS)
    async def search(request: Request) -> Response:
        return await service.search(request)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        policy = "default-src 'none'; style-src 'unsafe-inline'"  # the page holds its style and loads nothing
        return HTMLResponse(render_page(app.openapi()), headers={"Content-Security-Policy": policy})


async def _keep(
    service: ScoringService, first: tuple[str, Path | None], refresh_s: float, on_failure: Callable[[Exception], None]
) -> None:
    try:
        await service.run(service.keeper.start, *first)
    except Exception as error:  # the server ends with it
        on_failure(error)
        return
    while service.keeper.source.follows:
        await asyncio.sleep(refresh_s)
        await service.run(service.keeper.refresh)


async def read_body(request: Request, max_bytes: int, take: Callable[[int], None] = lambda _: None) -> bytes:
    """Read the body of a request; refuse it as soon as it is known to be too large.

    Raises
    ------
    RequestError
        If it is too large, takes too long, or its content type or length is none.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(f"Content-Type is {kind!r}; application/json is expected", 415)
    stream = request.stream()
    try:
        async with asyncio.timeout(_BODY_S):
            return await _collect(stream, _announced_bytes(request), max_bytes, take)
    except TimeoutError:
        raise RequestError(
            f"the body did not arrive within {_BODY_S:g} s, at {_LEAST_BYTES_S} bytes/s and without a pause of "
            f"{_PAUSE_S:g} s", 408,
        ) from None  # fmt: skip
    except ClientDisconnect:
        raise RequestError("the client went away before all of the body was sent", 400) from None
    except RequestError:
        await _discard(stream)
        raise


def _announced_bytes(request: Request) -> int:
    text = request.headers.get("content-length", "0")
    if not (text.isascii() and text.isdecimal()):
        raise RequestError(f"Content-Length is {text!a}; a number of bytes is expected", 400)
    return int(text)


async def _collect(stream: AsyncIterator[bytes], announced: int, max_bytes: int, take: Callable[[int], None]) -> bytes:
    too_large = RequestError(f"the body has more than the {max_bytes} bytes of one request; send it in parts", 413)
    if announced > max_bytes:
        raise too_large
    body = bytearray()
    clock = asyncio.get_running_loop().time
    started = clock()
    while True:
        async with asyncio.timeout(_PAUSE_S):
            chunk = await anext(stream, None)
        if chunk is None:
            return bytes(body)
        body += chunk
        if len(body) > max_bytes:
            raise too_large
        take(len(chunk))
        if len(body) < _LEAST_BYTES_S * (clock() - started - _PAUSE_S):
            raise TimeoutError


async def _discard(stream: AsyncIterator[bytes]) -> None:
    n_bytes = 0
    try:
        async with asyncio.timeout(_LINGER_S):
            async for chunk in stream:
                n_bytes += len(chunk)
                if n_bytes > _LINGER_BYTES:
                    return
    except (TimeoutError, ClientDisconnect):
        return


def _answer(model: Any, reply: Reply) -> Response:
    """HTTP answer from a worker's reply, with the name of the model behind it."""
    headers = {MODEL_HEADER: quote(model.address, safe="/:@ ()")}
    if reply.status == 200:
        return Response(reply.body, media_type="application/json", headers=headers)
    body = {"error": reply.body.decode(), "model": model.about}
    if reply.status == 503:
        headers["Retry-After"] = "5"
    return JSONResponse(body, reply.status, headers)


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError | HTTPException)
    if isinstance(error, HTTPException):
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)
    headers = {"Connection": "close"} if error.status in _ENDS_CONNECTION else {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    return JSONResponse({"error": str(error)}, error.status, headers)


async def _fail(_: Request, error: Exception) -> Response:
    log.error("a request failed: %s: %s", type(error).__name__, error)
    return JSONResponse({"error": f"{type(error).__name__} in the server; see its log"}, 500)
