"""Values of trainings and evaluations that are logged, and those that are not."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from shutterless.models.evaluation.platt import reliability_error
from shutterless.models.families import load_model
from shutterless.models.training.learning_curves import LATE_GENERALISATION, STILL_LEARNING, Diagnosis
from shutterless.pipeline.files import write_parquet
from shutterless.workflows.settings.settings import TrainSettings
from shutterless.workflows.tracking import record as record_module
from shutterless.workflows.tracking.record import (
    diagnose_training,
    hash_weights,
    record_evaluation,
    record_model,
    record_training,
)
from shutterless.workflows.tracking.tracking import fetch_runs, read_losses, read_table, register_model, track_run

TRAINED = {
    "family": "cnn", "shuffled": False, "n_parameters": 321, "train_seconds": 4.0, "best_epoch": 3.0, "seed": 9,
    "manifest_hash": "abc", "forced_choice": 0.75, "forced_choice_error": 0.01,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(make_model):
    """A model with a history of sixty steps whose loss halves every ten."""
    folder = make_model("cnn")
    steps = np.arange(5, 61, 5)
    rows = [(step, "train", 2 * 0.5 ** (step / 10) + 0.1) for step in steps]
    rows += [(step, "validation", 2 * 0.5 ** (step / 20) + 0.1) for step in steps[3::4]]
    history = pd.DataFrame(rows, columns=["step", "split", "loss"]).assign(accuracy=0.9, auc=np.nan)
    write_parquet(history, folder / "history.parquet")
    (folder / "training.json").write_text(json.dumps(TRAINED))
    return folder


@pytest.fixture(scope="module")
def training_run(trained, tracking):
    with track_run(tracking, "record training", "cnn") as run:
        record_training(run, trained, TrainSettings())
    (logged,) = fetch_runs(tracking, "record training").to_dict("records")
    return logged


def test_run_of_a_training_is_tagged_with_what_its_curve_says(training_run, trained):
    diagnosis = diagnose_training(trained)
    assert diagnosis.name == STILL_LEARNING
    assert training_run["tags.learning_curve"] == "still learning"
    assert training_run["tags.learning_curve.evidence"] == diagnosis.evidence
    assert "train longer" in diagnosis.evidence


def test_step_of_a_diagnosis_is_part_of_the_tag(trained, tracking, monkeypatch):
    monkeypatch.setattr(record_module, "diagnose", lambda *_, **__: Diagnosis(LATE_GENERALISATION, "made", 40))
    with track_run(tracking, "record steps", "cnn") as run:
        record_training(run, trained, TrainSettings())
    assert fetch_runs(tracking, "record steps")["tags.learning_curve"].tolist() == ["late generalisation from step 40"]


def test_dropout_is_told_to_the_diagnosis(trained, monkeypatch):
    received = {}
    monkeypatch.setattr(record_module, "diagnose", lambda _, **options: received.update(options))
    diagnose_training(trained)
    assert received == {"dropout": load_model(trained).config.dropout}


def test_training_is_logged_with_its_history(training_run, trained, tracking):
    assert training_run["params.arch.n_parameters"] == "321"
    assert (training_run["params.data.manifest_hash"], training_run["params.data.seed"]) == ("abc", "9")
    assert training_run["tags.model.hash"] == hash_weights(trained)
    assert training_run["tags.shuffled"] == "false"
    choice = training_run["metrics.validation.forced_choice"], training_run["metrics.validation.forced_choice_error"]
    assert choice == (0.75, 0.01)
    history = read_losses(tracking, training_run["run_id"])
    expected = pd.read_parquet(trained / "history.parquet")[["step", "split", "loss"]]
    pd.testing.assert_frame_equal(
        history.sort_values(["split", "step"], ignore_index=True),
        expected.sort_values(["split", "step"], ignore_index=True),
        check_dtype=False,
    )


def test_judged_model_says_what_it_is_and_shares_the_hash_of_its_training(trained, tracking, training_run):
    with track_run(tracking, "record model", "cnn") as run:
        record_model(run, {"family": "?"}, str(trained))
    (logged,) = fetch_runs(tracking, "record model").to_dict("records")
    n_parameters = sum(parameter.numel() for parameter in load_model(trained).parameters())
    assert (logged["params.arch.family"], logged["params.arch.n_parameters"]) == ("cnn", str(n_parameters))
    assert (logged["params.data.training_hash"], logged["params.data.training_seed"]) == ("abc", "9")
    assert logged["metrics.train_seconds"] == 4.0
    assert logged["tags.model.hash"] == training_run["tags.model.hash"]
    assert "params.arch.kernel_rows" in logged


def test_evaluation_is_linked_to_the_training_and_to_the_registered_version(tracking, make_model):
    import mlflow

    folder = make_model("linked", seed=77)
    with track_run(tracking, "link training", "linked") as training:
        training.log_model(folder)
    version = register_model(tracking, training.run_id, "linked")
    with track_run(tracking, "link evaluation", "linked") as run:
        record_model(run, {"family": "?"}, str(folder))
        run.log_metrics({"completeness": 0.75})
    (logged,) = fetch_runs(tracking, "link evaluation").to_dict("records")
    assert logged["tags.training_run"] == training.run_id
    assert logged["tags.registered_version"] == f"models:/linked/{version}"
    client = mlflow.MlflowClient(tracking.uri)
    (model,) = client.get_run(run.run_id).inputs.model_inputs
    assert {m.key: m.value for m in client.get_logged_model(model.model_id).metrics} == {"completeness": 0.75}


def test_template_bank_has_no_parameters(tracking):
    with track_run(tracking, "record bank", "bank") as run:
        record_model(run, {"family": "template-bank"}, None)
    (logged,) = fetch_runs(tracking, "record bank").to_dict("records")
    params = {name: value for name, value in logged.items() if name.startswith("params.")}
    assert params == {"params.arch.family": "template-bank", "params.arch.n_parameters": "0"}


BINS = {"rho_low": 6.0, "rho_high": 7.0, "n": 4, "found": 2, "completeness": 0.5, "low": 0.15, "high": 0.85}


def completeness():
    return pd.DataFrame([{"kind": "all", **BINS, "detector": name} for name in ("cnn", "other")])


def test_finite_numbers_of_a_summary_become_metrics_and_nothing_else(tracking):
    summary = {"detector": "cnn", "family": "cnn", "shuffled": False, "extrapolated": True, "n_parameters": 7}
    summary |= {"completeness": 0.5, "n_events": np.int64(4), "rho50": np.nan, "threshold": -np.inf}
    with track_run(tracking, "record", "cnn") as run:
        record_evaluation(run, summary, completeness())
    (logged,) = fetch_runs(tracking, "record").to_dict("records")
    metrics = {name: value for name, value in logged.items() if name.startswith("metrics.")}
    assert metrics == {"metrics.completeness": 0.5, "metrics.n_events": 4.0}


def test_each_detector_logs_its_own_rows_with_what_pairs_them(tracking):
    events = pd.DataFrame({
        "detector": ["cnn", "cnn", "other"], "event_id": ["a", "b", "a"], "entry": "e", "found": [True, False, True],
    })  # fmt: skip
    reliability = pd.DataFrame({
        "detector": "cnn", "n": [30, 10, 0], "mean_probability": [0.2, 0.8, np.nan],
        "observed_fraction": [0.1, 1.0, np.nan],
    })  # fmt: skip
    with track_run(tracking, "record tables", "cnn") as run:
        record_evaluation(
            run, {"detector": "cnn", "completeness": 0.5}, completeness(), events=events, reliability=reliability,
            eta=6.05, data_hash="xyz",
        )  # fmt: skip
    (logged,) = fetch_runs(tracking, "record tables").to_dict("records")
    assert logged["tags.evaluation.data_hash"] == "xyz"
    assert logged["metrics.eta"] == 6.05
    # (30 × 0.1 + 10 × 0.2) / 40
    assert logged["metrics.calibration_error"] == pytest.approx(0.125)
    assert reliability_error(reliability) == pytest.approx(0.125)
    found = read_table(tracking, run.run_id, "events")
    assert found[["event_id", "found"]].to_numpy().tolist() == [["a", True], ["b", False]]
    assert len(read_table(tracking, run.run_id, "completeness")) == 1
    assert len(read_table(tracking, run.run_id, "reliability")) == 3


def test_detector_without_probabilities_logs_no_reliability(tracking):
    with track_run(tracking, "record none", "bank") as run:
        record_evaluation(run, {"detector": "cnn"}, completeness(), reliability=pd.DataFrame())
    assert read_table(tracking, run.run_id, "reliability") is None
