"""The scoring server as a process, over real HTTP: answers, refusals, and survival of bad requests."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import requests
from conftest import TINY_PROFILE
from tiny_frames import N_COLUMNS, RATE_HZ, SKY_E, add_pulse, expose, write_sequence

from shutterless.models.evaluation.metrics import RateCurve
from shutterless.models.families import load_model
from shutterless.models.scoring import score_strips
from shutterless.pipeline.detection.triggers import find_triggers
from shutterless.pipeline.examples.strips import cut_strips
from shutterless.pipeline.results.candidates import CANDIDATE_TYPES
from shutterless.pipeline.store.store import open_amplifier
from shutterless.pipeline.tokens import STRIP_ARRAYS, StripBatch
from shutterless.workflows.execution.cluster import SerialExecutor
from shutterless.workflows.frames.ingest import ingest_files
from shutterless.workflows.registry.store import RegistryStore
from shutterless.workflows.searching.detect import write_rates
from shutterless.workflows.searching.search import search_files
from shutterless.workflows.serving.bodies import table_records
from shutterless.workflows.settings.settings import SearchSettings
from shutterless.workflows.tracking.tracking import register_model

NAME = "served"
N_STRIPS, MAX_ROWS, MEGABYTES = 12, 4000, 2
PULSES = [(700, 20.3, 4.0, 20.0), (1500, 90.0, 12.0, 30.0), (2300, 40.6, 3.0, 25.0)]  # row, x, sigma in rows, S/N


class Server:
    """A `shutterless serve` process, and a client that uses no proxy."""

    def __init__(self, *options, environment=None):
        command = [sys.executable, "-m", "shutterless.workflows.cli", "serve", "--port", "0", *map(str, options)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.errors: list[str] = []
        self._reader = threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True)
        self._reader.start()
        line = self.process.stdout.readline()
        found = re.search(r"at (http://\S+)", line)
        assert found, (line, self.stop())
        self.url = found[1]
        self.session = requests.Session()
        self.session.trust_env = False

    def get(self, path):
        return self.session.get(self.url + path, timeout=60)

    def post(self, path, body, **options):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **options.pop("headers", {})}
        return requests.post(self.url + path, data, headers=headers, timeout=120, proxies={"http": ""}, **options)

    def wait_until(self, is_true, seconds=240):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if is_true():
                return self
            assert self.process.poll() is None, self.errors
            time.sleep(0.1)
        raise AssertionError((self.get("/health").json(), self.errors))

    def wait_ready(self):
        return self.wait_until(lambda: self.get("/health").status_code == 200)

    def workers(self):
        """Process ids of its workers."""
        own = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        pids = [int(pid) for path in own for pid in path.read_text().split()]
        return [pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def stop(self):
        """End the server; return its exit code and its standard error."""
        self.process.terminate()
        code = self.process.wait(timeout=60)
        self._reader.join(timeout=10)
        self.process.stdout.close()
        self.process.stderr.close()
        return code, "".join(self.errors)


class Paused:
    """Worker processes that do nothing while the block lasts."""

    def __init__(self, server):
        self.pids = server.workers()
        assert len(self.pids) == 2

    def __enter__(self):
        for pid in self.pids:
            os.kill(pid, signal.SIGSTOP)

    def __exit__(self, *_):
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)


class Later:
    """A call in its own thread."""

    def __init__(self, function, *arguments):
        self._thread = threading.Thread(target=self._run, args=(function, arguments), daemon=True)
        self._thread.start()

    def _run(self, function, arguments):
        self._found = function(*arguments)

    def result(self):
        self._thread.join(timeout=120)
        return self._found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def camera(folder) -> str:
    path = folder / "tiny.toml"
    path.write_text(TINY_PROFILE)
    return str(path)


@pytest.fixture(scope="module")
def frames(folder) -> list[Path]:
    """Two files of one sequence with three pulses, in the only folder that may be read."""
    electrons = np.full((3000, 128), SKY_E)
    for row, x, sigma, rho in PULSES:
        add_pulse(electrons, row, x, sigma, rho)
    (folder / "frames").mkdir()
    return write_sequence(folder / "frames", expose(electrons, 4), 100, 2)


@pytest.fixture(scope="module")
def models(make_model) -> list[Path]:
    """Two models of different families with a false-alarm curve, and one with truncated weights."""
    made = [make_model(family, family, seed=3) for family in ("cnn", "transformer")]
    made.append(make_model("mlp", "mlp"))
    for path in made:
        write_rates(path, RateCurve(np.linspace(2, -6, 100), 1.0, N_COLUMNS * RATE_HZ * 3600), "simulated")
    return made


@pytest.fixture(scope="module")
def versions(tracking, models) -> RegistryStore:
    """Two versions under one name; the champion is the first."""
    for path in models[:2]:
        register_model(tracking, path, NAME)
    store = RegistryStore(tracking, NAME)
    store.set_alias("champion", "1")
    return store


@pytest.fixture(scope="module")
def strips(frames, camera, folder, models) -> StripBatch:
    """Strips around real triggers of the frames."""
    ingest_files(frames, folder / "store", instrument=camera, executor=SerialExecutor())
    amplifier = open_amplifier(
        folder / "store", sorted(path.name for path in (folder / "store").iterdir() if path.is_dir())[0]
    )
    triggers = find_triggers(amplifier, 3.5)
    found = cut_strips(amplifier, triggers, load_model(models[0]).grid)
    assert len(found) >= 5
    return found[:5]


def plain(strips: StripBatch) -> dict:
    return {f.name: getattr(strips, f.name).tolist() for f in fields(strips)}


@pytest.fixture(scope="module")
def server(versions, frames, camera):
    """A server that follows the champion and may read the folder of the frames."""
    environment = {"MLFLOW_TRACKING_URI": versions.tracking.uri}
    running = Server(
        "--model", f"models:/{NAME}@champion", "--allow", frames[0].parent, "--instrument", camera, "--refresh", 0.5,
        "--max-strips", N_STRIPS, "--max-rows", MAX_ROWS, "--max-megabytes", MEGABYTES, environment=environment,
    )  # fmt: skip
    yield running.wait_ready()
    if running.process.poll() is None:
        running.stop()


def test_version_names_the_model_its_grid_and_the_limits(server, models):
    found = server.get("/version").json()
    assert (found["reference"], found["address"], found["version"]) == (
        f"models:/{NAME}@champion",
        f"models:/{NAME}/1",
        "1",
    )
    assert found["family"] == "shutterless-cnn"
    grid = asdict(load_model(models[0]).grid)
    assert found["grid"] == {**grid, "bins": list(grid["bins"])}
    assert found["limits"] == {"max_bytes": 2_000_000, "max_strips": N_STRIPS, "max_rows": MAX_ROWS, "timeout_s": 600}
    assert abs((pd.Timestamp.now("UTC") - pd.Timestamp(found["since"])).total_seconds()) < 300


def test_scores_are_those_of_score_strips_to_the_last_digit(server, strips, models):
    answer = server.post("/score", plain(strips))
    assert answer.status_code == 200
    assert answer.headers["X-Shutterless-Model"] == answer.json()["model"]["address"] == f"models:/{NAME}/1"
    assert answer.json()["scores"] == table_records(score_strips(load_model(models[0]), strips))


def test_a_single_strip_needs_no_first_axis(server, strips, models):
    single = {name: values[0] for name, values in plain(strips).items()}
    (found,) = server.post("/score", single).json()["scores"]
    assert [found] == table_records(score_strips(load_model(models[0]), strips[:1]))


def test_no_strips_have_no_scores(server):
    assert server.post("/score", {name: [] for name in STRIP_ARRAYS}).json()["scores"] == []


def test_candidates_are_those_of_the_command_to_the_last_digit(server, frames, camera, versions, folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", versions.tracking.uri)
    expected = search_files(
        frames, reference=f"models:/{NAME}/1", out=folder / "found", settings=SearchSettings(), instrument=camera,
        executor=SerialExecutor(),
    )  # fmt: skip
    answer = server.post("/search", {"paths": [str(path) for path in frames]}).json()
    assert list(answer["candidates"][0]) == list(CANDIDATE_TYPES)
    assert answer["candidates"] == table_records(expected.candidates)
    assert {round(row["x"]) for row in answer["candidates"]} & {20, 41}
    assert answer["threshold"] == expected.threshold
    assert (answer["failures"], answer["instruments"]) == ([], ["tiny"])
    first = answer["candidates"][0]
    assert first["y"] is None  # a stack one row high
    assert pd.Timestamp(first["time_read_utc"]).year == 2026
    assert first["model"] == f"shutterless-cnn (models:/{NAME}/1)"


def test_one_amplifier_and_another_rate_of_false_alarms(server, frames):
    both = server.post("/search", {"path": str(frames[0])}).json()
    one = server.post("/search", {"path": str(frames[0]), "quadrant": 1}).json()
    assert {row["quadrant"] for row in both["candidates"]} == {1, 2}
    ids = [row["candidate_id"] for row in one["candidates"]]
    assert ids == [row["candidate_id"] for row in both["candidates"] if row["quadrant"] == 1]
    few = server.post("/search", {"path": str(frames[0]), "quadrant": 1, "false_alarms_per_hour": 20}).json()
    assert few["threshold"] > one["threshold"]


def test_what_cannot_be_read_is_listed_while_something_can(server, frames):
    absent = frames[0].with_name("absent.fits")
    answer = server.post("/search", {"paths": [str(frames[0]), str(absent)]})
    assert answer.status_code == 200
    (failure,) = answer.json()["failures"]
    assert failure == {
        "file": "absent.fits",
        "path": str(absent),
        "quadrant": None,
        "reason": f"FrameError: {absent} does not exist",
    }


def test_strips_that_cannot_be_scored_are_refused_with_the_reason(server, strips):
    good = plain(strips)
    wide = np.zeros((5, 8, 128)).tolist()
    cases = [
        (
            {**good, "patches": wide},
            422,
            r"patches of shape \(5, 8, 128\) do not fit the model, which expects \(b, \*\(8, 64",
        ),
        (
            {name: good[name] for name in good if name != "context"},
            422,
            r"model input lacks 'context'; it needs \['patches",
        ),
        ({**good, "mask": good["mask"][:2]}, 422, "different numbers of strips: .*'mask': 2"),
        ({**good, "features": [[None] * 9] * 5}, 422, "features holds something that is no number"),
        ({**good, "profile": [[1e39] * 8] * 5}, 422, "profile holds 40 numbers that are not finite"),
        ({**good, "mask": [[2] * 8] * 5}, 422, "mask holds something other than true and false"),
        ({**good, "context": [[1], [1, 2]]}, 422, "context is no array"),
        ({**good, "grid": {"n_rows": 8}}, 422, "the batch of strips has TokenGrid.*but the model expects"),
        ({**good, "grid": {"n_rows": "\ud800"}}, 422, "TokenGrid: .n_rows. = .*input should be a valid .*unicode"),
        ({**good, "grid": {"\ud800": 8}}, 422, "TokenGrid: Input should be a valid string, unable to parse"),
        ({name: (values * 3) for name, values in good.items()}, 413, f"15 strips are more than the {N_STRIPS}"),
        ([good], 400, "the body is a JSON list"),
        (b'{"patches": NaN}', 400, "NaN is no JSON number"),
        (b"patches", 400, "the body is not JSON"),
        (b"\xff\xfe\x00", 400, "the body is not JSON"),
        (b"[" * 100_000, 400, "the body is not JSON"),
    ]
    for body, status, reason in cases:
        answer = server.post("/score", body)
        assert answer.status_code == status, (reason, answer.text[:500])
        assert re.search(reason, answer.json()["error"]), answer.text[:500]
        assert answer.json()["model"]["version"] == "1"


def test_files_that_cannot_be_searched_are_refused_with_the_reason(server, frames, folder):
    inside = frames[0].parent
    (inside / "text.fits").write_text("no FITS")
    (inside / "empty.fits").write_bytes(b"")
    (inside / "cut.fits").write_bytes(frames[0].read_bytes()[:200_000])
    secret = folder / "secret.fits"
    secret.write_bytes(frames[0].read_bytes())
    (inside / "link.fits").symlink_to(secret)
    outside = "is not in a folder that this server may read"
    cases = [
        ({"path": str(inside / "text.fits")}, 422, "text.fits is not a complete FITS file"),
        ({"path": str(inside / "empty.fits")}, 422, r"empty.fits is empty \(0 bytes\)"),
        ({"path": str(inside / "cut.fits")}, 422, "cut.fits is not a complete FITS file"),
        ({"path": str(inside / "absent.fits")}, 422, "absent.fits does not exist"),
        ({"path": str(inside)}, 422, "is not a file"),
        ({"path": str(frames[0]), "quadrant": 3}, 422, r"has no quadrant 3; it has \[1, 2\]"),
        (
            {"paths": [str(path) for path in frames] * 2 + [str(inside / "text.fits")], "quadrant": 3},
            422,
            "no quadrant 3",
        ),
        ({"path": str(secret)}, 403, outside),
        ({"path": str(folder / "absent.fits")}, 403, outside),
        ({"path": str(inside / "link.fits")}, 403, outside),
        ({"path": f"{inside}/../secret.fits"}, 403, outside),
        ({"path": f"{inside}/../frames/../secret.fits"}, 403, outside),
        ({"path": "/etc/passwd"}, 403, outside),
        ({"path": "000100.fits"}, 400, "is relative; give the whole path"),
        ({"path": "\0"}, 400, "is not the path of a file"),
        ({"path": "\ud800"}, 400, "is not the path of a file"),
        ({"path": 3}, 400, "3 is not the path of a file"),
        ({"path": str(frames[0]), "quadrant": True}, 400, "quadrant = True is not a whole number"),
        ({"path": str(frames[0]), "quadrant": 1.5}, 400, "quadrant = 1.5 is not a whole number"),
        (
            {"path": str(frames[0]), "false_alarms_per_hour": 0},
            400,
            "false_alarms_per_hour = 0 is not a positive number",
        ),
        ({"path": str(frames[0]), "paths": []}, 400, "either path .* or paths"),
        ({"paths": "a.fits"}, 400, "paths is 'a.fits'; a list"),
        ({"file": str(frames[0])}, 400, r"unknown keys \['file'\]; a search takes"),
        ({}, 400, "either path"),
    ]
    for body, status, reason in cases:
        answer = server.post("/search", body)
        assert answer.status_code == status, (reason, answer.text)
        assert re.search(reason, answer.json()["error"]), answer.text
    assert secret.name not in server.post("/search", {"path": str(inside / "link.fits")}).text


def test_a_refusal_is_the_same_whether_the_file_is_there_or_not(server, folder):
    (folder / "there.fits").write_bytes(b"SIMPLE")
    there, absent = (server.post("/search", {"path": str(folder / name)}) for name in ("there.fits", "where.fits"))
    assert there.text.replace("there.fits", "where.fits") == absent.text
    assert there.status_code == absent.status_code == 403


def test_too_many_rows_are_refused_before_a_pixel_is_read(server, frames):
    many = frames[0].with_name("many.fits")
    if not many.exists():
        write_sequence(frames[0].parent, expose(np.full((3000, 128), SKY_E), 5), 50_000, 1)[0].rename(many)
    answer = server.post("/search", {"paths": [str(many), str(frames[0])]})
    assert (answer.status_code, answer.json()["error"]) == (
        413,
        f"the files hold 4500 rows, more than the {MAX_ROWS} of one request",
    )


def test_bodies_that_are_too_large_are_refused_by_length_and_while_they_come(server):
    body = b" " * (MEGABYTES * 1_000_000 + 1)
    announced = server.post("/score", body)
    assert announced.status_code == 413
    assert announced.json() == {"error": "the body has more than the 2000000 bytes of one request; send it in parts"}

    def chunks():
        for _ in range(5):
            yield b" " * 1_000_000

    streamed = requests.post(
        server.url + "/score", chunks(), headers={"Content-Type": "application/json"}, timeout=60, proxies={"http": ""}
    )
    assert "Transfer-Encoding" in streamed.request.headers
    assert (streamed.status_code, streamed.json()) == (413, announced.json())


def test_what_is_not_said_to_be_json_or_not_there_is_refused(server):
    answer = server.post("/score", b"{}", headers={"Content-Type": "text/plain"})  # as another site's page could send
    assert (answer.status_code, "application/json is expected" in answer.json()["error"]) == (415, True)
    assert (server.get("/nowhere").status_code, server.get("/score").status_code) == (404, 405)
    assert server.get("/nowhere").json() == {"error": "Not Found"}


def test_the_pages_fetch_nothing_and_the_description_holds_every_endpoint(server):
    page = server.get("/")
    assert page.headers["content-security-policy"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert not re.search(r"https?://|src=|<link|<script", page.text)
    described = server.get("/openapi.json").json()
    assert set(described["paths"]) == {"/health", "/version", "/score", "/search"}
    assert set(described["paths"]["/search"]["post"]["responses"]) >= {"403", "413", "422", "503", "504"}
    assert (server.get("/docs").status_code, server.get("/redoc").status_code) == (404, 404)


def test_a_search_beyond_the_one_that_runs_is_sent_away_and_scoring_goes_on(server, frames):
    with Paused(server):
        first = Later(server.post, "/search", {"path": str(frames[0])})
        server.wait_until(lambda: server.get("/health").json()["searching"] == 1)
        second = server.post("/search", {"path": str(frames[0])})
        assert (second.status_code, second.headers["Retry-After"]) == (503, "10")
        assert second.json()["error"].startswith("1 searches are running already")
    assert first.result().status_code == 200


@pytest.mark.slow
def test_a_crash_of_the_workers_is_one_failed_request(server, strips, frames):
    with Paused(server):
        asked = Later(server.post, "/score", plain(strips))
        server.wait_until(lambda: server.get("/health").json()["scoring"] == 1)
        time.sleep(0.2)
        for pid in server.workers():
            os.kill(pid, signal.SIGKILL)
    answer = asked.result()
    assert (answer.status_code, answer.json()["error"]) == (
        500,
        "the process that worked on this ended with signal SIGKILL",
    )
    assert server.post("/score", plain(strips)).status_code == 200
    assert server.post("/search", {"path": str(frames[0])}).status_code == 200


def test_a_new_champion_takes_over_and_what_is_in_flight_is_finished_by_the_old(
    server, versions, strips, frames, models
):
    with Paused(server):
        old = Later(server.post, "/search", {"path": str(frames[0])})
        server.wait_until(lambda: server.get("/health").json()["searching"] == 1)
        versions.set_alias("champion", "2")
        server.wait_until(lambda: server.get("/version").json()["version"] == "2")
        answer = server.post("/score", plain(strips)).json()
        assert answer["model"]["family"] == "shutterless-transformer"
        assert answer["scores"] == table_records(score_strips(load_model(models[1]), strips))
    finished = old.result()
    assert (finished.status_code, finished.json()["model"]["version"]) == (200, "1")
    assert {row["model"] for row in finished.json()["candidates"]} == {f"shutterless-cnn (models:/{NAME}/1)"}
    server.wait_until(lambda: len(server.workers()) == 2)  # those of the old model ended


@pytest.mark.slow
def test_a_broken_champion_is_refused_and_the_old_goes_on(server, versions, strips, models):
    from shutterless.workflows.tracking.tracking import resolve_model

    before = server.get("/version").json()
    register_model(versions.tracking, models[2], NAME)
    weights = resolve_model(f"models:/{NAME}/3", versions.tracking) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    versions.set_alias("champion", "3")
    server.wait_until(lambda: server.get("/health").json()["problem"])
    found = server.get("/health").json()
    assert found["status"] == "ready"
    assert re.match(rf"models:/{NAME}/3 is refused, {before['address']} goes on: .*safetensors", found["problem"])
    assert server.get("/version").json() == before
    assert server.post("/score", plain(strips)).json()["model"]["version"] == before["version"]
    assert sum("is refused" in line for line in server.errors) == 1
    weights.write_bytes(whole)
    versions.set_alias("champion", before["version"])
    server.wait_until(lambda: server.get("/health").json()["problem"] is None)


def test_sigterm_finishes_what_is_in_flight_and_exits_with_zero(server, frames):
    with Paused(server):
        asked = Later(server.post, "/search", {"path": str(frames[0])})
        server.wait_until(lambda: server.get("/health").json()["searching"] == 1)
        server.process.terminate()
        time.sleep(0.5)
        with pytest.raises(requests.ConnectionError):
            requests.get(server.url + "/health", timeout=5, proxies={"http": ""})
    assert asked.result().status_code == 200
    assert server.process.wait(timeout=60) == 0
    assert server.stop() == (0, "".join(server.errors))
    assert "Traceback" not in "".join(server.errors)
