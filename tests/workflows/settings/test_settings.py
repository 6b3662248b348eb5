"""Settings: values read, values refused, and the words of a refusal."""

from __future__ import annotations

import dataclasses

import pytest
from pydantic import ValidationError

from shutterless.pipeline.simulation.scene import SceneSettings
from shutterless.workflows.frames.simulate import build_scene
from shutterless.workflows.settings.settings import (
    FAMILY_NAMES,
    SettingsError,
    load_scene,
    load_settings,
    resolved_toml,
)


def test_default_event_free_sequence_is_a_fifth_of_an_amplifier_hour():
    scene = load_settings().simulate.event_free
    assert scene.files * scene.rows * 4 / 300 / 3600 == pytest.approx(0.2)


def test_resolved_toml_reads_back_to_equal_settings(tmp_path):
    overrides = [
        "train.epochs=3",
        'ingest.header={ROWRATE="300"}',
        "transformer.hidden_size=48",
        'cnn."odd key"="a\\"b"',
    ]
    settings = load_settings(overrides=overrides)
    path = tmp_path / "resolved.toml"
    path.write_text(resolved_toml(settings))
    assert load_settings(path) == settings


def test_override_beats_file_and_file_beats_default(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[train]\nepochs = 5\nbatch_size = 32\n")
    settings = load_settings(path, ["train.epochs=7"])
    assert (settings.train.epochs, settings.train.batch_size) == (7, 32)
    assert settings.train.n_examples == load_settings().train.n_examples


def test_bare_words_are_strings_and_lists_are_toml():
    settings = load_settings(overrides=["ingest.instrument=ztf", "simulate.training.ccds=[2, 3]"])
    assert settings.ingest.instrument == "ztf"
    assert settings.simulate.training.ccds == (2, 3)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_train_for_adds_the_family_architecture(family):
    settings = load_settings(overrides=[f"{family}.width=7"])
    assert settings.train_for(family).architecture == {"width": 7}
    assert settings.train_for(family).model_copy(update={"architecture": {}}) == settings.train


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().train.epochs = 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=2", r"\[train\] epoch: unknown key; did you mean 'epochs'\?"),
        ("trian.epochs=2", r"\[trian\]: unknown key; did you mean 'train'\?"),
        ("train.grid.rows=2", r"\[train.grid\] rows: unknown key; did you mean 'n_rows'\?"),
        (
            "simulate.training.zzz=2",
            r"\[simulate.training\] zzz: unknown key; known are \['aircraft_per_hour', 'artefacts'",
        ),
        ("train.epochs=many", r"\[train\] epochs = 'many': input should be a valid integer"),
        ("train.epochs=0", r"\[train\] epochs = 0: input should be greater than or equal to 1"),
        ("train.learning_rate=-1", r"\[train\] learning_rate = -1: input should be greater than 0"),
        ("train.grid.patch_rows=7", r"\[train\] grid: n_rows 256 is not a multiple of patch_rows 7"),
        ("simulate.training.rho=[9, 4]", r"\[simulate\] training: rho \[9.0, 4.0\] must be"),
        ("simulate.training.ccds=[1, 1]", r"names a CCD twice"),
        ("simulate.training.seed=202", r"\[simulate\]: scenes must differ in seed, or held-out frames repeat"),
        ("train=3", r"--set train=3: expected SECTION.KEY=VALUE"),
        ("train.epochs", r"--set train.epochs: expected SECTION.KEY=VALUE"),
    ],
)
def test_bad_key_or_value_is_one_readable_line(override, message):
    with pytest.raises(SettingsError, match=message) as caught:
        load_settings(overrides=[override])
    assert "\n" not in str(caught.value)


def test_file_errors_name_the_file(tmp_path):
    with pytest.raises(SettingsError, match=r"absent\.toml cannot be read: No such file"):
        load_settings(tmp_path / "absent.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("[train\n")
    with pytest.raises(SettingsError, match=r"bad\.toml is not valid TOML"):
        load_settings(bad)
    bad.write_text("[train]\nepoch = 2\n")
    with pytest.raises(SettingsError, match=r"bad\.toml: \[train\] epoch: unknown key; did you mean 'epochs'"):
        load_settings(bad)


def test_scene_section_has_the_keys_and_defaults_of_the_simulator():
    section = load_scene({"sequence": "simulated", "seed": 1})
    assert build_scene(section) == SceneSettings()
    assert set(section.model_dump()) == {field.name for field in dataclasses.fields(SceneSettings)}


def test_scene_overrides_and_their_errors():
    given = {"sequence": "s", "seed": 1}
    assert load_scene(given, ["row_rate_hz=100"]).row_rate_hz == 100
    with pytest.raises(SettingsError, match=r"scene: \[row_rate\]: unknown key; did you mean 'row_rate_hz'"):
        load_scene(given, ["row_rate=100"])
    with pytest.raises(SettingsError, match=r"scene: \[rows\] = 0: input should be greater than or equal to 1"):
        load_scene(given, ["rows=0"])


def test_unknown_family_is_refused():
    with pytest.raises(SettingsError, match="unknown model family 'transfromer'; did you mean 'transformer'"):
        load_settings().train_for("transfromer")
