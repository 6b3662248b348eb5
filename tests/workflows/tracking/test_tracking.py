"""Tracking against a real SQLite store: what is logged is found again, and models resolve to folders."""

from __future__ import annotations

import filecmp
import logging
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

from shutterless.models.families import build_model, load_model
from shutterless.models.scoring import score_strips
from shutterless.pipeline.tokens import STAGE1_FEATURES, StripBatch, TokenGrid
from shutterless.workflows.pyfunc_loader import _load_pyfunc
from shutterless.workflows.tracking import tracking as tracking_module
from shutterless.workflows.tracking.tracking import (
    TrackingError,
    default_tracking_uri,
    fetch_runs,
    open_tracking,
    pinned_requirements,
    provenance,
    register_model,
    resolve_model,
    track_run,
)

GRID = TokenGrid(n_columns=4, n_rows=24, patch_rows=8)


def draw_strips(rng, n_strips=5):
    shapes = {
        "patches": (n_strips, GRID.n_tokens, GRID.patch_size),
        "context": (n_strips, GRID.n_tokens, GRID.patch_rows),
        "profile": (n_strips, GRID.profile_size),
        "features": (n_strips, len(STAGE1_FEATURES)),
    }
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return StripBatch(**arrays, mask=np.ones((n_strips, GRID.n_tokens), dtype=bool))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "mlp"
    build_model("mlp", GRID).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def logged(tmp_path_factory, model_folder):
    """A store with one finished run, which logged a model, and one failed run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking = open_tracking(tmp_path_factory.mktemp("tracking"))
    with track_run(tracking, "detectors", "mlp", tags={"family": "mlp"}) as run:
        run.log_params({"epochs": 3, "grid": {"bins": [1, 4]}}, prefix="train.")
        run.log_data(manifest_hash="abc", seed=7)
        for step in range(1500):
            run.log_metrics({"loss": 1 / (step + 1)}, step)
        run.log_table(pd.DataFrame({"rho": [4.0], "completeness": [0.5]}), "completeness")
        run.log_model(model_folder, n_parameters=123)
    with pytest.raises(RuntimeError, match="stopped"), track_run(tracking, "detectors", "failing"):
        raise RuntimeError("stopped")
    return tracking, run.run_id


def test_finished_runs_come_back_with_what_was_logged(logged):
    tracking, run_id = logged
    (row,) = fetch_runs(tracking, "detectors").to_dict("records")  # the failed run is left out
    assert (row["run_id"], row["name"], row["tags.family"]) == (run_id, "mlp", "mlp")
    assert row["params.train.epochs"] == "3"
    assert row["params.train.grid.bins"] == "[1, 4]"
    assert row["params.arch.n_parameters"] == "123"
    assert (row["params.data.manifest_hash"], row["params.data.seed"]) == ("abc", "7")
    assert row["metrics.loss"] == pytest.approx(1 / 1500)
    assert row["tags.shutterless.version"] == provenance()["shutterless.version"]


def test_every_step_of_a_metric_is_kept(logged):
    import mlflow

    tracking, run_id = logged
    history = mlflow.MlflowClient(tracking.uri).get_metric_history(run_id, "loss")
    assert [point.step for point in history] == list(range(1500))


def test_store_and_artifacts_stay_in_the_output_folder(logged):
    tracking, _ = logged
    folder = Path(tracking.uri.removeprefix("sqlite:///")).parent
    assert {path.name for path in folder.iterdir()} == {"mlflow.db", "mlartifacts"}


def test_logged_model_is_the_folder_again_and_holds_no_pickle(logged, model_folder):
    tracking, run_id = logged
    found = resolve_model(run_id, tracking)
    names = sorted(path.name for path in model_folder.iterdir())
    assert filecmp.cmpfiles(found, model_folder, names, shallow=False) == (names, [], [])
    suffixes = {path.suffix for path in found.parent.parent.rglob("*") if path.is_file()}
    assert not suffixes & {".pkl", ".pickle", ".bin", ".pt", ".pth"}


def test_registered_alias_and_version_resolve_to_the_same_folder(logged):
    tracking, run_id = logged
    assert register_model(tracking, run_id, "detector", "champion") == "1"
    by_alias = resolve_model("models:/detector@champion", tracking)
    assert by_alias == resolve_model("models:/detector/1", tracking) == resolve_model(run_id, tracking)


def test_registering_a_folder_logs_it_and_moves_the_alias(logged, model_folder):
    tracking, _ = logged
    register_model(tracking, model_folder, "folder-detector", "champion")
    first = resolve_model("models:/folder-detector@champion", tracking)
    assert register_model(tracking, model_folder, "folder-detector", "champion") == "2"
    assert resolve_model("models:/folder-detector@champion", tracking) != first


def test_logged_model_predicts_as_the_model_it_was_made_from(logged, model_folder):
    import mlflow

    tracking, run_id = logged
    strips = draw_strips(np.random.default_rng(5))
    expected = score_strips(load_model(model_folder), strips)
    arrays = {name: getattr(strips, name) for name in StripBatch.__dataclass_fields__}
    address = tracking_module._address_of_run(run_id, tracking)
    mlflow.set_tracking_uri(tracking.uri)
    pd.testing.assert_frame_equal(mlflow.pyfunc.load_model(address).predict(arrays), expected)


def test_loader_names_the_array_that_is_missing(model_folder):
    with pytest.raises(ValueError, match="model input lacks 'context'; it needs"):
        _load_pyfunc(str(model_folder)).predict({"patches": np.zeros((1, 3, 32))})


def test_references_that_need_no_store(model_folder):
    assert resolve_model(model_folder) == model_folder
    assert resolve_model("template-bank") is None


def test_references_that_lead_nowhere_say_where_they_looked(logged, tmp_path, monkeypatch):
    tracking, _ = logged
    with pytest.raises(TrackingError, match="no model 'typo': it is neither a folder"):
        resolve_model("typo")
    with pytest.raises(TrackingError, match=r"is not a model folder: .*config\.json is missing"):
        resolve_model(tmp_path)
    with pytest.raises(TrackingError, match=r"model models:/absent@champion is not in sqlite:///.*absent"):
        resolve_model("models:/absent@champion", tracking)
    with pytest.raises(TrackingError, match=f"no run {'0' * 32} in sqlite"):
        resolve_model("0" * 32, tracking)
    monkeypatch.setattr(tracking_module.resources, "files", lambda _: tmp_path)
    with pytest.raises(TrackingError, match="this installation bundles no model"):
        resolve_model("bundled")


def test_registering_what_is_no_model_is_refused(logged, tmp_path):
    tracking, _ = logged
    with pytest.raises(TrackingError, match="no model 'typo'"):
        register_model(tracking, "typo", "detector")
    with pytest.raises(TrackingError, match=r"holds no model: config\.json is missing"):
        register_model(tracking, tmp_path, "detector")
    with track_run(tracking, "empty", "no model") as run:
        pass
    with pytest.raises(TrackingError, match="logged no model"):
        register_model(tracking, run.run_id, "detector")
    with pytest.raises(TrackingError, match=r"cannot register models:/absent/1 as 'detector'"):
        register_model(tracking, "models:/absent/1", "detector")


def test_unknown_experiment_names_those_there_are(logged):
    with pytest.raises(TrackingError, match=r"no experiment 'detector' in sqlite.*'detectors'"):
        fetch_runs(logged[0], "detector")


def test_store_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(TrackingError, match=r"tracking store sqlite:///.*mlflow\.db cannot be opened"):
        open_tracking(blocked)


def test_store_whose_making_is_cut_leaves_nothing_and_one_that_others_made_stays(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with monkeypatch.context() as cut:
        cut.setattr("mlflow.MlflowClient.search_experiments", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            open_tracking(tmp_path)
    assert list(tmp_path.iterdir()) == []
    open_tracking(tmp_path)
    before = (tmp_path / "mlflow.db").stat().st_ino
    tracking_module._make_database(tmp_path / "mlflow.db")  # as a process does that was slower
    assert [(path.name, path.stat().st_ino) for path in tmp_path.iterdir()] == [("mlflow.db", before)]


def test_half_made_store_is_refused_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("create table secrets (secret_id text)")
        database.commit()
    with pytest.raises(
        TrackingError, match=r"mlflow\.db cannot be opened: .*already exists; move it away if its making"
    ):
        open_tracking(tmp_path)


def test_environment_names_the_store(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert default_tracking_uri(tmp_path) == "http://localhost:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert default_tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"


def test_requirements_are_pinned_without_local_versions():
    pinned = dict(line.split("==") for line in pinned_requirements())
    assert {"shutterless", "torch", "transformers", "numpy"} <= set(pinned)
    assert pinned["torch"] == version("torch").partition("+")[0]  # "+cpu" is offered by no index
    assert not any("+" in number for number in pinned.values())


def test_quietness_is_confined(logged):
    level = logging.getLogger("mlflow").level
    with tracking_module.quiet_mlflow():
        assert logging.getLogger("mlflow").level == logging.WARNING
    assert logging.getLogger("mlflow").level == level


def test_loader_does_not_import_mlflow():
    code = "import sys, shutterless.workflows.pyfunc_loader; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
