"""The whole quickstart on a small camera: every promised file exists, and the files agree."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from shutterless.pipeline.reading.frames import read_frame_info
from shutterless.pipeline.results.candidates import CANDIDATE_TYPES
from shutterless.pipeline.store.store import manifest_hash, read_manifest
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.quickstart import (
    QuickstartError,
    _empty_folder,
    _match_candidates,
    _plan_controls,
    run_quickstart,
)
from shutterless.workflows.settings.settings import FAMILY_NAMES, load_settings

CONFIGURATION = """
[simulate.training]
instrument = {camera}
ccds = [1]
rows = 4000
n_bright_stars = 3000.0
[simulate.validation]
instrument = {camera}
files = 1
rows = 4000
n_bright_stars = 3000.0
[simulate.event_free]
instrument = {camera}
files = 1
rows = 9000
n_bright_stars = 3000.0
[simulate.with_events]
instrument = {camera}
files = 2
rows = 5000
events = 8
rho = [6.0, 30.0]
n_bright_stars = 3000.0
[ingest]
instrument = {camera}
[train]
epochs = 1
batch_size = 32
n_examples = 240
[train.grid]
n_columns = 8
n_rows = 64
bins = [1, 4]
[transformer]
hidden_size = 16
n_layers = 1
n_heads = 2
mlp_size = 16
[cnn]
channels = [8]
strides = [2]
kernel_rows = 5
hidden_size = 8
[mlp]
hidden_sizes = []
[evaluate]
bootstrap = 50
"""
CONTROLS = [f"{family}-shuffled-{number}" for family in FAMILY_NAMES for number in (1, 2, 3)]


@pytest.fixture(scope="module")
def settings(tiny_camera, tmp_path_factory):
    path = tmp_path_factory.mktemp("configuration") / "small.toml"
    path.write_text(CONFIGURATION.format(camera=json.dumps(tiny_camera)))
    return load_settings(path)


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    """The folder of one finished run, and its output."""
    out, printed = tmp_path_factory.mktemp("quickstart") / "run", io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        progress = Progress(console=Console(file=printed, width=200))
        report = run_quickstart(settings, out, no_dask=True, progress=progress)
    assert report == out / "report.html"
    return out, printed.getvalue()


@pytest.fixture(scope="module")
def out(finished) -> Path:
    return finished[0]


def best_model(out):
    summary = pd.read_parquet(out / "evaluation" / "summary.parquet")
    learned = summary[summary["detector"].isin(FAMILY_NAMES)]
    return learned.loc[learned["completeness"].idxmax(), "detector"]


def test_everything_that_the_readme_names_exists(out):
    files = [
        "report.html", "settings.toml", "timings.json", "failures.parquet", "training_set.npz", "mlflow.db",
        "evaluation/summary.parquet", "evaluation/completeness.parquet", "evaluation/verdict.txt",
        "comparison/comparison.parquet", "comparison/comparison.html", "search/candidates.parquet",
        "search/candidates.ecsv", "search/matches.parquet", "search/failures.parquet",
    ]  # fmt: skip
    files += [f"store/{store}/manifest.parquet" for store in ("training", "validation", "held_out")]
    scenes = ("training", "validation", "event_free", "with_events")
    files += [f"frames/{scene}/{table}.parquet" for scene in scenes for table in ("truth", "stars")]
    whole = ("config.json", "model.safetensors", "training.json")
    files += [f"models/{name}/{file}" for name in FAMILY_NAMES for file in (*whole, "rates.json")]
    files += [f"controls/{name}/{file}" for name in CONTROLS for file in whole]
    assert [name for name in files if not (out / name).is_file()] == []
    assert (out / "mlartifacts").is_dir()
    assert len(pd.read_parquet(out / "failures.parquet")) == 0


def test_frames_are_those_of_the_settings(out, settings):
    for name, scene in settings.simulate.scenes().items():
        frames = sorted((out / "frames" / name).glob("*.fits.fz"))
        assert len(frames) == scene.files * len(scene.ccds)
        assert {read_frame_info(frame, settings.ingest.instrument).n_rows for frame in frames} == {scene.rows}
        events = pd.read_parquet(out / "frames" / name / "truth.parquet")["is_event"].sum()
        assert events == 2 * scene.events * len(frames)  # quadrants x events x files


def test_resolved_settings_read_back_to_the_same_settings(out, settings):
    assert load_settings(out / "settings.toml") == settings


def test_every_step_was_timed_and_the_places_are_said(finished):
    out, printed = finished
    seconds = json.loads((out / "timings.json").read_text())
    assert list(seconds) == ["simulate", "ingest", "train", "evaluate", "track and register", "search"]
    for text in ("registered as: models:/shutterless@champion", f"report: {out / 'report.html'}", "Take "):
        assert text in printed


def read_training(folder):
    return json.loads((folder / "training.json").read_text())


def test_controls_have_shuffled_labels_a_seed_and_everything_else_the_same(out):
    for family in FAMILY_NAMES:
        true = read_training(out / "models" / family)
        controls = [read_training(out / "controls" / f"{family}-shuffled-{number}") for number in (1, 2, 3)]
        assert [control["seed"] for control in controls] == [true["seed"], true["seed"] + 1, true["seed"] + 2]
        for control in controls:
            assert (true["shuffled"], control["shuffled"]) == (False, True)
            for name in ("family", "n_parameters", "n_strips", "n_validation_strips", "manifest_hash"):
                assert true[name] == control[name], name


def test_controls_share_the_epochs_of_their_family(settings, tmp_path):
    longer = replace(settings, train=replace(settings.train, epochs=7))
    for plans, epochs in ((_plan_controls(settings, tmp_path), 1), (_plan_controls(longer, tmp_path), 2)):
        assert [plan.task.name for plan in plans] == CONTROLS
        assert {plan.settings.epochs for plan in plans} == {epochs}


def test_labels_are_judged_by_the_choices_of_models_and_controls(finished):
    out, said = finished
    judged = pd.read_parquet(out / "controls" / "summary.parquet").set_index("name")
    assert list(judged.index) == list(FAMILY_NAMES)
    for family, row in judged.iterrows():
        shares = [read_training(out / "controls" / f"{family}-shuffled-{n}")["forced_choice"] for n in (1, 2, 3)]
        assert row["share"] == read_training(out / "models" / family)["forced_choice"]
        assert row["control_share"] == pytest.approx(np.mean(shares))
        assert f"{family}: of an event and a false trigger of equal S/N it chooses the event in" in said


def test_every_detector_was_judged_at_the_same_rate_on_the_same_events(out):
    summary = pd.read_parquet(out / "evaluation" / "summary.parquet")
    assert list(summary["detector"]) == ["template-bank", "bundled", *FAMILY_NAMES]
    truth = pd.read_parquet(out / "evaluation" / "truth.parquet")
    counted = int((truth["is_event"] & (truth["kind"] != "glint")).sum())
    assert set(summary["n_events"]) == {counted}
    assert summary["live_hours"].nunique() == 1
    assert (summary["false_alarms"] <= 10).all()
    assert (summary.loc[summary["detector"].isin(FAMILY_NAMES), "strips_per_second"] > 0).all()


def test_champion_leads_to_the_weights_of_the_best_model_with_true_labels(out):
    from safetensors.numpy import load_file

    from shutterless.workflows.tracking.tracking import open_tracking, resolve_model

    champion = resolve_model("models:/shutterless@champion", open_tracking(f"sqlite:///{out / 'mlflow.db'}"))
    best = out / "models" / best_model(out)
    kept, registered = (load_file(folder / "model.safetensors") for folder in (best, champion))
    assert kept.keys() == registered.keys()
    for name, values in kept.items():
        np.testing.assert_array_equal(registered[name], values)
    # without it a search by models:/shutterless@champion would know no threshold
    assert (champion / "rates.json").read_bytes() == (best / "rates.json").read_bytes()


def test_runs_of_all_detectors_are_tracked_and_compared_best_first(out):
    runs = pd.read_parquet(out / "comparison" / "comparison.parquet")
    assert set(runs["name"]) == {"template-bank", "bundled", *FAMILY_NAMES, *CONTROLS}
    judged = runs[runs["judged"]]
    assert set(judged["name"]) == {"template-bank", "bundled", *FAMILY_NAMES}
    assert judged["metrics.completeness"].is_monotonic_decreasing
    hashes = [manifest_hash(read_manifest(out / "store" / name)) for name in ("training", "validation")]
    assert set(runs["params.data.manifest_hash"]) == {"+".join(hashes)}
    assert set(runs.loc[runs["control"], "name"]) == set(CONTROLS)
    page = (out / "comparison" / "comparison.html").read_text(encoding="utf-8")
    assert page.count("Control: ") == 3


def test_candidates_have_every_column(out):
    candidates = pd.read_parquet(out / "search" / "candidates.parquet")
    assert list(candidates.columns) == list(CANDIDATE_TYPES)
    assert len(candidates) > 0
    assert set(candidates["file"]) <= {path.name for path in (out / "frames" / "with_events").iterdir()}
    assert candidates["model"].str.contains(best_model(out)).all()


def test_no_group_joins_distinct_events_and_none_that_was_found_is_missing_from_the_report(out):
    candidates = pd.read_parquet(out / "search" / "candidates.parquet")
    matches = pd.read_parquet(out / "search" / "matches.parquet")
    events = candidates.merge(matches[["candidate_id", "event_id"]], on="candidate_id")
    distinct = events.groupby("group_id")["event_id"].nunique()
    assert (distinct > 1).sum() <= 0.01 * candidates["group_id"].nunique()
    page = (out / "report.html").read_text(encoding="utf-8")
    listed = page[page.index('id="candidates"') :]
    assert [name for name in matches["candidate_id"] if name not in listed] == []
    assert listed.count(", ρ = ") >= matches["event_id"].nunique()
    assert [name for name in candidates["candidate_id"] if name not in listed] == []


def test_matches_name_candidates_and_injected_events(out):
    matches = pd.read_parquet(out / "search" / "matches.parquet")
    candidates = pd.read_parquet(out / "search" / "candidates.parquet").set_index("candidate_id")
    truth = pd.read_parquet(out / "frames" / "with_events" / "truth.parquet").set_index("event_id")
    assert len(matches) > 0
    for match in matches.itertuples():
        candidate, event = candidates.loc[match.candidate_id], truth.loc[match.event_id]
        assert event["is_event"]
        assert (candidate["file"], candidate["quadrant"]) == (event["file"], event["quadrant"])
        assert abs(candidate["x"] - event["x"]) <= 3


def test_report_is_one_page_that_names_every_detector(out):
    page = (out / "report.html").read_text(encoding="utf-8")
    assert [name for name in ("template-bank", *FAMILY_NAMES) if name not in page] == []
    assert "<script src" not in page


def test_foreign_folder_is_refused_and_left_alone(settings, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(QuickstartError, match=r"is not empty and was not made by `shutterless run`; .* --out"):
        run_quickstart(settings, tmp_path, no_dask=True, progress=Progress(quiet=True))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_folder_of_an_earlier_run_is_emptied(tmp_path):
    (tmp_path / "settings.toml").touch()
    (tmp_path / "models" / "left over").mkdir(parents=True)
    assert _empty_folder(tmp_path) == tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_second_run_from_the_command_line_replaces_the_first_and_finds_the_same(out, tmp_path):
    """Run in another process, into the folder of an earlier run."""
    again = tmp_path / "run"
    (again / "store" / "left over").mkdir(parents=True)
    shutil.copy(out / "settings.toml", again)
    command = [sys.executable, "-m", "shutterless.workflows.cli", "run", "--out", str(again), "--no-dask", "--quiet"]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(
        [*command, "--config", str(out / "settings.toml")], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"report: {again / 'report.html'}\n"), done.stderr
    assert not (again / "store" / "left over").exists()
    assert sorted(path.name for path in again.iterdir()) == sorted(path.name for path in out.iterdir())
    first, second = (pd.read_parquet(folder / "evaluation" / "detections.parquet") for folder in (out, again))
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    first, second = (pd.read_parquet(folder / "search" / "candidates.parquet") for folder in (out, again))
    pd.testing.assert_frame_equal(
        first.drop(columns=["model", "path"]), second.drop(columns=["model", "path"]), check_exact=True
    )


def test_candidate_is_matched_to_the_event_of_its_own_amplifier_only():
    place = {"file": "a.fits", "ccd": 1, "x": 10.0, "row_start": 100, "row_stop": 109}
    candidates = pd.DataFrame(
        [{**place, "quadrant": 1, "candidate_id": "here"}, {**place, "quadrant": 2, "candidate_id": "elsewhere"}]
    )
    event = {**place, "quadrant": 1, "kind": "flare", "rho": 9.0, "is_event": True, "event_id": "e1"}
    ray = {**event, "kind": "cosmic_ray", "rho": 99.0, "is_event": False, "event_id": "e2"}
    (matched,) = _match_candidates(candidates, pd.DataFrame([event, ray])).to_dict("records")
    assert matched == {"candidate_id": "here", "event_id": "e1", "kind": "flare", "rho": 9.0}
    nothing = _match_candidates(candidates.iloc[:0], pd.DataFrame([event]))
    assert list(nothing.columns) == ["candidate_id", "event_id", "kind", "rho"]
    assert len(nothing) == 0
