"""Everything that tracks, against a real MLflow server over HTTP that keeps its runs in a real PostgreSQL."""

from __future__ import annotations

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pandas as pd
import pytest
from mlflow import MlflowClient
from postgres_server import LOOPBACK, find_postgres, lay_cable, run_mlflow, run_postgres
from typer.testing import CliRunner

from shutterless.models.families import load_model
from shutterless.workflows import cli
from shutterless.workflows.tracking import server as tracking_server
from shutterless.workflows.tracking.server import brief_requests, explain_error, hide_password, set_request_limits
from shutterless.workflows.tracking.tracking import (
    TrackingError,
    _experiment_id,
    fetch_runs,
    open_tracking,
    resolve_model,
    track_run,
)
from shutterless.workflows.training import train as train_module

PROGRAMS = find_postgres()

SMALL = (
    "train.epochs=1", "train.batch_size=4", "train.n_examples=120", "train.grid.n_columns=8", "train.grid.n_rows=64",
    "train.grid.bins=[1,4]", "mlp.hidden_sizes=[]",
)  # fmt: skip
LENIENT = """
[floors]
completeness = 0.0
live_hours = 1e-6
strips_per_second = 1e-3
[ceilings]
false_alarms_per_hour = 1e9
calibration_error = 1.0
[champion]
standard_errors = 100.0
largest_standard_error = 10.0
bootstrap = 100
"""


@pytest.fixture(autouse=True, scope="module")
def own_environment():
    """Remove store, retries and proxy from the environment; undo the store that commands choose through it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("MLFLOW_TRACKING", "MLFLOW_HTTP")) or name.lower().endswith("_proxy"):
                patch.delenv(name)
        patch.setenv("MLFLOW_TRACKING_URI", "")
        yield


@pytest.fixture(autouse=True)
def no_chosen_store(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Address of a server that the whole module shares."""
    if PROGRAMS is None:
        pytest.skip("PostgreSQL's server programs are not installed")
    folder = tmp_path_factory.mktemp("server")
    with run_postgres(PROGRAMS) as port, run_mlflow(port, folder / "artifacts") as url:
        yield url


@pytest.fixture(scope="module")
def client(server):
    return MlflowClient(server, server)


