from __future__ import annotations

import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from shutterless.models.boxes.saved import load_boxes
from shutterless.models.boxes.settings import BoxTrainingSettings
from shutterless.workflows.boxes.labels import BoxLabelError
from shutterless.workflows.boxes.train import (
    BOX_EXPERIMENT,
    CURVES,
    CURVES_FIGURE,
    FOUND_HELD_OUT,
    box_model_folder,
    train_boxes,
)
from shutterless.workflows.cli import load_app
from shutterless.workflows.tracking.record import TRAINING
from shutterless.workflows.tracking.tracking import TrackingError, fetch_runs, open_tracking, resolve_model

QUICK = BoxTrainingSettings(epochs=3, learning_rate=5e-3)


@pytest.fixture(scope="module")
def trained(labelled, small_detector, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    tracking = open_tracking(f"sqlite:///{folder}/mlflow.db")
    (labelled.parent / "lost.fits").write_bytes(b"no image")
    stored = json.loads(labelled.read_text())
    stored["images"].append({"id": 9, "file_name": "lost.fits", "field": "field 0"})
    labels = labelled.parent / "with_lost.json"
    labels.write_text(json.dumps(stored))
    result = train_boxes(labels, out=folder / "model", init=small_detector, settings=QUICK, tracking=tracking)
    return result, folder / "model", tracking


def test_every_box_is_counted_once_however_many_tiles_see_it(trained):
    result, folder, _ = trained
    facts = json.loads((folder / TRAINING).read_text())
    assert facts["n_boxes"] == {"bar": 3}
    assert facts["fields"] == ["field 0", "field 1"]
    assert facts["pixel_scale_arcsec"] == pytest.approx(1.0)
    assert set(facts["precision_at_70_percent"]) == {"bar"}
    assert result.facts["settings"]["epochs"] == 3


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_used(trained):
    (failure,) = trained[0].failures
    assert "lost.fits" in failure


def test_the_folder_holds_a_detector_of_the_labelled_and_the_known_kinds_and_how_good_it_is(trained):
    _, folder, _ = trained
    model = load_boxes(folder)
    assert model.config.kinds == ["bar", "blob"]
    assert model.config.pixel_scale_arcsec == pytest.approx(1.0)
    assert {"tile", "kind", "score"} <= set(pd.read_parquet(folder / FOUND_HELD_OUT).columns)
    curves = pd.read_parquet(folder / CURVES)
    assert curves.columns.tolist() == ["kind", "score", "precision", "recall"]
    assert curves["precision"].between(0, 1).all()
    assert (folder / CURVES_FIGURE).stat().st_size > 1000


def test_the_run_is_tracked_and_its_model_can_be_named_by_it(trained):
    _, folder, tracking = trained
    (run,) = fetch_runs(tracking, BOX_EXPERIMENT).to_dict("records")
    assert run["params.arch.family"] == "boxes"
    logged = resolve_model(run["run_id"], tracking)
    assert (logged / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_a_detector_without_boxes_is_refused():
    with pytest.raises(TrackingError, match="template-bank finds events in frames and no boxes; name a box detector"):
        box_model_folder("template-bank")


def test_labels_of_which_no_image_can_be_read_are_refused(tmp_path, small_detector):
    (tmp_path / "l.json").write_text(
        '{"images": [{"id": 1, "file_name": "gone.fits"}], "annotations": [], "categories": []}'
    )
    with pytest.raises(BoxLabelError, match=r"none of 1 labelled images can be used: .*gone.fits does not exist"):
        train_boxes(tmp_path / "l.json", out=tmp_path / "m", init=small_detector, settings=QUICK)


def test_the_command_says_how_good_the_detector_is(labelled, small_detector, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    arguments = ["boxes", "train", labelled, "--init", small_detector, "--out", tmp_path / "m", "--epochs", 1, "-q"]
    result = CliRunner().invoke(load_app(), [str(word) for word in arguments])
    assert result.exit_code == 0, result.output
    assert "of 3 boxes, each field held out" in result.stdout
    assert load_boxes(tmp_path / "m").config.kinds[0] == "bar"
