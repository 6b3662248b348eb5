"""Who may ask a page on this machine: nobody under another name, and no page of another origin."""

from __future__ import annotations

import socket

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from shutterless.workflows.pages.loopback import Address, AddressError, is_loopback, listen, page_response, protect

PORT = 8765
OWN = f"http://127.0.0.1:{PORT}"


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.get("/")(lambda: page_response(lambda nonce: f"<script nonce='{nonce}'></script>"))
    app.post("/change")(lambda: {"changed": True})
    return TestClient(protect(app, PORT), base_url=OWN)


def change(client, **headers):
    own = {"Origin": OWN, "Content-Type": "application/json"} | headers
    return client.post("/change", content="{}", headers={name: value for name, value in own.items() if value})


@pytest.mark.parametrize("host", [f"127.0.0.1:{PORT}", f"localhost:{PORT}"])
def test_the_page_answers_under_its_own_names(client, host):
    assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:80"])
def test_a_name_that_was_pointed_here_reads_and_changes_nothing(client, host):
    """DNS rebinding: the browser takes the page of another for one of the same origin."""
    answer = client.get("/", headers={"Host": host})
    assert answer.status_code == 421
    assert "is not this server" in answer.json()["error"]
    assert change(client, Host=host, Origin=f"http://{host}").status_code == 421


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "", "http://127.0.0.1:80", f"https://127.0.0.1:{PORT}"]
)
def test_a_page_of_another_origin_changes_nothing(client, origin):
    answer = change(client, Origin=origin)
    assert answer.status_code == 403
    assert "is no page of this server" in answer.json()["error"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_form_changes_nothing(client, kind):
    assert change(client, **{"Content-Type": kind}).status_code == 415
    assert change(client).json() == {"changed": True}


def test_a_page_runs_its_own_script_alone_and_nobody_frames_or_keeps_it(client):
    first, second = client.get("/"), client.get("/")
    nonce = first.text.split("'")[1]
    policy = first.headers["content-security-policy"]
    assert f"script-src 'nonce-{nonce}'" in policy
    assert nonce not in second.text
    assert {"default-src 'none'", "frame-ancestors 'none'", "form-action 'none'"} <= set(policy.split("; "))
    assert first.headers["cache-control"] == "no-store"
    assert first.headers["x-content-type-options"] == "nosniff"


def test_ports_that_cannot_be_used_are_named():
    with listen(Address(port=0)) as taken:
        assert is_loopback(taken)
        port = taken.getsockname()[1]
        with pytest.raises(AddressError, match=f"cannot listen at 127.0.0.1, port {port}: Address already in use"):
            listen(Address(port=port))
    with pytest.raises(AddressError, match="port 70000 is not one of 0 to 65535"):
        listen(Address(port=70000))
    with socket.create_server(("0.0.0.0", 0)) as everywhere:
        assert not is_loopback(everywhere)
