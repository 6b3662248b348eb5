"""The files in mlflow/: entry points that run the commands, and the compose file."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from postgres_server import COMPOSE, compose_server, interpolate

from shutterless.workflows import cli
from shutterless.workflows.tracking.tracking import fetch_runs, open_tracking

MLFLOW = COMPOSE.parent
PROJECT = yaml.safe_load((MLFLOW / "MLproject").read_text())
COMMANDS = typer.main.get_command(cli.app).commands
SERVICE_KEYS = {  # those of schema/compose-spec.json of the Compose Specification that such a service may need
    *("build", "cap_drop", "command", "depends_on", "environment", "healthcheck", "image", "networks", "ports"),
    *("restart", "security_opt", "stop_grace_period", "volumes"),
}
LOOPBACK = ("127.0.0.1", "localhost")


@pytest.mark.parametrize("name", PROJECT["entry_points"])
def test_entry_point_is_a_command_with_options_that_it_has(name):
    point = PROJECT["entry_points"][name]
    command = {"main": "run"}.get(name, name)
    assert point["command"].startswith(f"shutterless {command}")
    arguments = point["command"].removeprefix(f"shutterless {command}").split()
    known = {option for parameter in COMMANDS[command].params for option in parameter.opts}
    assert {argument for argument in arguments if argument.startswith("--")} <= known
    assert set(re.findall(r"{(\w+)}", point["command"])) == set(point["parameters"])


def test_commands_that_track_are_entry_points():
    tracked = {name for name, command in COMMANDS.items() if any("--tracking" in p.opts for p in command.params)}
    wanted = tracked - {"describe", "watch", "history", "rollback", "serve"}  # for people and for services
    assert wanted | {"main"} == set(PROJECT["entry_points"])


@pytest.mark.slow
def test_mlflow_runs_an_entry_point_with_the_local_environment(held_out, make_model, tmp_path):
    store, truth = held_out
    model = make_model("mlp", "mlp")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    tracking = f"sqlite:///{tmp_path}/mlflow.db"
    environment |= {"MLFLOW_TRACKING_URI": tracking, "MLFLOW_DISABLE_TELEMETRY": "true"}
    parameters = {"store": os.path.relpath(store, tmp_path), "model": model, "truth": truth, "out": tmp_path / "judged"}
    options = [text for name, value in parameters.items() for text in ("-P", f"{name}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", "run", MLFLOW, "--env-manager", "local", "-e", "evaluate", *options],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "judged" / "summary.parquet").is_file()
    (own,) = fetch_runs(open_tracking(tracking), "evaluate").to_dict("records")
    (project,) = fetch_runs(open_tracking(tracking), "Default").to_dict("records")
    assert (own["name"], own["tags.project_run"]) == ("mlp", project["run_id"])
    assert project["params.truth"] == str(truth)
    assert not (MLFLOW / "mlruns").exists()


def test_compose_file_has_only_keys_of_the_specification():
    compose = yaml.safe_load(COMPOSE.read_text())
    assert set(compose) == {"name", "services", "networks", "volumes"}
    keys = {key for service in compose["services"].values() for key in service}
    assert keys <= SERVICE_KEYS
    checks = {key for service in compose["services"].values() for key in service["healthcheck"]}
    assert checks == {"test", "interval", "timeout", "retries", "start_period"}
    for service in compose["services"].values():
        assert set(service["networks"]) <= set(compose["networks"])
        assert {volume.split(":")[0] for volume in service["volumes"]} <= set(compose["volumes"])
        assert set(service.get("depends_on", {})) <= set(compose["services"])


def test_services_are_pinned_watched_and_bound_to_loopback():
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    assert all(re.search(r":\d+\.\d+", service["image"]) for service in services.values())
    assert all("healthcheck" in service for service in services.values())
    ports = [interpolate(port, {}) for service in services.values() for port in service.get("ports", [])]
    assert [port.split(":")[0] for port in ports] == ["127.0.0.1"]


def test_server_refuses_other_names_and_its_command_holds_no_password():
    command, environment = compose_server()
    assert {name.split(":")[0] for name in environment["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")} == set(LOOPBACK)
    assert not any("PASSWORD" in argument or "${" in argument for argument in command)


def test_missing_password_is_asked_for():
    with pytest.raises(ValueError, match=r"POSTGRES_PASSWORD: copy \.env\.example to \.env"):
        interpolate("${POSTGRES_PASSWORD:?copy .env.example to .env and choose a password}", {})


def test_example_of_the_environment_names_every_variable_with_its_default():
    text = COMPOSE.read_text()
    used = set(re.findall(r"\$\{(\w+):", text))
    lines = (MLFLOW / ".env.example").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert set(given) == used
    assert given.pop("POSTGRES_PASSWORD") == ""
    assert all(f"${{{name}:-{value}}}" in text for name, value in given.items())


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_environment_file_is_not_committed():
    done = subprocess.run(["git", "check-ignore", ".env"], cwd=MLFLOW, capture_output=True, text=True, check=False)
    if "not a git repository" in done.stderr:
        pytest.skip("not a git repository")
    assert done.stdout == ".env\n"


def test_server_image_has_the_versions_of_the_clients():
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", (MLFLOW.parent / "constraints.txt").read_text(), re.MULTILINE))
    assert yaml.safe_load(COMPOSE.read_text())["services"]["server"]["image"].endswith(f":{pinned['mlflow']}")
    assert "--constraint /tmp/constraints.txt mlflow psycopg2-binary" in (MLFLOW / "Dockerfile").read_text()