def call(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def train(store, out, uri, *settings):
    changes = [text for setting in (*SMALL, *settings) for text in ("--set", setting)]
    return call("train", store, "--model", "mlp", *changes, "--out", out, "--tracking", uri, "--quiet")


def done(result):
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def trained(server, training_store, tmp_path_factory):
    """Folders of two models that were trained by the command and logged to the server."""
    folder = tmp_path_factory.mktemp("trained")
    for seed in (1, 2):
        printed = done(train(training_store, folder / f"mlp-{seed}", server, f"train.seed={seed}"))
        assert printed == f"model: {folder / f'mlp-{seed}'}\n"  # nothing of MLflow's own
    return [folder / "mlp-1", folder / "mlp-2"]


@pytest.fixture(scope="module")
def run_ids(client, trained):
    experiment = client.get_experiment_by_name("train")
    found = {run.info.run_name: run.info.run_id for run in client.search_runs([experiment.experiment_id])}
    return [found[folder.name] for folder in trained]


def test_training_leaves_parameters_curves_and_model_on_the_server(client, run_ids, trained):
    run = client.get_run(run_ids[0])
    assert run.info.status == "FINISHED"
    assert run.data.params["arch.family"] == "mlp"
    assert len(client.get_metric_history(run_ids[0], "train.loss")) >= 1
    assert "figures/learning_curve.png" in [entry.path for entry in client.list_artifacts(run_ids[0], "figures")]
    assert client.get_experiment(run.info.experiment_id).artifact_location.startswith("mlflow-artifacts:/")


def test_model_comes_back_through_the_server_by_run_id(server, run_ids, trained):
    folder = resolve_model(run_ids[0], open_tracking(server))
    for name in ("model.safetensors", "config.json", "rates.json"):
        assert (folder / name).read_bytes() == (trained[0] / name).read_bytes()


def test_evaluate_then_compare(server, client, run_ids, held_out, trained, tmp_path):
    store, truth = held_out
    models = [text for reference in (run_ids[0], trained[1], "template-bank") for text in ("--model", reference)]
    done(call("evaluate", store, *models, "--truth", truth, "--out", tmp_path / "judged", "--tracking", server, "-q"))
    (experiment,) = [found for found in client.search_experiments() if found.name == "evaluate"]
    names = {run.info.run_name for run in client.search_runs([experiment.experiment_id])}
    assert names == {run_ids[0], "mlp-2", "template-bank"}
    summary = pd.read_parquet(tmp_path / "judged" / "summary.parquet").set_index("detector")["completeness"]
    tracked = fetch_runs(open_tracking(server), "evaluate").set_index("name")["metrics.completeness"]
    assert tracked.to_dict() == pytest.approx(summary.to_dict())
    shown = done(
        call("compare", "--experiment", "evaluate", "--out", tmp_path / "compared", "--tracking", server, "-q")
    )
    assert "template-bank" in shown
    assert (tmp_path / "compared" / "comparison.html").is_file()


@pytest.mark.slow
def test_register_promote_roll_back_history_and_search_by_alias(
    server, client, run_ids, held_out, tiny_camera, trained, tmp_path
):
    store, truth = held_out
    policy = tmp_path / "lenient.toml"
    policy.write_text(LENIENT)
    frozen = ("--store", store, "--truth", truth, "--policy", policy, "--tracking", server, "-q")
    for reference in (run_ids[0], trained[1]):
        done(call("register", reference, "--name", "served", "--tracking", server))
    done(call("promote", "served", "1", "--reason", "the first", *frozen))
    assert "moved champion from version 1 to 2" in done(call("promote", "served", "2", "--reason", "better", *frozen))
    assert client.get_model_version_by_alias("served", "champion").version == "2"
    done(call("rollback", "served", "--reason", "it was not", "--tracking", server))
    assert client.get_model_version_by_alias("served", "champion").version == "1"
    printed = done(call("history", "served", "--tracking", server))
    assert all(reason in printed for reason in ("the first", "better", "it was not"))
    frame = next((store.parent / "busy").glob("*.fits"))
    asked = ("--model", "models:/served@champion", "--instrument", tiny_camera, "--no-dask", "--tracking", server, "-q")
    done(call("search", frame, *asked, "--false-alarms-per-hour", 1e6, "--out", tmp_path / "found"))
    candidates = pd.read_parquet(tmp_path / "found" / "candidates.parquet")
    assert len(candidates) > 0
    found = resolve_model("models:/served@champion", open_tracking(server))
    assert load_model(found).state_dict().keys() == load_model(trained[0]).state_dict().keys()
    assert (found / "model.safetensors").read_bytes() == (trained[0] / "model.safetensors").read_bytes()


def test_two_clients_that_make_an_experiment_at_once_share_it(server, monkeypatch):
    tracking = open_tracking(server)
    asked = MlflowClient.get_experiment_by_name
    waiting: list[str] = []

    def ask_together(client, name):
        answer = asked(client, name)
        waiting.append(name)
        while len(waiting) < 2:  # both have seen that there is none before either makes it
            time.sleep(0.01)
        return answer

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", ask_together)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: _experiment_id(tracking, "made at once"), range(2))
    assert first == second


def test_long_and_foreign_values_are_kept(server, client):
    values = {"long": "σ" * 9000, "text": "it's; DROP TABLE runs -- ρ = 50 %", "many": {f"k{i}": i for i in range(250)}}
    with track_run(open_tracking(server), "values", "long", tags={"note": "ζ" * 9000}) as run:
        run.log_params(values)
        run.log_metrics({"nothing": float("nan"), "tiny": 1e-300})
    kept = client.get_run(run.run_id).data
    assert kept.params["long"] == "σ" * 6000
    assert kept.params["text"] == values["text"]
    assert [kept.params[f"many.k{i}"] for i in range(250)] == [str(i) for i in range(250)]
    assert kept.metrics["tiny"] == 1e-300
    assert kept.tags["note"].startswith("ζ" * 4000)


def test_deleted_experiment_is_named_with_the_way_back(server, client):
    number = client.create_experiment("gone")
    client.delete_experiment(number)
    wanted = rf"'gone' in {server} was deleted; `mlflow experiments restore --experiment-id {number}` brings it back"
    with pytest.raises(TrackingError, match=wanted):
        _experiment_id(open_tracking(server), "gone")


def test_server_that_goes_away_during_a_training_costs_no_model(server, training_store, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with lay_cable(server) as cable:
        rate = train_module.rate_model

        def cut_then_rate(*arguments, **options):
            cable.cut()
            return rate(*arguments, **options)

        monkeypatch.setattr(train_module, "rate_model", cut_then_rate)
        out = tmp_path / "kept"
        result = train(training_store, out, cable.address)
        assert result.exit_code == 2
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert f"run 'kept' was not logged, or not wholly, to {cable.address}: the server does not answer" in line
        assert line.endswith(f"; if the model is whole in {out}, `shutterless register {out}` logs it later")
    load_model(out)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    done(call("register", out, "--name", "later", "--tracking", server))


def test_run_is_marked_failed_and_keeps_its_metrics_where_the_training_fails(server, client):
    opened = []

    def diverge():
        with track_run(open_tracking(server), "failures", "bad") as run:
            opened.append(run.run_id)
            run.log_metrics({"loss": 3.0}, 7)
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        diverge()
    kept = client.get_run(opened[0])
    assert (kept.info.status, kept.data.metrics["loss"]) == ("FAILED", 3.0)


def test_server_that_goes_away_within_a_run_is_waited_for_half_a_minute_and_once(server, monkeypatch):
    waits, here = [], threading.get_ident()  # a thread that logs the load may outlive the test before

    def note_wait(retry, _response=None):
        if threading.get_ident() == here:
            waits.append(retry.get_backoff_time())

    monkeypatch.setattr("urllib3.util.Retry.sleep", note_wait)
    for name, value in {**tracking_server.PATIENT, "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0"}.items():
        monkeypatch.setenv(name, value)

    def log_into_nothing(cable):
        with track_run(open_tracking(cable.address), "failures", "cut", remedy="try again") as run:
            cable.cut()
            run.log_metrics({"loss": 1.0})

    with (
        lay_cable(server) as cable,
        pytest.raises(TrackingError, match=r"run 'cut' was not logged, .*does not answer \(.*\); try again$"),
    ):
        log_into_nothing(cable)
    assert waits[:4] == [0, 4, 8, 16]
    assert sum(waits[4:]) == 0


def test_name_that_the_server_does_not_know_is_explained(server):
    wanted = r"127\.0\.0\.2:\d+ cannot be opened: .* under this name; add it to the server's --allowed-hosts"
    with lay_cable(server, "127.0.0.2") as cable, pytest.raises(TrackingError, match=wanted):
        open_tracking(cable.address)


def test_proxy_of_the_environment_is_named_and_no_proxy_goes_round_it(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://{LOOPBACK}:1")
    monkeypatch.setenv("http_proxy", f"http://{LOOPBACK}:1")
    with pytest.raises(TrackingError, match=r"the proxy of HTTP_PROXY does not answer .*; NO_PROXY lists the hosts"):
        open_tracking(server)
    monkeypatch.setenv("NO_PROXY", LOOPBACK)
    monkeypatch.setenv("no_proxy", LOOPBACK)
    assert open_tracking(server).uri == server


def test_server_that_is_down_is_one_line_at_once():
    started = time.monotonic()
    address = f"http://{LOOPBACK}:1"
    result = call("compare", "--tracking", address)
    reason = "the server does not answer (Connection refused)"
    assert (result.exit_code, result.stderr) == (2, f"error: tracking store {address} cannot be opened: {reason}\n")
    assert time.monotonic() - started < 20


def test_quickstart_looks_for_the_server_before_it_removes_what_an_earlier_run_left(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{LOOPBACK}:1")
    (tmp_path / "settings.toml").write_text("")
    result = call("run", "--out", tmp_path, "--no-dask", "--quiet")
    assert (result.exit_code, "does not answer" in result.stderr) == (2, True)
    assert (tmp_path / "settings.toml").is_file()


def test_server_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setitem(tracking_server.BRIEF, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with closing(socket.create_server((LOOPBACK, 0))) as silent:
        address = f"http://{LOOPBACK}:{silent.getsockname()[1]}"
        with pytest.raises(TrackingError, match=rf"{address} cannot be opened: .* does not answer \(timed out\)"):
            open_tracking(address)


def test_what_the_user_set_is_not_changed(monkeypatch):
    environment = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "9"}
    set_request_limits(environment)
    assert environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "9"
    assert environment["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "60"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    with brief_requests():
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "9"
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "10"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "60"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://user:secret@host:5000", "http://user:***@host:5000"),
        ("postgresql+psycopg2://u:p@h/db", "postgresql+psycopg2://u:***@h/db"),
        ("sqlite:////tmp/a:b@c/mlflow.db", "sqlite:////tmp/a:b@c/mlflow.db"),
        ("http://[broken", "http://[broken"),
    ],
)
def test_passwords_are_not_shown(uri, shown):
    assert hide_password(uri) == shown


def test_error_with_a_password_in_the_address_does_not_show_it():
    with pytest.raises(TrackingError) as caught:
        open_tracking(f"http://user:{'s3cret'}@{LOOPBACK}:1")
    assert "s3cret" not in str(caught.value)
    assert "user:***@" in str(caught.value)


def test_errors_in_words():
    page = "API request to endpoint /x failed with error code 404 != 200. Response body: '<!doctype html>\n<html>'"
    assert explain_error(ValueError(page)) == "API request to endpoint /x failed with error code 404 != 200"
    assert explain_error(ValueError("first\nsecond")) == "first"
    assert explain_error(ValueError()) == "ValueError"
    assert "postgresql+psycopg2://" in explain_error(ModuleNotFoundError("No module named 'psycopg'"))
