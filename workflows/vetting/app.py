"""Define the pages and requests of vetting: a page for each candidate, a label, an undo, and the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from shutterless.pipeline.results.labels import LabelError
from shutterless.workflows.pages.loopback import build_page_app, page_response
from shutterless.workflows.pages.page import fill_template
from shutterless.workflows.serving.app import read_body
from shutterless.workflows.serving.bodies import RequestError, parse_object
from shutterless.workflows.vetting.desk import CHOICES, CONFIDENCES, Desk, RefusedLabelError, count_labels

_LABEL_BYTES = 10_000


def build_vetting_app(desk: Desk, conclude: Callable[[], str]) -> FastAPI:
    """Build the application.

    Parameters
    ----------
    desk : Desk
    conclude : callable
        Says at the end how the vetter did.
    """
    app = build_page_app("vetting", (RefusedLabelError, RequestError, LabelError))

    @app.get("/")
    def start() -> Response:
        return RedirectResponse(_address(desk.next_open()))

    @app.get("/candidate/{number}")
    def show(number: int) -> Response:
        if not 1 <= number <= len(desk.queue):
            raise HTTPException(404, f"there is no candidate {number}, only 1 to {len(desk.queue)}")
        response = _show(desk, number - 1)
        response.background = BackgroundTask(desk.card, number % len(desk.queue))  # the next one is drawn meanwhile
        return response

    @app.post("/label")
    async def label(request: Request) -> Response:
        values = parse_object(await read_body(request, _LABEL_BYTES))
        return JSONResponse({"next": _address(await run_in_threadpool(desk.add, values))})

    @app.post("/undo")
    async def undo(request: Request) -> Response:
        parse_object(await read_body(request, _LABEL_BYTES))
        return JSONResponse({"next": _address(await run_in_threadpool(desk.undo))})

    @app.get("/end")
    def end() -> Response:
        is_done = desk.next_open() is None
        words = conclude() if is_done else "Some candidates have no label yet."
        return page_response(
            lambda nonce: fill_template("vetting_end.html", who=desk.who, words=words, is_done=is_done, nonce=nonce)
        )

    return app


def _address(place: int | None) -> str:
    return "/end" if place is None else f"/candidate/{place + 1}"


def _show(desk: Desk, place: int) -> Response:
    own, parts = desk.own_labels(), desk.card(place)
    name = desk.queue[place].name
    given = own[own["candidate_id"] == name]
    values: dict[str, Any] = {
        "who": desk.who,
        "name": name,
        "number": place + 1,
        "n": len(desk.queue),
        "n_done": len(own),
        "counts": count_labels(own),
        "given": None if given.empty else given.iloc[0].to_dict(),
        "choices": CHOICES,
        "confidences": CONFIDENCES,
        "parts": parts,
    }
    return page_response(lambda nonce: fill_template("vetting.html", nonce=nonce, **values))
