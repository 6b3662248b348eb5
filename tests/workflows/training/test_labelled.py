"""Training on candidates that people vetted, and the list of labels that are probably wrong."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from shutterless.pipeline.results.labels import LabelError, read_vetted
from shutterless.pipeline.store.store import read_manifest
from shutterless.pipeline.tokens import TokenGrid
from shutterless.workflows.cli import app
from shutterless.workflows.training.labelled import cut_labelled, mix_labelled
from shutterless.workflows.training.train import VALIDATION_GROUP, draw_training_set, train_model

GRID = TokenGrid(n_columns=8, n_rows=64, patch_rows=8, bins=(1, 4))


def by_place(place, own):
    return np.full(len(own), place)


@pytest.fixture(scope="module")
def labelled(held_out, vetted):
    return cut_labelled([vetted], held_out[0], GRID, by_place)


def test_vetted_candidates_of_the_store_are_examples_of_their_amplifiers(held_out, vetted, labelled):
    lines = read_vetted([vetted]).lines
    assert len(labelled.examples) == len(labelled.vetted) == len(lines)
    assert labelled.examples.labels.is_event.tolist() == (labelled.vetted["label"] == "event").astype(float).tolist()
    entries = read_manifest(held_out[0])["entry"].iloc[labelled.examples.groups]
    assert all(name.startswith(entry) for name, entry in zip(labelled.vetted["candidate_id"], entries, strict=True))
    assert (labelled.manifest.empty, labelled.notes) == (True, ())
    n_events = int(labelled.examples.labels.is_event.sum())
    assert labelled.text() == (
        f"{len(lines)} vetted candidates: {n_events} events, {len(lines) - n_events} artefacts, up to 1 vetter each"
    )


def test_of_files_that_the_store_lacks_the_same_is_cut(
    training_store, held_out, vetted, labelled, tiny_camera, tmp_path
):
    """How to read them, the record of the search beside the labels says."""
    (tmp_path / "found" / "vetting").mkdir(parents=True)
    labels = shutil.copy(vetted, tmp_path / "found" / "vetting" / "labels.csv")
    files = {Path(path).name: path for path in read_manifest(held_out[0])["source"]}
    record = {"files": files, "instrument": tiny_camera, "supplied": {}}
    (tmp_path / "found" / "search.json").write_text(json.dumps(record))
    other = cut_labelled([labels], training_store, GRID, by_place)
    np.testing.assert_array_equal(other.examples.strips.patches, labelled.examples.strips.patches)
    assert set(other.examples.groups) == {4, 5, 6, 7}  # after the four entries of the store
    assert len(other.manifest) == 4


def test_files_that_are_gone_are_left_out_and_named(training_store, vetted, tmp_path):
    text = vetted.read_text().replace("/busy/", "/gone/").replace("/calm/", "/gone/")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(
        LabelError, match=r"no vetted candidate of .*labels.csv can be cut: \d+ vetted candidates of .*gone"
    ):
        cut_labelled([tmp_path / "labels.csv"], training_store, GRID, by_place)


def test_they_are_the_wanted_share_of_the_examples(training_store, train_settings, labelled):
    drawn = draw_training_set(training_store, train_settings)
    mixed = mix_labelled(drawn, labelled, replace(train_settings, label_share=0.25))
    is_vetted = mixed.candidate >= 0
    assert is_vetted.mean() == pytest.approx(0.25, abs=0.02)
    assert mixed.examples.labels.is_event[is_vetted].mean() == pytest.approx(0.5, abs=0.02)
    assert (mixed.examples.labels.weight[~is_vetted] == 1).all()


@pytest.mark.parametrize("split", ["field", "time"])
def test_no_place_with_a_label_is_drawn_as_free_of_events(held_out, vetted, train_settings, split):
    settings = replace(train_settings, split=split, n_examples=8)
    plain = draw_training_set(held_out[0], settings)
    apart = draw_training_set(held_out[0], settings, vetted=read_vetted([vetted]).lines)
    loud = [
        (part.strips.features[:, 0] > 8.5) & (part.labels.is_event == 0) & (part.labels.kind != 5)
        for part in (plain, apart)
    ]
    assert loud[0].sum() > 10
    assert loud[1].sum() < loud[0].sum() / 4  # what is left are injected cosmic rays


def test_a_model_records_its_labels_and_lists_the_suspects(training_store, held_out, vetted, train_settings, tmp_path):
    lines = list(csv.DictReader(vetted.read_text().splitlines()))
    flipped = lines[0] | {"label": "event" if lines[0]["label"] == "artefact" else "artefact", "kind": "noise"}
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows([flipped, *lines[1:]])
    settings = replace(train_settings, split="time", label_folds=2, label_seeds=1)
    out = tmp_path / "model"
    summary = train_model(
        held_out[0], family="mlp", settings=settings, out=out, labels=[tmp_path / "labels.csv"], suspects=True
    )
    assert summary["labels"].startswith(f"{len(lines)} vetted candidates: ")
    assert json.loads((out / "training.json").read_text())["labels"] == summary["labels"]
    assert any(group >= VALIDATION_GROUP for group in summary["validation_groups"])
    suspects = list(csv.DictReader((out / "suspects.csv").read_text().splitlines()))
    probability = [float(row["label_probability"]) for row in suspects]
    assert probability == sorted(probability)
    assert all(value <= 0.5 for value in probability)
    assert {row["candidate_id"] for row in suspects} <= {row["candidate_id"] for row in lines}


def test_options_that_do_not_go_together_are_refused(training_store, vetted, tmp_path):
    def train(*options):
        arguments = ["train", str(training_store), "--out", str(tmp_path / "m"), *map(str, options)]
        return CliRunner().invoke(app, arguments, env={"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"})

    assert "--suspects looks for wrong labels of people; give them by --labels" in train("--suspects").stderr
    forest = train("--labels", vetted, "--model", "forest")
    assert "a forest detector takes no --labels; a transformer, a CNN or an MLP does" in forest.stderr
