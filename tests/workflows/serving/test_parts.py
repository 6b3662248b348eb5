"""Parts of the scoring server: files that it may read, limits on requests, and changes of the model."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from starlette.requests import Request

from shutterless.pipeline.results.candidates import empty_candidates
from shutterless.pipeline.tokens import TokenGrid
from shutterless.workflows.pages.loopback import Address, AddressError
from shutterless.workflows.searching.detect import Detector
from shutterless.workflows.serving import serve
from shutterless.workflows.serving.app import Admission, read_body
from shutterless.workflows.serving.bodies import RequestError, parse_object, read_strips, table_records, to_json
from shutterless.workflows.serving.limits import LimitError, Limits, SearchRequest, allow_folders, allowed_file
from shutterless.workflows.serving.models import ModelKeeper, ServeError, Source
from shutterless.workflows.serving.page import SCORE, render_page
from shutterless.workflows.serving.serve import serve_model
from shutterless.workflows.serving.tasks import SearchOptions, check_model, example_strips
from shutterless.workflows.serving.worker import Scorer, Searcher, Worker, WorkerError, WorkerSetup
from shutterless.workflows.tracking.tracking import TrackingError


@pytest.fixture
def allowed(tmp_path) -> tuple[Path, ...]:
    (tmp_path / "night" / "deep").mkdir(parents=True)
    return allow_folders([tmp_path / "night"])


@pytest.mark.parametrize("name", ["a.fits", "deep/a.fits", "deep/../a.fits", "./a.fits", "deep/../../night/a.fits"])
def test_files_below_an_allowed_folder_are_found_whichever_way_they_are_named(allowed, name):
    assert allowed_file(f"{allowed[0]}/{name}", allowed) == (allowed[0] / name).resolve()


@pytest.mark.parametrize(
    "name", ["../a.fits", "deep/../../a.fits", "../nights/a.fits", "../night.fits", "out/a.fits", "up/night/a.fits"]
)
def test_files_elsewhere_are_refused_also_through_links(allowed, name):
    (allowed[0] / "out").symlink_to("/etc")
    (allowed[0].parent / "up").symlink_to(allowed[0].parent)  # leads back inside, and would show that it exists
    text = f"{allowed[0]}/../{name}" if name.startswith("up") else f"{allowed[0]}/{name}"
    with pytest.raises(RequestError, match="is not in a folder that this server may read") as caught:
        allowed_file(text, allowed)
    assert caught.value.status == 403


def test_nothing_outside_is_looked_at(allowed, monkeypatch):
    monkeypatch.setattr(os.path, "realpath", lambda _: pytest.fail("looked"))
    with pytest.raises(RequestError, match="is not in a folder"):
        allowed_file("/etc/passwd", allowed)


def test_a_folder_may_be_named_by_a_link_to_it(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    allowed = allow_folders([tmp_path / "link"])
    assert allowed == (tmp_path / "link", tmp_path / "real")
    assert allowed_file(f"{tmp_path}/link/a.fits", allowed) == tmp_path / "real" / "a.fits"
    assert allowed_file(f"{tmp_path}/real/a.fits", allowed) == tmp_path / "real" / "a.fits"


def test_quadrants_of_one_file_add_up_and_none_means_all(allowed):
    path = str(allowed[0] / "a.fits")
    pairs = [(path, 1), (path, 3), (path + ".gz", 2), (path + ".gz", None)]
    assert SearchRequest.of_pairs(pairs, {}, allowed).targets == {Path(path): {1, 3}, Path(path + ".gz"): None}


@pytest.mark.parametrize("name", ["max_bytes", "max_strips", "max_rows", "timeout_s"])
def test_limits_are_positive(name):
    with pytest.raises(LimitError, match=f"{name} = 0 is not a positive number"):
        Limits(**{name: 0})


def test_tables_become_json_with_every_digit_and_null_for_what_is_missing():
    table = empty_candidates()
    table.loc[0, ["x", "ccd", "probability", "time_read_utc", "veto", "snr"]] = [1 / 3, 4, np.nan, "", "", np.inf]
    (row,) = json.loads(to_json({"rows": table_records(table)}))["rows"]
    assert (row["x"], row["ccd"], row["probability"], row["snr"], row["quadrant"]) == (1 / 3, 4, None, None, None)
    assert (row["time_read_utc"], row["veto"]) == (None, "")
    times = pd.DataFrame({"when": pd.to_datetime(["2026-03-04T05:06:07.25", None])})
    assert table_records(times) == [{"when": "2026-03-04T05:06:07.250000"}, {"when": None}]


def test_json_that_is_none_is_refused():
    assert parse_object(b'{"a": 1.5}') == {"a": 1.5}
    with pytest.raises(RequestError, match="Infinity is no JSON number"):
        parse_object(b'{"a": -Infinity}')


def test_an_array_of_objects_is_no_strip():
    arrays = {name: getattr(example_strips(TokenGrid()), name) for name in ("patches", "context", "profile", "mask")}
    with pytest.raises(RequestError, match="features holds something that is no number"):
        read_strips({**arrays, "features": {"snr": 3}}, 10)
    with pytest.raises(RequestError, match="features is no array"):
        read_strips({**arrays, "features": [1 << 70, [2]]}, 10)


def test_a_gate_lets_so_many_in():
    gate = Admission("guests", 1, 7)
    with gate.enter(), pytest.raises(RequestError, match="1 guests already; try again later") as caught, gate.enter():
        pass
    assert (caught.value.status, caught.value.retry_after_s, gate.inside) == (503, 7, 0)


class FakeModel:
    """Stands for a served model; one at an address with "broken" in it does not start."""

    def __init__(self, source, address, folder):
        self.address, self.events = address, []

    def start(self):
        if "broken" in self.address:
            raise WorkerError("weights are cut short")

    def in_use(self):
        raise AssertionError("not asked for here")

    def retire(self):
        self.events.append("retired")

    def close(self):
        self.events.append("closed")


@pytest.fixture
def keeper(monkeypatch):
    """A keeper whose alias points at the first of ``addresses``, and whose models need no process."""
    source = Source("models:/detector@champion", None, Limits(), SearchOptions())
    addresses = ["models:/detector/1"]

    def find_address(_):
        if isinstance(addresses[0], Exception):
            raise addresses[0]
        return addresses[0]

    monkeypatch.setattr(Source, "find_address", find_address)
    monkeypatch.setattr(Source, "find_folder", lambda _, address: Path(address))
    keeper = ModelKeeper(source, FakeModel)
    keeper.addresses = addresses
    return keeper


def test_before_the_first_model_is_ready_requests_are_to_come_back(keeper):
    with pytest.raises(RequestError, match="still being loaded") as caught, keeper.lease():
        pass
    assert (caught.value.status, caught.value.retry_after_s) == (503, 5)


def test_a_first_model_that_is_broken_ends_the_server(keeper):
    with pytest.raises(ServeError, match="broken cannot be served: weights are cut short"):
        keeper.start("broken", None)


def test_the_model_changes_when_the_alias_does_and_not_before(keeper):
    keeper.start("models:/detector/1", None)
    first = keeper.current
    keeper.refresh()
    assert keeper.current is first
    keeper.addresses[0] = "models:/detector/2"
    keeper.refresh()
    assert (keeper.current.address, first.events, keeper.problem) == ("models:/detector/2", ["retired"], None)


def test_what_is_refused_is_not_tried_again_until_the_alias_moves(keeper, monkeypatch):
    keeper.start("models:/detector/1", None)
    keeper.addresses[0] = "models:/detector/broken"
    keeper.refresh()
    assert keeper.problem == "models:/detector/broken is refused, models:/detector/1 goes on: weights are cut short"
    with monkeypatch.context() as patch:
        patch.setattr(ModelKeeper, "_try", lambda *_: pytest.fail("tried again"))
        keeper.refresh()
    keeper.addresses[0] = "models:/detector/1"
    keeper.refresh()
    assert (keeper.current.address, keeper.problem) == ("models:/detector/1", None)


def test_a_registry_out_of_reach_changes_nothing(keeper, monkeypatch):
    keeper.start("models:/detector/1", None)
    keeper.addresses[0] = TrackingError("no answer\nat all")
    keeper.refresh()
    assert keeper.problem == "the registry does not say which model models:/detector@champion is: no answer at all"
    keeper.addresses[0] = "models:/detector/2"
    monkeypatch.setattr(Source, "find_folder", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    keeper.refresh()
    assert keeper.problem == "models:/detector/2 cannot be fetched, models:/detector/1 goes on: no space"
    assert keeper.current.address == "models:/detector/1"


def test_closing_ends_the_model_and_lets_no_other_begin(keeper):
    keeper.start("models:/detector/1", None)
    first = keeper.current
    keeper.close()
    keeper.addresses[0] = "models:/detector/2"
    keeper.refresh()
    assert (keeper.current, first.events) == (first, ["closed"])


def test_an_alias_that_is_not_set_names_those_there_are(tracking, make_model):
    from shutterless.workflows.tracking.tracking import register_model

    register_model(tracking, make_model("aliased", "mlp"), "alias_trial", "trial")
    with pytest.raises(ServeError, match=r"alias_trial has no alias 'champion'; it has \['trial'\]: set it with"):
        Source("models:/alias_trial@champion", tracking, Limits(), SearchOptions()).find_address()


def test_a_port_that_is_taken_and_numbers_out_of_range_are_named(make_model):
    folder = str(make_model("served", "mlp"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AddressError, match=f"cannot listen at 127.0.0.1, port {port}: Address already in use"):
            serve_model(folder, lambda: None, Address(port=port), Limits(), SearchOptions())
    with pytest.raises(AddressError, match="port 70000 is not one of 0 to 65535"):
        serve_model(folder, lambda: None, Address(port=70000), Limits(), SearchOptions())
    with pytest.raises(LimitError, match="searches = 0 and refresh = 10"):
        serve_model(folder, lambda: None, Address(), Limits(), SearchOptions(), n_searches=0)
    with pytest.raises(TrackingError, match="no model 'typo'"):
        serve_model("typo", lambda: None, Address(), Limits(), SearchOptions())


@pytest.mark.parametrize(("host", "is_warned"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)])
def test_listening_to_others_is_warned_of(host, is_warned, make_model, monkeypatch, capsys):
    monkeypatch.setattr(serve, "_run", lambda *_: None)
    serve_model(str(make_model("warned", "mlp")), lambda: None, Address(host, 0), Limits(), SearchOptions(), quiet=True)
    assert ("there is no authentication" in capsys.readouterr().err) == is_warned


def test_a_model_that_gives_nan_is_refused(make_model):
    import torch

    from shutterless.models.families import load_model

    model = load_model(make_model("nan", "mlp"))
    check_model(model)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="gives numbers that are not finite for an empty strip"):
        check_model(model)


@pytest.mark.slow
def test_a_worker_that_takes_too_long_is_replaced(make_model):
    import signal

    folder = make_model("slow", "mlp")
    worker = Worker(Scorer, WorkerSetup("slow", Detector("slow", str(folder)), SearchOptions(), Limits(), {}))
    try:
        worker.start(120)
        first = worker.process_id
        os.kill(first, signal.SIGSTOP)
        late = worker.ask(b"{}", 0.5)
        assert (late.status, late.body) == (504, b"no answer within 0.5 s; ask for less at a time")
        assert worker.process_id != first
        assert worker.ask(b"{}", 120).status == 422
    finally:
        worker.close()


@pytest.mark.slow
def test_a_model_without_a_false_alarm_curve_starts_no_searches(make_model):
    folder = make_model("uncounted", "mlp")
    worker = Worker(Searcher, WorkerSetup("uncounted", Detector("mlp", str(folder)), SearchOptions(), Limits(), {}))
    try:
        with pytest.raises(WorkerError, match="holds no false-alarm curve, so no threshold is known for 50"):
            worker.start(120)
    finally:
        worker.close()


def test_page_lists_endpoints_with_the_keys_of_their_bodies_and_escapes_them():
    paths = {"/score": {"post": {"summary": "Score <strips>", **SCORE}}, "/health": {"get": {"summary": "Ready?"}}}
    html = render_page({"info": {"title": "a<script>"}, "paths": paths})
    assert "<h1>a&lt;script&gt; scoring server</h1>" in html
    assert "<script>" not in html
    score, health = html.split("<dt>")[1:]
    assert score.startswith("<code>POST /score</code></dt>\n<dd>Score &lt;strips&gt;")
    assert [line for line in score.splitlines() if "<code>grid</code>" in line] == [
        "<li><code>grid</code>: token grid the strips were cut with, compared with the model&#39;s</li>"
    ]
    assert health.startswith("<code>GET /health</code></dt>\n<dd>Ready?\n</dd>")


@pytest.mark.parametrize("length", ["1e3", "-5", "", "٣"])
def test_length_that_is_no_number_is_refused(length):
    """Servers in front of ours may let it through."""
    headers = [(b"content-type", b"application/json"), (b"content-length", length.encode("utf-8"))]

    async def receive():
        return {"type": "http.request", "body": b"{}", "more_body": False}

    request = Request({"type": "http", "headers": headers}, receive)
    with pytest.raises(RequestError, match=r"Content-Length is .*; a number of bytes is expected") as caught:
        asyncio.run(read_body(request, 10))
    assert caught.value.status == 400
