"""Registering a model: the files of a version, and models that are refused without being run."""

from __future__ import annotations

import json
import pickle
import uuid
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from shutterless.models.families import ModelError
from shutterless.pipeline.stored_files import StoredFileError
from shutterless.workflows.registry import register as registry_module
from shutterless.workflows.registry.history import whoami
from shutterless.workflows.registry.model_card import read_evaluation
from shutterless.workflows.registry.promotion import read_registry_history
from shutterless.workflows.registry.register import Registered, register_version
from shutterless.workflows.registry.store import RegistryError, RegistryStore
from shutterless.workflows.tracking.logged_model import example_input, has_signature
from shutterless.workflows.tracking.tracking import (
    TrackingError,
    pinned_requirements,
    register_model,
    resolve_model,
    track_run,
)

TRAINING = {
    "family": "cnn", "shuffled": False, "n_parameters": 321, "train_seconds": 4.0, "best_epoch": 2.0, "seed": 5,
    "n_strips": 1200, "n_validation_strips": 300, "manifest_hash": "cafe",
}  # fmt: skip


class MakesFile:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture(scope="module")
def trained(make_model):
    folder = make_model("card", "cnn")
    (folder / "training.json").write_text(json.dumps(TRAINING))
    return folder


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """Tables as `evaluate` writes them, of this model and another."""
    folder = tmp_path_factory.mktemp("evaluation")
    row = {"completeness": 0.71, "completeness_low": 0.6, "completeness_high": 0.8, "n_events": 44, "live_hours": 0.2}
    row |= {"rate_per_hour": 50.0, "rho50": 6.5, "loss_mag": float("nan")}
    pd.DataFrame([{"detector": "card", **row}, {"detector": "other", **row, "completeness": 0.1}]).to_parquet(
        folder / "summary.parquet"
    )
    reliability = {"detector": "card", "mean_probability": [0.2, 0.9], "observed_fraction": [0.1, 0.6], "n": [30, 10]}
    pd.DataFrame(reliability).to_parquet(folder / "reliability.parquet")
    return folder


@pytest.fixture(scope="module")
def registered(tracking, trained, evaluation):
    """A run with a diagnosis, registered with an evaluation; its logged files and its version."""
    with track_run(tracking, "registering", "card", tags={"learning_curve": "converged at step 40"}) as run:
        run.log_model(trained)
    made = register_version(
        tracking, run.run_id, "carded", "champion", evaluation=None, trained_on="real frames of 2026", reason="first"
    )
    judged = register_version(tracking, trained, "carded", evaluation=evaluation)
    return made, judged, run.run_id


def files_of(tracking, registered):
    return resolve_model(f"models:/{registered.name}/{registered.version}", tracking).parent.parent


def version_of(tracking, registered):
    return RegistryStore(tracking, registered.name).client.get_model_version(registered.name, registered.version)


def test_a_version_says_what_it_takes_gives_and_needs(tracking, registered):
    folder = files_of(tracking, registered[0])
    assert has_signature(folder / "data" / "card")
    content = yaml.safe_load((folder / "MLmodel").read_text())
    names = [column["name"] for column in json.loads(content["signature"]["inputs"])]
    assert names[:5] == ["patches", "context", "profile", "features", "mask"]
    # 64 rows in patches of 8: 8 tokens, of 8 columns each
    assert content["metadata"]["strip_shapes"]["patches"] == [8, 64]
    assert content["metadata"]["family"] == "shutterless-cnn"
    assert (folder / "requirements.txt").read_text().split() == pinned_requirements()


def test_the_input_example_is_scored_by_what_was_registered(tracking, registered, trained):
    import mlflow

    model = mlflow.pyfunc.load_model(f"models:/carded/{registered[0].version}")
    example = model.input_example
    assert {name: np.shape(values) for name, values in example.items()} == {
        name: array.shape for name, array in example_input(trained).items()
    }
    assert model.predict(example)["probability"].between(0, 1).all()


