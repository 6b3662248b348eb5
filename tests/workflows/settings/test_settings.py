"""Settings: values read, values refused, and the words of a refusal."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, FrozenInstanceError, fields, is_dataclass, replace
from typing import Any, get_type_hints

import pytest

from shutterless.models.pretraining.settings import Masking, PretrainingSettings
from shutterless.models.training.settings import TrainingSettings
from shutterless.pipeline.settings import SettingsError, plain_values, validate_settings
from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.pipeline.tokens import TokenGrid
from shutterless.workflows.settings.settings import (
    FAMILY_NAMES,
    PretrainSettings,
    Settings,
    SimulateSettings,
    default_toml,
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
    assert replace(settings.train_for(family), architecture={}) == settings.train


def test_settings_cannot_be_changed():
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'epochs'"):
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
        ("train.grid.bins=[1, 0]", r"\[train.grid\] bins entry 1 = 0: input should be greater than or equal to 1"),
        ("simulate.training.rho=[9, 4]", r"\[simulate.training\] rho = \[9, 4\]: the smallest comes first"),
        ("simulate.training.ccds=[1, 1]", r"\[simulate.training\] ccds = \[1, 1\]: a CCD is named twice"),
        ("simulate.training.band=z", r"\[simulate\] training: band 'z' has no zero point"),
        ("pretrain.trigger_share=0.8", r"\[pretrain\]: trigger_share 0.8 and streak_share 0.3 exceed 1"),
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


def repeated_defaults(kind: type, values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Keys of a configuration whose values are the defaults of the classes that they are read into."""
    found = []
    for field in fields(kind):
        default = None if field.default is MISSING else plain_values(field.default)
        value, annotation = values.get(field.name), get_type_hints(kind)[field.name]
        if is_dataclass(annotation) and value is not None:
            found += repeated_defaults(annotation, value, f"{prefix}{field.name}.")
        elif value is not None and value == default:
            found.append(f"{prefix}{field.name}")
    return found


def test_the_quickstart_repeats_no_default():
    assert repeated_defaults(Settings, tomllib.loads(default_toml())) == []
    twice = {"train": {"epochs": TrainingSettings.epochs, "grid": {"n_rows": 256, "bins": [1]}}, "search": {}}
    assert repeated_defaults(Settings, twice) == ["train.epochs", "train.grid.n_rows"]


def settings_classes(kind: type = Settings) -> set[type]:
    """A settings class, those of its sections, and those that they extend."""
    sections = [section for section in get_type_hints(kind).values() if is_dataclass(section)]
    return {kind, *kind.__mro__[1:-1]}.union(*map(settings_classes, sections))


def test_no_section_repeats_what_it_extends():
    again = [
        f"{kind.__name__}.{name}"
        for kind in settings_classes()
        for name in vars(kind)["__annotations__"]
        if any(name in vars(base)["__annotations__"] for base in kind.__mro__[1:-1])
    ]
    assert again == []
    assert {SceneSettings, TokenGrid, TrainingSettings, PretrainingSettings} <= settings_classes()


def test_every_default_is_within_its_own_limits():
    for kind in settings_classes() - {Settings, SimulateSettings}:
        assert validate_settings(kind, plain_values(kind()), kind.__name__) == kind()


def test_the_masking_of_a_pretraining_is_that_of_the_model():
    assert PretrainSettings().masking == Masking()
    assert PretrainSettings(mask_share=0.3, run_patches=2).masking == Masking(0.3, Masking.run_share, 2)


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
