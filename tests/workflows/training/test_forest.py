"""A forest trained on a store: events injected or named by a truth table, and scored as any other detector."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from shutterless.models.families import ModelError, load_model
from shutterless.models.forest.forest import load_forest
from shutterless.models.forest.settings import ForestSettings
from shutterless.pipeline.context.features import CONTEXT_FEATURES
from shutterless.pipeline.store.store import read_manifest, write_manifest
from shutterless.workflows import cli
from shutterless.workflows.searching.detect import Detector, DetectTask, detect, read_rates
from shutterless.workflows.training.forest import label_store, train_forest
from shutterless.workflows.training.train import TrainError

FEW = ForestSettings(n_trees=20, n_seeds=1, min_leaf=5)


@pytest.fixture(scope="module")
def trained(training_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forest") / "trees"
    return folder, train_forest(training_store, settings=FEW, out=folder)


def test_forest_is_written_with_its_curve_and_what_it_was_grown_from(training_store, trained):
    folder, summary = trained
    assert json.loads((folder / "training.json").read_text()) == summary
    assert summary["family"] == "forest"
    assert summary["n_event_triggers"] > 10
    assert summary["n_fields"] == 4
    assert set(summary["trained_on"]["contents"]) == set(read_manifest(training_store)["content_hash"])
    curve = read_rates(folder)
    assert curve is not None
    assert len(curve.scores) > 0
    assert len(curve.event_scores) > 0
    assert load_forest(folder).features == CONTEXT_FEATURES


def test_triggers_are_labelled_by_the_truth_table(held_out):
    store, truth = held_out
    table = pd.read_parquet(truth)
    labelled = label_store(store, seed=1, truth=table).table
    events = table[table["is_event"].astype(bool)]
    assert set(labelled.loc[labelled["rho"].notna(), "kind"]) <= set(events["kind"])
    assert labelled.loc[labelled["rho"].isna(), "kind"].isin(["noise", *set(table["kind"])]).all()
    assert labelled["rho"].notna().sum() >= 0.5 * (events["rho"] > 8).sum()


def test_a_forest_scores_every_trigger_beside_the_bank(held_out, trained):
    store, _ = held_out
    entry = read_manifest(store)["entry"].iloc[0]
    forest = Detector("trees", str(trained[0]))
    found = detect(DetectTask(str(store), entry, (Detector("template-bank", None), forest), 5.0))
    alone = found["trail_id"].isna()
    assert np.isfinite(found.loc[alone, "trees/score"]).all()
    assert found["trees/probability"].between(0, 1).all()
    again = detect(DetectTask(str(store), entry, (forest,), 5.0))
    np.testing.assert_array_equal(again["trees/score"], found["trees/score"])


def test_it_is_no_model_of_strips(trained):
    with pytest.raises(ModelError, match="holds a forest, which scores the triggers of frames and no strips"):
        load_model(trained[0])


def test_an_empty_store_is_refused(tmp_path):
    write_manifest(tmp_path, [])
    with pytest.raises(TrainError, match="holds no amplifier"):
        label_store(tmp_path, seed=1)


def test_an_amplifier_that_cannot_be_used_is_named(held_out, tmp_path):
    manifest = read_manifest(held_out[0]).iloc[:1]
    write_manifest(tmp_path, manifest.to_dict("records"))
    with pytest.raises(TrainError, match=f"no triggers from {tmp_path}/{manifest['entry'].iloc[0]}: "):
        label_store(tmp_path, seed=1)


def test_the_command_trains_and_describes_it(training_store, tmp_path):
    out = tmp_path / "trees"
    options = ["--set", "forest.n_trees=10", "--set", "forest.n_seeds=1", "--set", "forest.min_leaf=5", "--quiet"]
    done = CliRunner().invoke(cli.app, ["train", str(training_store), "--model", "forest", "--out", str(out), *options])
    assert done.exit_code == 0, done.output
    told = CliRunner().invoke(cli.app, ["describe", str(out)])
    assert "10 trees tell events" in told.output
    assert "strength" in told.output


def test_a_forest_starts_from_no_other_model(training_store, trained):
    arguments = ["train", str(training_store), "--model", "forest", "--init", str(trained[0])]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 2
    assert "a forest detector starts from no other model" in done.output
