"""The commands of the registry as a user types them, one after the other, on simulated frames of a small camera."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from shutterless.models.evaluation.metrics import RateCurve
from shutterless.pipeline.store.store import manifest_hash, read_manifest
from shutterless.workflows import cli
from shutterless.workflows.registry import promotion
from shutterless.workflows.registry.model_card import CARD
from shutterless.workflows.searching.detect import write_rates
from shutterless.workflows.tracking.tracking import resolve_model

POLICY = """
[floors]
completeness = 0.0
live_hours = 0.001
strips_per_second = 1.0
[ceilings]
false_alarms_per_hour = 1e6
calibration_error = 1.0
[champion]
largest_standard_error = 1.0
"""


@pytest.fixture
def call(monkeypatch, tracking, tmp_path):
    """Call a command in an empty folder, with the tracking store of the tests."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.uri)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def models(make_model):
    """Two models of random weights with false-alarm curves."""
    folders = [make_model("one", seed=1), make_model("two", seed=2)]
    for folder in folders:
        write_rates(folder, RateCurve(np.linspace(2, -4, 50), 0.01), "elsewhere")
        (folder / "training.json").write_text(json.dumps({"family": "cnn", "n_parameters": 1, "shuffled": False}))
    return folders


def test_from_registration_to_rollback(call, models, held_out, tmp_path):
    (tmp_path / "policy.toml").write_text(POLICY)
    frames = ("--store", held_out[0], "--truth", held_out[1], "--policy", "policy.toml", "--quiet")
    for version, folder in enumerate(models, start=1):
        made = call("register", folder, "--name", "commanded")
        assert (made.exit_code, made.stdout) == (0, f"models:/commanded/{version} is version {version} of commanded\n")
    first = call("promote", "commanded", "1", *frames, "--reason", "the first")
    assert first.exit_code == 0, first.output
    assert first.stdout.splitlines()[0].split() == ["gate", "value", "limit"]
    assert first.stdout.endswith("moved champion to 1\n")

    strict = tmp_path / "strict.toml"
    strict.write_text(POLICY.replace("completeness = 0.0", "completeness = 1.0"))
    refused = call("promote", "commanded", "2", *frames, "--policy", strict)
    assert refused.exit_code == 1
    assert "FAIL" in refused.stdout
    assert "refused to move champion from version 1 to 2: completeness" in refused.stdout

    lenient = tmp_path / "lenient.toml"
    lenient.write_text(POLICY + "standard_errors = 100.0\n")
    second = call("promote", "commanded", "2", *frames, "--policy", lenient)
    assert second.exit_code == 0, second.output
    back = call("rollback", "commanded", "--reason", "sees ghosts")
    assert (back.exit_code, back.stdout) == (0, "champion of commanded is version 1 again, after 2\n")

    shown = call("history", "commanded")
    assert shown.exit_code == 0
    moves = [line.split("  ") for line in shown.stdout.splitlines() if " champion: " in line]
    assert [" ".join(move[-3:-1]) for move in moves] == [
        "promote champion: none → 1 done",
        "promote champion: 1 → 2 refused",
        "promote champion: 1 → 2 done",
        "rollback champion: 2 → 1 done",
    ]
    assert "why: sees ghosts" in shown.stdout
    assert f"manifest_hash: {manifest_hash(read_manifest(held_out[0]))}" in shown.stdout
    assert shown.stdout.endswith("champion is version 1\n")


@pytest.mark.parametrize(("passed", "promoted", "code"), [(True, False, 0), (False, False, 1)])
def test_a_dry_run_tells_by_its_exit_code_what_would_be(call, monkeypatch, passed, promoted, code):
    asked = []

    def promote(*arguments, **options):
        asked.append(options)
        return SimpleNamespace(text=lambda: "table", judgement=SimpleNamespace(passed=passed), promoted=promoted)

    monkeypatch.setattr(promotion, "promote_version", promote)
    assert call("promote", "name", "1", "--dry-run").exit_code == code
    assert asked[0]["dry_run"]
    assert call("promote", "name", "1").exit_code == 1  # nothing was moved


def test_what_disagrees_is_said_with_exit_code_one(call, models, tracking):
    import mlflow

    call("register", models[0], "--name", "moved", "--alias", "champion")
    call("register", models[0], "--name", "moved")
    mlflow.MlflowClient(tracking.uri, tracking.uri).set_registered_model_alias("moved", "champion", "2")
    shown = call("history", "moved")
    assert shown.exit_code == 1
    assert "NOTE champion stands at version 2, the history at 1: it was set outside of shutterless" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["promote", "absent", "1"], "error: no model 'absent' in sqlite"),
        (["history", "absent"], "error: no model 'absent' in sqlite"),
        (["rollback", "absent"], "error: no model 'absent' in sqlite"),
        (["promote", "known", "9"], "error: known has no version '9'"),
        (["promote", "known", "1"], "error: no frozen validation frames: give --store STORE"),
        (["promote", "known", "1", "--policy", "absent.toml"], "error: configuration absent.toml cannot be read"),
        (["rollback", "known"], "error: known had no other champion before"),
    ],
)
def test_bad_usage_is_explained(call, models, tracking, arguments, message):
    from shutterless.workflows.registry.store import RegistryStore

    if not RegistryStore(tracking, "known").exists():
        call("register", models[0], "--name", "known")
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_the_evaluation_of_the_command_is_attached(call, models, tracking, tmp_path):
    pd.DataFrame([{"detector": "one", "completeness": 0.25}]).to_parquet(tmp_path / "summary.parquet")
    made = call("register", models[0], "--name", "judged", "--evaluation", tmp_path, "--trained-on", "simulated frames")
    assert made.exit_code == 0, made.output
    folder = resolve_model("models:/judged/1", tracking).parent.parent
    assert pd.read_csv(folder / "evaluation" / "registered" / "summary.csv")["completeness"].tolist() == [0.25]
    assert "simulated frames" in (folder / CARD).read_text(encoding="utf-8")
