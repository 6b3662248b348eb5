"""Models are never judged on what they were trained on; every refusal names both sides."""

import json

import pandas as pd
import pytest

from shutterless.pipeline.store.store import manifest_hash, read_manifest
from shutterless.workflows.comparison.evaluate import evaluate_detectors
from shutterless.workflows.comparison.unseen import (
    SeenError,
    check_not_trained_on,
    check_sequences_unseen,
    describe_frames,
    join_frames,
    read_trained_on,
)
from shutterless.workflows.settings.settings import EvaluateSettings
from shutterless.workflows.training.train import train_model


def manifest(*sequences, contents="abcdef"):
    rows = {"entry": [f"e{i}" for i in range(len(sequences))], "content_hash": list(contents[: len(sequences)])}
    return pd.DataFrame({**rows, "sequence": pd.array(sequences, dtype="string")})


@pytest.fixture
def model(tmp_path):
    """A model that was trained on two fields of seed 7, and on a night."""
    store = manifest("sky-7-000", "sky-7-001", "night")
    known = {"manifest_hash": f"0123+{manifest_hash(store)}", "trained_on": describe_frames(("quiet", store))}
    (tmp_path / "training.json").write_text(json.dumps(known))
    return tmp_path


def test_what_was_trained_on_is_described_by_stores_sequences_and_contents(model):
    assert read_trained_on(model) == {
        "stores": ["quiet"], "sequences": ["night", "sky-7-000", "sky-7-001"], "contents": ["a", "b", "c"],
    }  # fmt: skip


def test_frames_of_two_trainings_are_joined():
    first, second = describe_frames(("s", manifest("a"))), describe_frames(("t", manifest("b", contents="z")))
    assert join_frames(first, {}, second) == {"stores": ["s", "t"], "sequences": ["a", "b"], "contents": ["a", "z"]}


def test_other_frames_pass(model, tmp_path):
    check_not_trained_on(model, manifest("sky-8-000", "evening", contents="xy"), "held_out")
    check_not_trained_on(model, manifest(None, contents="x"), "held_out")


def test_a_model_without_a_record_passes(tmp_path):
    check_not_trained_on(tmp_path, manifest("night"), "held_out")


def test_the_same_store_is_refused(model):
    same = manifest("sky-7-000", "sky-7-001", "night")
    with pytest.raises(SeenError, match=r"model .* was trained on the frames of held_out themselves"):
        check_not_trained_on(model, same, "held_out")


def test_the_same_pixels_under_another_name_are_refused(model):
    with pytest.raises(SeenError, match="trained on quiet, which holds the same pixels as entry e1 of held_out"):
        check_not_trained_on(model, manifest("x", "y", contents="xc"), "held_out")


def test_the_same_sequence_is_refused_also_on_another_ccd(model):
    with pytest.raises(SeenError, match="trained on sequence 'night' of quiet, and held_out holds it too"):
        check_not_trained_on(model, manifest("night", contents="x"), "held_out")


def test_fields_of_the_same_seed_are_refused(model):
    """Field 5 of seed 7 may show stars of field 0 of seed 7 if another number of fields was drawn."""
    with pytest.raises(SeenError, match="and 'other-7-005' of b was drawn from the same seed 7"):
        check_sequences_unseen(model, ["other-7-005", "other-8-000"], "b")


def test_the_guard_stands_before_an_evaluation(training_store, held_out, train_settings, tmp_path):
    """A model is trained; judged on its own frames it is refused, and on others it is not."""
    folder = tmp_path / "mine"
    train_model(training_store, family="mlp", settings=train_settings, out=folder)
    assert read_trained_on(folder)["sequences"] == read_manifest(training_store)["sequence"].unique().tolist()
    keys = {"references": [str(folder)], "truth": held_out[1], "settings": EvaluateSettings(bootstrap=5, seed=1)}
    with pytest.raises(SeenError, match=r"mine was trained on the frames of .* themselves"):
        evaluate_detectors(training_store, out=tmp_path / "refused", **keys)
    assert len(evaluate_detectors(held_out[0], out=tmp_path / "judged", **keys).summary) == 1
