"""A forest and a network trained on a store, and scored as any other detector."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from shutterless.models.combined.combined import load_combined
from shutterless.models.families import ModelError, load_model
from shutterless.pipeline.store.store import read_manifest
from shutterless.workflows import cli
from shutterless.workflows.searching.detect import Detector, DetectTask, detect, read_rates
from shutterless.workflows.searching.segment_search import settings_fingerprint

FEW = ["forest.n_trees=20", "forest.n_seeds=1", "forest.min_leaf=5", "combined.folds=2", "combined.epochs=1"]


@pytest.fixture(scope="module")
def trained(training_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("combined") / "both"
    options = [word for setting in [*FEW, "combined.n_networks=1"] for word in ("--set", setting)]
    arguments = ["train", str(training_store), "--model", "combined", "--out", str(folder), "--quiet", *options]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    assert f"model: {folder}" in done.output
    return folder


def test_it_is_written_with_its_curve_and_what_it_was_trained_on(training_store, trained):
    summary = json.loads((trained / "training.json").read_text())
    assert summary["family"] == "combined"
    assert summary["n_event_triggers"] > 10
    assert set(summary["trained_on"]["contents"]) == set(read_manifest(training_store)["content_hash"])
    curve = read_rates(trained)
    assert curve is not None
    assert len(curve.scores) > 0
    assert len(load_combined(trained).networks) == 1


def test_it_scores_every_trigger_beside_the_bank(held_out, trained):
    store, _ = held_out
    entry = read_manifest(store)["entry"].iloc[0]
    both = Detector("both", str(trained))
    found = detect(DetectTask(str(store), entry, (Detector("template-bank", None), both), 5.0))
    alone = found["trail_id"].isna()
    assert np.isfinite(found.loc[alone, "both/score"]).all()
    assert found["both/probability"].between(0, 1).all()
    again = detect(DetectTask(str(store), entry, (both,), 5.0))
    np.testing.assert_array_equal(again["both/score"], found["both/score"])


def test_it_is_no_model_of_strips(trained):
    with pytest.raises(ModelError, match="holds a forest, which scores the triggers of frames and no strips"):
        load_model(trained)


def test_it_is_described(trained):
    told = CliRunner().invoke(cli.app, ["describe", str(trained)])
    assert told.exit_code == 0, told.output
    for words in ("log-odds = ", "20 trees tell events", "network 0: transformer"):
        assert words in told.output


def test_parts_of_a_search_know_its_networks(trained, tmp_path):
    """Another network in the same folder is another detector, so a search does not go on with it."""
    before = settings_fingerprint(Detector("both", str(trained)), 5.0, 256, None, {})
    path = trained / "network-0" / "config.json"
    text = path.read_text()
    try:
        path.write_text(text.replace('"dropout": ', '"dropout":  '))
        assert settings_fingerprint(Detector("both", str(trained)), 5.0, 256, None, {}) != before
    finally:
        path.write_text(text)
    assert settings_fingerprint(Detector("both", str(trained)), 5.0, 256, None, {}) == before