def test_the_card_tells_what_is_known(tracking, registered):
    made, _, run_id = registered
    card = (files_of(tracking, made) / "model_card.md").read_text()
    for text in (
        "# carded, version 1\n", "A cnn of ", f"logged by run {run_id}", "Frames: real frames of 2026",
        "Hash of the store's manifest: cafe", "Strips: 1,200, and 300 set apart", "Seed 5, best epoch 2, 4 s",
        "8 columns × 64 rows in patches of 8 rows", "rows binned by 1, 4", "## For", "## Not for",
        "- learning_curve: converged at step 40", "Not evaluated when it was registered", "| arch.kernel_rows | 5 |",
        "- torch==",
    ):  # fmt: skip
        assert text in card
    assert version_of(tracking, made).description == card


def test_the_evaluation_comes_with_the_version(tracking, registered):
    folder = files_of(tracking, registered[1])
    card = (folder / "model_card.md").read_text()
    assert "| completeness | 0.710 |" in card
    assert "| expected calibration error | 0.150 |" in card  # (30 × 0.1 + 10 × 0.3) / 40
    assert "loss against the optimum" not in card  # unknown
    assert "**not stated** whether simulated or real" in card
    assert "No diagnosis was recorded" in card
    summary = pd.read_csv(folder / "evaluation" / "registered" / "summary.csv")
    assert summary["detector"].tolist() == ["card", "other"]


def test_the_first_champion_is_written_down(tracking, registered):
    made, judged, _ = registered
    assert (made.reference, judged.reference) == ("models:/carded@champion", "models:/carded/2")
    (entry,) = read_registry_history(tracking, "carded").entries
    assert (entry.action, entry.old, entry.new, entry.reason, entry.who) == ("register", None, "1", "first", whoami())


def test_a_second_champion_must_pass_the_gates(tracking, registered, trained):
    before = RegistryStore(tracking, "carded").versions()
    with pytest.raises(RegistryError, match=r"carded has a champion, version 1, and another must pass the gates"):
        register_version(tracking, trained, "carded", "champion")
    assert RegistryStore(tracking, "carded").versions() == before


def test_a_run_made_anew_in_its_own_registry_may_replace_its_champion(tracking, trained):
    for _ in range(2):
        register_version(tracking, trained, "anew", "champion", ungated=True)
    history = read_registry_history(tracking, "anew")
    assert [(e.action, e.old, e.new, e.gates) for e in history.entries] == [
        ("register", None, "1", []),
        ("register", "1", "2", []),
    ]
    assert history.notes == []


def test_a_champion_set_meanwhile_is_not_replaced(tracking, registered):
    with pytest.raises(RegistryError, match=r"carded has a champion, version 1"):
        registry_module._give_alias(RegistryStore(tracking, "carded"), "champion", "2", "", ungated=False)


def test_other_aliases_move_freely_and_are_written_down(tracking, trained):
    register_version(tracking, trained, "aliased", "staging")
    register_version(tracking, trained, "aliased", "staging")
    history = read_registry_history(tracking, "aliased")
    assert [(e.alias, e.old, e.new) for e in history.entries] == [("staging", None, "1"), ("staging", "1", "2")]
    assert history.entries[0].reason == "given at registration, without gates"
    assert history.notes == []


def test_the_bundled_model_says_that_it_saw_simulated_frames(tracking):
    made = register_version(tracking, "bundled-transformer", "bundled-card")
    card = (files_of(tracking, made) / "model_card.md").read_text()
    assert "Registered from bundled-transformer" in card
    assert "trained on no real frame" in card


def test_a_model_logged_without_signature_is_logged_anew(tracking, trained):
    with track_run(tracking, "registering", "old") as run:
        run.log_model(trained)
    path = resolve_model(run.run_id, tracking).parent.parent / "MLmodel"
    content = yaml.safe_load(path.read_text())
    del content["signature"]
    path.write_text(yaml.safe_dump(content))
    made = register_version(tracking, run.run_id, "old-model")
    assert version_of(tracking, made).run_id != run.run_id
    assert has_signature(files_of(tracking, made) / "data" / "card")


