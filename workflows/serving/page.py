"""Describe a scoring server: schemas of its endpoints, and a page of them that loads nothing from elsewhere."""

from __future__ import annotations

from typing import Any

from shutterless.pipeline.tokens import STRIP_ARRAYS
from shutterless.workflows.pages.page import fill_template

_SHAPES = {
    "patches": "(b, n, d) residuals in σ, patch by patch; masked pixels are 0",
    "context": "(b, n, r) shared row residual of each of a patch's rows",
    "profile": "(b, y x) baseline under the strip in units of the sky noise",
    "features": "(b, f) measurements of the trigger by stage 1",
    "mask": "(b, n) false where a patch holds no valid pixel",
}


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _response(what: str) -> dict[str, Any]:
    return {"description": what}


_ERROR = {"description": "", "content": {"application/json": {"schema": {
    "type": "object",
    "properties": {"error": {"type": "string", "description": "what is wrong, and the way out"}},
    "required": ["error"],
}}}}  # fmt: skip

SCORE = _body(
    {
        "type": "object",
        "description": "Strips; without the first axis of every array it is a single one.",
        "properties": {
            **{name: {"type": "array", "items": {}, "description": _SHAPES[name]} for name in STRIP_ARRAYS},
            "grid": {"type": "object", "description": "token grid the strips were cut with, compared with the model's"},
        },
        "required": list(STRIP_ARRAYS),
    }
)
SEARCH = _body(
    {
        "type": "object",
        "description": "FITS files to search.",
        "properties": {
            "path": {"type": "string", "description": "one file, in an allowed folder"},
            "paths": {"type": "array", "items": {"type": "string"}, "description": "or several"},
            "quadrant": {"type": "integer", "minimum": 1, "description": "one amplifier of each; default: all"},
            "false_alarms_per_hour": {
                "type": "number",
                "exclusiveMinimum": 0,
                "description": "per amplifier-hour, at which to cut",
            },
        },
        "additionalProperties": False,
    }
)
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {**_ERROR, "description": what}
    for status, what in (
        (400, "not JSON, or a key or value that is not known"),
        (403, "a file outside of the allowed folders"),
        (408, "the body did not arrive in time"),
        (413, "too many bytes, strips or rows"),
        (415, "the content type is not JSON"),
        (422, "strips that do not fit the model, or files that cannot be read"),
        (503, "busy, or not ready yet: see Retry-After"),
        (504, "took too long"),
    )
}
HEALTH: dict[int | str, dict[str, Any]] = {503: _response("no model is ready yet")}
VERSION: dict[int | str, dict[str, Any]] = {503: {**_ERROR, "description": "no model is ready yet"}}


def render_page(openapi: dict[str, Any]) -> str:
    """HTML list of the endpoints, made from their OpenAPI description."""
    endpoints = [
        {"method": method.upper(), "path": path, "summary": about["summary"], "body": _describe_body(about)}
        for path, methods in openapi["paths"].items()
        for method, about in methods.items()
    ]
    return fill_template("serving.html", title=f"{openapi['info']['title']} scoring server", endpoints=endpoints)


def _describe_body(about: dict[str, Any]) -> dict[str, str]:
    """Meaning of each key of the body; empty without a body."""
    if "requestBody" not in about:
        return {}
    keys = about["requestBody"]["content"]["application/json"]["schema"]["properties"]
    return {key: value["description"] for key, value in keys.items()}
