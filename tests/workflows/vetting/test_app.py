"""Pages and requests of vetting, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from shutterless.pipeline.results.labels import read_label_lines, standing_labels
from shutterless.workflows.vetting.app import build_vetting_app
from shutterless.workflows.vetting.candidate_queue import line_up
from shutterless.workflows.vetting.desk import Desk


@pytest.fixture
def desk(search) -> Desk:
    return Desk(line_up(search)[:3], search / "vetting" / "labels.csv", "ada")


@pytest.fixture
def client(desk) -> TestClient:
    return TestClient(build_vetting_app(desk, lambda: "all <b>done</b>"), follow_redirects=False)


def label(client, desk, place, label="event", kind="", confidence=100):
    values = {"candidate_id": desk.queue[place].name, "label": label, "kind": kind, "confidence": confidence}
    return client.post("/label", json=values)


def test_the_start_leads_to_the_first_without_a_label_and_at_last_to_the_end(client, desk):
    assert client.get("/").headers["location"] == "/candidate/1"
    assert label(client, desk, 0).json() == {"next": "/candidate/2"}
    assert label(client, desk, 2, "artefact", "pickup", 33).json() == {"next": "/candidate/2"}
    assert client.get("/").headers["location"] == "/candidate/2"
    assert "Some candidates have no label yet." in client.get("/end").text
    assert label(client, desk, 1, "unsure").json() == {"next": "/end"}
    assert "all &lt;b&gt;done&lt;/b&gt;" in client.get("/end").text
    standing = standing_labels(read_label_lines(desk.labels).lines)
    assert standing[["label", "kind", "confidence"]].to_numpy().tolist() == [
        ["event", "", 100.0],
        ["artefact", "pickup", 33.0],
        ["unsure", "", 100.0],
    ]


def test_a_label_that_was_given_is_shown_and_can_be_undone_and_changed(client, desk):
    label(client, desk, 0, "artefact", "ghost", 67)
    page = client.get("/candidate/1").text
    assert "your label: ghost (67 %)" in page
    assert 'data-kind="ghost" title="light of a bright star that the optics reflect" class="given"' in page
    assert client.post("/undo", json={}).json() == {"next": "/candidate/1"}
    assert "your label" not in client.get("/candidate/1").text
    answer = client.post("/undo", json={})
    assert (answer.status_code, answer.json()) == (409, {"error": "ada has given no label that could be taken back"})


def test_another_vetter_sees_and_changes_only_his_own(client, desk, search):
    other = Desk(desk.queue, desk.labels, "bob")
    label(client, desk, 0)
    assert (desk.next_open(), other.next_open()) == (1, 0)
    other.add({"candidate_id": desk.queue[0].name, "label": "unsure", "kind": "", "confidence": 100})
    assert desk.own_labels()["label"].tolist() == ["event"]
    assert other.own_labels()["label"].tolist() == ["unsure"]


@pytest.mark.parametrize(
    ("changes", "status", "expected"),
    [
        ({"candidate_id": "nobody"}, 404, "'nobody' is no candidate of this queue"),
        ({"candidate_id": ["a"]}, 404, "is no candidate of this queue"),
        ({"label": "undo"}, 422, "label 'undo' of kind '' is none of event, cosmic ray"),
        ({"kind": "dust"}, 422, "label 'event' of kind 'dust' is none of"),
        ({"confidence": 101}, 422, "confidence is 101; a whole number from 0 to 100 is expected"),
        ({"confidence": True}, 422, "confidence is True"),
        ({"confidence": "3"}, 422, "confidence is '3'"),
    ],
)
def test_a_label_that_is_none_is_refused_and_nothing_is_written(client, desk, changes, status, expected):
    values = {"candidate_id": desk.queue[0].name, "label": "event", "kind": "", "confidence": 100} | changes
    answer = client.post("/label", json=values)
    assert answer.status_code == status
    assert expected in answer.json()["error"]
    assert not desk.labels.exists()


def test_requests_that_are_none_are_refused(client):
    assert client.get("/candidate/4").json() == {"error": "there is no candidate 4, only 1 to 3"}
    assert client.get("/candidate/0").status_code == 404
    assert client.get("/nowhere").status_code == 404
    json = {"Content-Type": "application/json"}
    assert client.post("/label", content=b"[1", headers=json).status_code == 400
    assert client.post("/label", content=b'"' + b"x" * 20_000 + b'"', headers=json).status_code == 413


def test_strings_of_others_are_escaped(client, desk):
    first = desk.queue[0]
    candidate = first.candidate.copy()
    candidate["model"] = "<script>alert(1)</script>"
    desk.queue[0] = replace(first, candidate=candidate)
    desk.who = '"><img src=x>'
    page = client.get("/candidate/1").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("<script") == 1
    assert "<img src=x>" not in page
