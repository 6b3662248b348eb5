"""A detector of boxes in the registry: its card, its alias, and how it is used from there."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from shutterless.models.boxes.fit import build_box_detector
from shutterless.models.families import ModelError, load_model
from shutterless.workflows.boxes.find import BOX_TABLE
from shutterless.workflows.cli import load_app
from shutterless.workflows.registry.policy import load_policy
from shutterless.workflows.registry.promotion import promote_version, read_registry_history
from shutterless.workflows.registry.register import register_version
from shutterless.workflows.registry.store import RegistryError, RegistryStore

FACTS = {
    "n_boxes": {"echo": 19, "artefact": 40}, "n_images": 6, "fields": ["a", "b"], "init": "/somewhere/boxes",
    "settings": {"epochs": 60, "seed": 3}, "precision_at_70_percent": {"echo": 0.625},
}  # fmt: skip
SMALL = {"tile_px": 64, "channels": [8, 8, 16], "n_layers": 1, "n_heads": 2, "kinds": ["echo", "artefact"]}


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    build_box_detector(**SMALL).save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(FACTS))
    return folder


@pytest.fixture(scope="module")
def registered(tracking, detector):
    return register_version(tracking, detector, "my-boxes", "champion", trained_on="real images of 2026")


def card_of(tracking, registered):
    registry = RegistryStore(tracking, registered.name)
    return registry.client.get_model_version(registered.name, registered.version).description


def test_the_card_says_what_it_learned_from_and_how_good_it_is(tracking, registered):
    card = card_of(tracking, registered)
    assert card.startswith("# my-boxes, version 1\n\nA detector of ")
    for line in (
        "boxes echo, artefact in two-dimensional images",
        "- Images: real images of 2026",
        "- Boxes: 19 echo, 40 artefact",
        "- 6 images of 2 fields",
        "- Started from boxes",
        "| echo: precision at 70 % recall, fields held out | 62% |",
        "| epochs | 60 |",
        "| tile_px | 64 |",
    ):
        assert line in card


def test_without_facts_the_card_says_that_they_are_missing(tracking, tmp_path):
    build_box_detector(**SMALL).save_pretrained(tmp_path / "bare")
    card = card_of(tracking, register_version(tracking, tmp_path / "bare", "bare-boxes"))
    assert "**not stated** whether simulated or real" in card
    assert "Not judged on fields held out when it was registered." in card


def test_a_second_champion_needs_no_gates(tracking, registered, detector):
    second = register_version(tracking, detector, "my-boxes", "champion", reason="more labels")
    assert second.reference == "models:/my-boxes@champion"
    assert int(second.version) > int(registered.version)
    last = read_registry_history(tracking, "my-boxes").entries[-1]
    assert (last.new, last.reason) == (second.version, "more labels")


def test_it_is_not_promoted_by_gates_of_events(tracking, registered):
    with pytest.raises(RegistryError, match="version 1 of my-boxes is a detector of boxes, and the gates count events"):
        promote_version(tracking, "my-boxes", registered.version, policy=load_policy(None), alias="best")


def test_it_is_named_as_what_it_is_where_strips_are_wanted(detector):
    with pytest.raises(
        ModelError,
        match=r"shutterless-boxes.* a detector of boxes takes images and no strips: `shutterless boxes find`",
    ):
        load_model(detector)


def test_mlflow_finds_the_boxes_that_the_command_finds(tracking, registered, tmp_path, monkeypatch):
    import mlflow

    pixels = np.random.default_rng(1).normal(size=(64, 100)).astype(np.float32)
    pixels -= np.median(pixels)
    fits.PrimaryHDU(pixels).writeto(tmp_path / "a.fits")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.uri)
    words = ["boxes", "find", tmp_path / "a.fits", "--model", registered.reference, "--out", tmp_path / "o"]
    done = CliRunner().invoke(load_app(), [str(word) for word in [*words, "--least-score", "0.01", "-q"]])
    assert done.exit_code == 0, done.output
    expected = pd.read_parquet(tmp_path / "o" / BOX_TABLE)
    model = mlflow.pyfunc.load_model(registered.reference)
    found = model.predict({"image": pixels}, params={"least_score": 0.01})
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found["score"], expected["score"], rtol=1e-5)
    assert set(found["image"]) == {0}
    assert model.predict(model.input_example).columns[0] == "image"


def test_describe_lists_its_layers(detector, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(load_app(), ["describe", str(detector), "-q"])
    assert done.exit_code == 0, done.output
    assert "detector of boxes in" in done.stdout
    assert "echo, artefact" in done.stdout