def test_what_has_no_weights_is_refused(tracking):
    with pytest.raises(TrackingError, match="template-bank has no weights and cannot be registered"):
        register_version(tracking, "template-bank", "bank")


def test_evaluations_of_other_models_are_refused(tracking, trained, evaluation, make_model, tmp_path):
    with pytest.raises(RegistryError, match=r"holds no evaluation: summary\.parquet is missing"):
        register_version(tracking, trained, "unjudged", evaluation=tmp_path)
    with pytest.raises(RegistryError, match=r"judged \['card', 'other'\], not .*stranger; evaluate it there first"):
        read_evaluation(evaluation, str(make_model("stranger")), Path("x"))
    assert not RegistryStore(tracking, "unjudged").exists()


def test_a_folder_with_a_pickle_is_not_registered(tracking, make_model, tmp_path):
    folder = make_model("pickled")
    (folder / "optimizer.pt").write_bytes(pickle.dumps(MakesFile(tmp_path / "ran")))
    with pytest.raises(StoredFileError, match=r"holds pickles \['optimizer\.pt'\]"):
        register_version(tracking, folder, "pickled")
    assert not (tmp_path / "ran").exists()
    assert not RegistryStore(tracking, "pickled").exists()


@pytest.fixture
def tampered(tracking, make_model):
    """A registered version whose files were changed afterwards: its logged folder and its address."""
    name = f"tampered-{uuid.uuid4().hex[:8]}"
    version = register_model(tracking, make_model("weights", "mlp"), name)
    address = f"models:/{name}/{version}"
    return resolve_model(address, tracking).parent.parent, address


@pytest.mark.parametrize("place", ["python_model.pkl", "data/weights/extra.joblib", "artifacts/model.pt"])
def test_a_pickle_in_a_registered_model_is_refused_unread(tracking, tampered, tmp_path, place):
    folder, address = tampered
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).write_bytes(pickle.dumps(MakesFile(tmp_path / "ran")))
    with pytest.raises(StoredFileError, match=rf"holds pickles \['{place}'\]"):
        resolve_model(address, tracking)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("flavors", "named"),
    [
        ({"python_function": {"loader_module": "mlflow.pyfunc.model"}}, "the loader mlflow.pyfunc.model"),
        ({"python_function": {"python_model": "model.py", "cloudpickle_version": "3"}}, "python_model = 'model.py'"),
        ({"python_function": {"code": "code"}}, "code = 'code'"),
        ({"sklearn": {"pickled_model": "model"}}, "the flavour sklearn"),
    ],
)
def test_another_loader_in_a_registered_model_is_refused(tracking, tampered, flavors, named):
    folder, address = tampered
    content = yaml.safe_load((folder / "MLmodel").read_text())
    for flavor, values in flavors.items():
        content["flavors"].setdefault(flavor, {}).update(values)
    (folder / "MLmodel").write_text(yaml.safe_dump(content))
    with pytest.raises(ModelError, match=rf"its MLmodel names {named}.*; loading it could run code of its own"):
        resolve_model(address, tracking)


def test_a_cloudpickled_python_model_is_refused_unrun(tracking, tmp_path):
    """A model as MLflow itself writes it: with python_model.pkl and its own loader."""
    import mlflow

    class Model(mlflow.pyfunc.PythonModel):
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

        def predict(self, context, model_input: list[str], params=None) -> list[str]:
            return model_input

    with track_run(tracking, "registering", "foreign") as run:
        mlflow.pyfunc.log_model(name="model", python_model=Model(), pip_requirements=[])
    (tmp_path / "ran").unlink(missing_ok=True)
    with pytest.raises(StoredFileError, match=r"holds pickles \['python_model\.pkl'\]"):
        register_version(tracking, run.run_id, "foreign")
    assert not (tmp_path / "ran").exists()


def test_references_of_what_was_registered():
    assert Registered("n", "3", None).reference == "models:/n/3"
    assert Registered("n", "3", "champion").reference == "models:/n@champion"
