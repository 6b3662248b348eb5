"""Requests to a server: bodies, deep JSON, huge numbers, odd text, and senders that stop."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fuzz.model_surfaces import GRID, _good_model
from fuzz.surface import Surface, kept_folder
from fuzz.values import JSON_VALUES, PUTS, Put, change_document, to_json_text
from hypothesis import strategies as st

from shutterless.pipeline.tokens import STRIP_ARRAYS
from shutterless.workflows.searching.detect import Detector
from shutterless.workflows.serving.app import ScoringService, build_app
from shutterless.workflows.serving.bodies import RequestError
from shutterless.workflows.serving.limits import Limits, SearchRequest, allow_folders
from shutterless.workflows.serving.tasks import SearchOptions, example_strips
from shutterless.workflows.serving.worker import Reply, Scorer, WorkerSetup

STATUSES = {200, 400, 403, 404, 405, 408, 413, 415, 422, 503}
MOST_BYTES = 50_000


@dataclass(frozen=True)
class Sent:
    """A request as it arrives: its method, its path, its headers, and its body in pieces, whole or not."""

    path: str
    body: bytes
    method: str = "POST"
    kind: str = "application/json"
    length: str | None = None
    piece: int = 1 << 16
    stops: bool = False


@dataclass(frozen=True)
class Body:
    """A good body with changes, or JSON that is nested deep, as bytes."""

    base: str
    changes: tuple[Put, ...] = ()
    depth: int = 0
    value: Any = None

    def render(self) -> bytes:
        if self.depth:
            return b'{"a":' * self.depth + b"1" + b"}" * self.depth
        base = _bases()[self.base] if self.base else self.value
        return to_json_text(change_document(base, self.changes))


@cache
def _bases() -> dict[str, Any]:
    strips = {name: getattr(example_strips(GRID), name).tolist() for name in STRIP_ARRAYS}
    file = str(kept_folder("night") / "a.fits")
    return {
        "strips": strips,
        "strips with grid": {**strips, "grid": json.loads(json.dumps(asdict(GRID)))},
        "search": {"path": file, "quadrant": 2, "false_alarms_per_hour": 10.0},
        "searches": {"paths": [file, f"{file}.gz"]},
    }


class _FakeTeam:
    """Answers as a worker does, in this process."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def ask(self, payload: Any, _: float) -> Reply:
        try:
            return Reply(200, self._answer(payload))
        except RequestError as error:
            return Reply(error.status, str(error).encode("utf-8", "backslashreplace"))
        except ValueError as error:
            return Reply(422, str(error).encode("utf-8", "backslashreplace"))


class _FakeKeeper:
    """A model that is ready."""

    def __init__(self, model: Any) -> None:
        self.current, self.problem, self.checked, self.since = model, None, None, "2026-03-04T05:06:07Z"
        self.source = SimpleNamespace(follows=False)

    @contextmanager
    def lease(self) -> Any:
        yield self.current


@cache
def _app() -> Any:
    limits = Limits(allow_folders([kept_folder("night")]), max_bytes=MOST_BYTES, max_strips=5, timeout_s=20.0)
    setup = WorkerSetup("tiny", Detector("tiny", str(_good_model("mlp"))), SearchOptions(), limits, {"address": "tiny"})
    model = SimpleNamespace(
        address="tiny",
        about={"address": "tiny"},
        scorer=_FakeTeam(Scorer(setup).answer),
        searcher=_FakeTeam(_list_files),
    )
    return build_app(ScoringService(_FakeKeeper(model), limits), ("tiny", None), 10.0, lambda _: None)


def _list_files(payload: tuple[SearchRequest, str]) -> bytes:
    asked, out = payload
    assert Path(out).is_dir()
    assert all(path.is_relative_to(kept_folder("night")) for path in asked.targets)
    return json.dumps({"candidates": sorted(map(str, asked.targets))}).encode()


def send(sent: Sent, _: Path) -> None:
    """An answer with a status that the server's page names, and JSON with a reason if it is a refusal."""
    status, body = asyncio.run(_exchange(sent))
    if sent.stops and status is None:
        return
    assert status in STATUSES, (status, body[:300])
    if status != 200:
        reason = json.loads(body)["error"]
        assert reason
        assert len(reason) < 3000


async def _exchange(sent: Sent) -> tuple[int | None, bytes]:
    headers = [(b"content-type", sent.kind.encode("latin-1", "replace"))]
    if sent.length is not None:
        headers.append((b"content-length", sent.length.encode()))
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": sent.method, "path": sent.path,
        "raw_path": sent.path.encode("utf-8", "replace"), "query_string": b"", "headers": headers, "scheme": "http",
        "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 9), "root_path": "",
    }  # fmt: skip
    pieces = [sent.body[at : at + sent.piece] for at in range(0, len(sent.body), sent.piece)] or [b""]
    events = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    events.append(
        {"type": "http.disconnect"} if sent.stops else {"type": "http.request", "body": b"", "more_body": False}
    )
    answers: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return events.pop(0) if events else {"type": "http.disconnect"}

    async def answer(message: dict[str, Any]) -> None:
        answers.append(message)

    await _app()(scope, receive, answer)
    status = next((message["status"] for message in answers if message["type"] == "http.response.start"), None)
    return status, b"".join(message.get("body", b"") for message in answers)


_BODIES = (
    st.builds(Body, st.sampled_from(["strips", "strips with grid"]), st.lists(PUTS, max_size=2).map(tuple))
    | st.builds(Body, st.sampled_from(["search", "searches"]), st.lists(PUTS, max_size=2).map(tuple))
    | st.builds(Body, st.just(""), depth=st.sampled_from([10, 900, 8000]))
    | st.builds(Body, st.just(""), value=JSON_VALUES)
).map(Body.render) | st.binary(max_size=30)
_SENT = st.builds(
    Sent,
    st.sampled_from(["/score", "/score", "/search", "/health", "/version", "/", "/nothing", "/score/../x"]),
    _BODIES,
    st.sampled_from(["POST", "POST", "POST", "GET", "PUT", "DELETE", "OPTIONS", "BREW"]),
    st.sampled_from(["application/json", "application/json", "application/json; charset=utf-8", "text/plain", ""]),
    st.none() | st.sampled_from(["0", "12", "99999999999999999999", "1e3", "-5", "", "٣"]),
    st.sampled_from([1 << 16, 1 << 16, 700, 7]),
    st.sampled_from([False, False, True]),
)
SURFACES = (Surface("requests", _SENT, send, (), "", 12, 80, _app),)
