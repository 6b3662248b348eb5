"""Serve the page on which a person draws boxes on images: the command ``shutterless boxes label``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from shutterless.pipeline.reading.fits_files import FrameError
from shutterless.workflows.boxes.desk import BoxDesk, RefusedBoxError
from shutterless.workflows.boxes.labels import BoxLabelError
from shutterless.workflows.pages.loopback import build_page_app, page_response, serve_pages
from shutterless.workflows.pages.page import fill_template
from shutterless.workflows.serving.app import read_body
from shutterless.workflows.serving.bodies import RequestError, parse_object

_MOST_BYTES = 4_000_000
USUAL_KINDS = ("echo", "trail", "ghost", "artefact")


def label_images(
    images: Sequence[Path],
    *,
    out: Path,
    announce: Callable[[str], None],
    kinds: Sequence[str] = USUAL_KINDS,
    port: int = 0,
) -> None:
    """Serve images to draw boxes on until the process gets a signal to end.

    Parameters
    ----------
    images : sequence of Path
        Two-dimensional FITS images.
    out : Path
        Folder of the labels; those that it holds are shown and can be changed.
    announce : callable
        Gets the line with the address of the page.
    kinds : sequence of str
        Names of objects, by the keys 1, 2, ….
    port : int
        0 takes a free one.

    Raises
    ------
    BoxLabelError
        As `shutterless.workflows.boxes.desk.BoxDesk.open`.
    AddressError
        If nothing can listen at the port.
    """
    desk = BoxDesk.open(images, out, kinds)
    serve_pages(
        lambda: build_box_app(desk), port, lambda address: announce(f"{len(images)} images to label at {address}")
    )


def build_box_app(desk: BoxDesk) -> FastAPI:
    """Build the application: a page and a picture for each image, and the boxes that a page sends."""
    app = build_page_app("boxes", (RefusedBoxError, RequestError, BoxLabelError, FrameError))

    @app.get("/")
    def start() -> Response:
        unseen = (k for k, path in enumerate(desk.images) if path not in desk.boxes)
        return RedirectResponse(f"/image/{next(unseen, 0) + 1}")

    @app.get("/image/{number}")
    def show(number: int) -> Response:
        place = _check(desk, number)
        values = {"name": desk.images[place].name, "number": number, "n": len(desk.images), "state": desk.state(place)}
        return page_response(lambda nonce: fill_template("boxes.html", nonce=nonce, **values))

    @app.get("/image/{number}/picture.png")
    def picture(number: int) -> Response:
        return Response(desk.picture(_check(desk, number)), media_type="image/png")

    @app.post("/boxes")
    async def keep(request: Request) -> Response:
        values = parse_object(await read_body(request, _MOST_BYTES))
        return JSONResponse({"n": await run_in_threadpool(desk.keep, values)})

    return app


def _check(desk: BoxDesk, number: int) -> int:
    if not 1 <= number <= len(desk.images):
        raise HTTPException(404, f"there is no image {number}, only 1 to {len(desk.images)}")
    return number - 1
