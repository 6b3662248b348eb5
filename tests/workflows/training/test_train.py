"""Examples from stores, and trainings that record their model, settings and data."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from safetensors.numpy import load_file
from scipy.special import expit

from shutterless.models.evaluation.forced_choice import forced_choice
from shutterless.models.families import load_model
from shutterless.models.scoring import score_strips
from shutterless.pipeline.store.store import StoreError, manifest_hash, read_manifest, write_manifest
from shutterless.pipeline.tokens import GridError
from shutterless.workflows.execution.progress import Progress
from shutterless.workflows.searching.detect import read_rates
from shutterless.workflows.tracking.tracking import fetch_runs
from shutterless.workflows.training.train import (
    VALIDATION_GROUP,
    TrainError,
    TrainTask,
    draw_training_set,
    fit_detector,
    sky_groups,
    train_model,
)


@pytest.fixture(scope="module")
def train_in(training_store, tmp_path_factory):
    """Train a perceptron into its own folder: ``train_in("name", settings)`` gives folder and summary."""

    def train(name, settings, **options):
        folder = tmp_path_factory.mktemp("trained") / name
        return folder, train_model(training_store, family="mlp", settings=settings, out=folder, **options)

    return train


@pytest.fixture(scope="module")
def trained(train_in, train_settings):
    """Folder and summary of one training."""
    return train_in("mlp", train_settings)


@pytest.fixture(scope="module")
def drawn_twice_and_another(training_store, train_settings):
    """Training sets of the seeds 1, 1 and 2."""
    return [draw_training_set(training_store, replace(train_settings, seed=seed)) for seed in (1, 1, 2)]


@pytest.fixture(scope="module")
def drawn_apart(training_store, held_out, train_settings):
    """A training set that is validated on another store."""
    return draw_training_set(training_store, train_settings, validation_store=held_out[0])


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_every_amplifier_is_a_group_and_gives_as_many_injected_examples(training_store, train_settings):
    drawn = draw_training_set(training_store, train_settings)
    assert set(drawn.groups) == {0, 1, 2, 3}
    # 120 examples, half of them events, on four amplifiers: 15 injected in each, of which stage 1 finds most
    found = np.bincount(drawn.groups[drawn.labels.is_event > 0])
    assert (found <= 15).all()
    assert (found >= 5).all()
    assert drawn.grid.n_columns == train_settings.grid.n_columns


def test_validation_store_counts_from_its_own_group(drawn_apart):
    assert set(drawn_apart.groups) == {0, 1, 2, 3, *(VALIDATION_GROUP + i for i in range(4))}


@pytest.mark.parametrize("shuffled", [False, True])
def test_model_is_judged_on_the_validation_store_alone(drawn_apart, train_settings, tmp_path, shuffled):
    """By its probabilities; those of a control are not calibrated, because that needs true labels."""
    drawn = drawn_apart
    summary = fit_detector(TrainTask("mlp", "mlp"), drawn, replace(train_settings, shuffled_labels=shuffled), tmp_path)
    apart = np.flatnonzero(drawn.groups >= VALIDATION_GROUP)
    assert (summary["n_validation_strips"], summary["n_strips"]) == (len(apart), len(drawn) - len(apart))
    model = load_model(tmp_path)
    assert ((model.config.calibration_slope, model.config.calibration_intercept) == (1.0, 0.0)) is shuffled
    strips = drawn.strips[apart]
    probability = expit(score_strips(model, strips)["event_logit"].to_numpy())
    found = forced_choice(probability, strips.features[:, 0], drawn.labels.is_event[apart])
    assert (summary["forced_choice"], summary["forced_choice_error"]) == (found.share, found.error)
    assert 0 < found.error < 0.2


def test_seed_fixes_the_examples_and_another_one_draws_others(drawn_twice_and_another):
    first, again, other = drawn_twice_and_another
    np.testing.assert_array_equal(first.strips.patches, again.strips.patches)
    np.testing.assert_array_equal(first.labels.onset, again.labels.onset)
    assert first.strips.patches.shape != other.strips.patches.shape or not np.array_equal(
        first.strips.patches, other.strips.patches, equal_nan=True
    )


def test_same_seed_gives_the_same_weights_to_the_bit_and_another_seed_others(
    drawn_twice_and_another, train_settings, tmp_path
):
    for number, (seed, drawn) in enumerate(zip((1, 1, 2), drawn_twice_and_another, strict=True)):
        fit_detector(TrainTask("mlp", "mlp"), drawn, replace(train_settings, seed=seed), tmp_path / str(number))
    first, again, other = ((tmp_path / str(number) / "model.safetensors").read_bytes() for number in range(3))
    assert first == again
    assert first != other


def test_training_leaves_the_model_its_history_and_what_it_was_made_from(trained, training_store):
    folder, summary = trained
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "history.parquet",
        "training.json",
        "rates.json",
    }
    assert read_rates(folder).live_hours > 0  # counted on the field set apart, so that a search knows its threshold
    assert json.loads((folder / "training.json").read_text()) == summary
    assert summary["manifest_hash"] == manifest_hash(read_manifest(training_store))
    assert (summary["family"], summary["seed"], summary["shuffled"], summary["best_epoch"]) == ("mlp", 5, False, 1)
    assert summary["train_seconds"] > 0
    history = pd.read_parquet(folder / "history.parquet")
    assert set(history["split"]) == {"train", "validation"}
    assert np.isfinite(history["loss"]).all()


def test_probabilities_are_calibrated_on_the_validation_strips(trained):
    config = json.loads((trained[0] / "config.json").read_text())
    assert (config["calibration_slope"], config["calibration_intercept"]) != (1.0, 0.0)


def test_parameters_of_a_perceptron_are_those_of_the_head(trained):
    """Every output is a weighted sum, with one weight per input and one bias."""
    folder, summary = trained
    trained = sum(values.size for name, values in weights(folder).items() if name.endswith(("weight", "bias")))
    assert summary["n_parameters"] == trained


def test_init_goes_on_from_the_weights_it_is_given(train_in, trained, train_settings):
    start, _ = trained
    # another seed would give other first weights, and a vanishing rate does not change them
    still = replace(train_settings, seed=9, learning_rate=1e-12)
    continued, _ = train_in("continued", still, init=start)
    fresh, _ = train_in("fresh", still)
    names = [name for name in weights(start) if name.endswith("weight")]
    assert names
    for name in names:
        np.testing.assert_allclose(weights(continued)[name], weights(start)[name], atol=1e-9)
        assert np.abs(weights(fresh)[name] - weights(start)[name]).max() > 1e-3


def test_init_of_another_grid_is_refused_with_both(train_in, make_model, train_settings):
    other = make_model("mlp", "mlp", grid={"n_columns": 8, "n_rows": 128, "patch_rows": 8, "bins": (1, 4)})
    with pytest.raises(GridError, match=r"training set has .*n_rows=64.*, but the model expects .*n_rows=128"):
        train_in("refused", train_settings, init=other)


def test_init_of_another_family_is_refused_with_both(train_in, make_model, train_settings):
    with pytest.raises(TrainError, match=r"cnn is a cnn, not a mlp; train it with --model cnn"):
        train_in("refused", train_settings, init=make_model("cnn", "cnn"))


def test_store_of_one_field_is_refused(training_store, train_settings, tmp_path):
    write_manifest(tmp_path, read_manifest(training_store).to_dict("records")[:1])
    with pytest.raises(TrainError, match=r"holds one field of stars; training needs at least two, one of them"):
        draw_training_set(tmp_path, train_settings)


def test_empty_store_is_refused(train_settings, tmp_path):
    write_manifest(tmp_path, [])
    with pytest.raises(TrainError, match=r"store .* holds no amplifier; see its failures\.parquet"):
        draw_training_set(tmp_path, train_settings)


def test_unfinished_store_is_refused_with_the_way_out(train_settings, tmp_path):
    with pytest.raises(StoreError, match=r"manifest\.parquet is missing; run `shutterless ingest --out .* --resume`"):
        draw_training_set(tmp_path, train_settings)


def test_amplifier_that_is_gone_from_the_store_is_named(training_store, train_settings, tmp_path):
    write_manifest(tmp_path, read_manifest(training_store).to_dict("records"))
    with pytest.raises(TrainError, match=r"no examples from .*/quiet_c01_000_c01_q1: StoreError: .*ingest it again"):
        draw_training_set(tmp_path, train_settings)


def test_tracked_training_says_what_was_trained_on_what(
    train_in, training_store, train_settings, tracking, monkeypatch
):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    settings = replace(train_settings, epochs=2)
    folder, summary = train_in("tracked", settings, tracking=tracking)
    (run,) = fetch_runs(tracking, "train").query("name == 'tracked'").to_dict("records")
    expected = {"arch.family": "mlp", "arch.hidden_sizes": "[]", "arch.n_parameters": str(summary["n_parameters"])}
    expected |= {"train.epochs": "2", "train.batch_size": "4", "train.n_examples": "120", "train.seed": "5"}
    expected |= {"data.seed": "5", "data.manifest_hash": manifest_hash(read_manifest(training_store))}
    assert {name: run[f"params.{name}"] for name in expected} == expected
    assert run["metrics.best_epoch"] == summary["best_epoch"]
    assert run["tags.shutterless.version"]
    history = pd.read_parquet(folder / "history.parquet")
    _check_logged_losses(tracking, run["run_id"], history)
    figures = _artifacts(tracking).rglob("figures/learning_curve.png")
    assert any(run["run_id"] in path.parts for path in figures)
    _check_conventions_of_mlflow(tracking, run["run_id"], summary)


def _check_conventions_of_mlflow(tracking, run_id, summary):
    """The run spans the training, names its data, its model and its commit, and watches the machine."""
    import mlflow

    client = mlflow.MlflowClient(tracking.uri)
    run = client.get_run(run_id)
    assert run.info.start_time <= 1000 * summary["started"]
    assert run.info.end_time >= 1000 * (summary["started"] + summary["train_seconds"])
    (data,) = run.inputs.dataset_inputs
    named = data.dataset.name, data.dataset.digest, data.tags[0].value
    assert named == ("store", summary["manifest_hash"], "training")
    assert json.loads(data.dataset.profile) == {"amplifiers": 4, "files": 2, "rows": 16_000}
    commit = run.data.tags.get("git_commit", "").removesuffix("-dirty")
    assert run.data.tags.get("mlflow.source.git.commit", "") == commit
    assert run.data.metrics["system/cpu_utilization_percentage"] >= 0
    model = client.get_logged_model(run.outputs.model_outputs[0].model_id)
    assert (model.name, model.tags["model.hash"]) == ("tracked", run.data.tags["model.hash"])
    times = [metric.timestamp for metric in client.get_metric_history(run_id, "validation.loss")]
    assert run.info.start_time < times[0] < times[1] < run.info.end_time


def test_training_shows_step_loss_and_time_left(train_in, train_settings):
    said = StringIO()
    console = Console(file=said, width=200)
    train_in("shown", train_settings, progress=Progress(console=console))
    lines = [line for line in said.getvalue().splitlines() if line.startswith("training mlp: step ")]
    first, last = re.match(r"training mlp: step 1/(\d+) \(\d+ s, \d+ s left\)$", lines[0]), lines[-1]
    assert first is not None
    assert re.match(rf"training mlp: step {first[1]}/{first[1]}, train loss \d\.\d{{3}}", last)


def _check_logged_losses(tracking, run_id, history):
    """Every row of the history is a metric at its step."""
    import mlflow

    logged = partial(mlflow.MlflowClient(tracking.uri).get_metric_history, run_id)
    for split, part in history.groupby("split"):
        metrics = sorted(logged(f"{split}.loss"), key=lambda metric: metric.step)
        assert [metric.step for metric in metrics] == part["step"].tolist()
        np.testing.assert_allclose([metric.value for metric in metrics], part["loss"])
    assert len(logged("validation.loss")) == 2
    assert len(logged("train.loss")) >= 2


def _artifacts(tracking):
    return Path(urlparse(tracking.artifacts).path)


def test_files_of_one_field_of_stars_stay_together():
    """Two files of one quadrant show the same stars; another quadrant, CCD or sequence shows others."""
    rows = [("night", 1, 1), ("night", 1, 1), ("night", 1, 2), ("night", 2, 1), ("other", 1, 1)]
    manifest = pd.DataFrame(rows, columns=["sequence", "ccd", "quadrant"]).astype({"ccd": "Int64", "quadrant": "Int64"})
    assert sky_groups(manifest).tolist() == [0, 0, 1, 2, 3]
