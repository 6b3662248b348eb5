"""Read the settings of the commands from TOML into one frozen value per section; a misspelt key is an error."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shutterless.pipeline.events.kinds import DEFAULT_KINDS

FamilyName = Literal["transformer", "cnn", "mlp"]
Model = TypeVar("Model", bound=BaseModel)
FAMILY_NAMES: tuple[FamilyName, ...] = get_args(FamilyName)

_Positive = Annotated[float, Field(gt=0)]
_Strength = Annotated[float, Field(ge=0)]
_Count = Annotated[int, Field(ge=1)]
_Seed = Annotated[int, Field(ge=0)]


class SettingsError(ValueError):
    """An invalid configuration; the message names section and key."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class SceneSection(_Section):
    """One simulated sequence, with the keys of `shutterless.pipeline.simulation.scene.SceneSettings`.

    ``events`` is the number in each amplifier of each file.
    """

    sequence: Annotated[str, Field(min_length=1)]
    seed: _Seed
    instrument: str = "ztf"
    ccds: Annotated[tuple[_Count, ...], Field(min_length=1)] = (1,)
    rows: _Count = 10_000
    files: _Count = 1
    events: Annotated[int, Field(ge=0)] = 10
    kinds: Annotated[tuple[str, ...], Field(min_length=1)] = DEFAULT_KINDS
    partial: Annotated[float, Field(ge=0, le=1)] = 0.1
    longest_flare_s: _Positive = 2.0
    rho: tuple[_Positive, _Positive] = (4.0, 20.0)
    artefacts: bool = True
    sky_lights: bool = False
    geosynchronous_per_hour: _Strength = 2.0
    low_orbit_per_hour: _Strength = 10.0
    aircraft_per_hour: _Strength = 1.0
    meteors_per_hour: _Strength = 100.0
    detector: bool = False
    hot_columns: _Strength = 4.0
    traps: _Strength = 2.0
    dropped_runs_per_hour: _Strength = 4.0
    atmosphere: bool = False
    scintillation_rms: _Strength = 0.011
    scintillation_s: _Positive = 0.065
    motion_rms_arcsec: _Strength = 0.4
    motion_s: _Positive = 0.1
    focus_rms: _Strength = 0.15
    focus_s: _Positive = 1.0
    transparency_rms: _Strength = 0.03
    transparency_s: _Positive = 5.0
    shutter_open_utc: str = "2026-03-04T05:06:07.000"
    row_rate_hz: _Positive = 300.0
    first_row: Annotated[int, Field(ge=0)] = 0
    shutter_close_row: _Count | None = None
    band: str = "r"
    zero_point_mag: float | None = None
    sky_mag: float = 20.8
    seeing_arcsec: _Positive = 2.0
    n_bright_stars: Annotated[float, Field(ge=0)] = 300.0
    star_slope: _Positive = 0.28
    galactic_latitude_deg: Annotated[float, Field(ge=-90, le=90)] | None = None
    bright_mag: float = 7.5
    faint_mag: float = 17.0
    suffix: str = ".fits.fz"

    @model_validator(mode="after")
    def _check_ranges(self) -> SceneSection:
        if self.rho[0] >= self.rho[1]:
            raise ValueError(f"rho {list(self.rho)} must be [smallest, largest]")
        if len(set(self.ccds)) < len(self.ccds):
            raise ValueError(f"ccds {list(self.ccds)} names a CCD twice")
        return self


class SimulateSettings(_Section):
    """The sequences of the quickstart. Each has its own seed, so that no two share stars or noise."""

    training: SceneSection
    validation: SceneSection
    event_free: SceneSection
    with_events: SceneSection

    @model_validator(mode="after")
    def _check_apart(self) -> SimulateSettings:
        scenes = self.scenes()
        for what in ("seed", "sequence"):
            values = {name: getattr(scene, what) for name, scene in scenes.items()}
            if len(set(values.values())) < len(values):
                raise ValueError(f"scenes must differ in {what}, or held-out frames repeat training frames: {values}")
        return self

    def scenes(self) -> dict[str, SceneSection]:
        """Every sequence by name."""
        return {name: getattr(self, name) for name in type(self).model_fields}


class IngestSettings(_Section):
    """How to read frames: a profile's name or TOML file, and header values that replace those in the files."""

    instrument: str | None = None
    header: dict[str, str] = Field(default_factory=dict)


class GridSettings(_Section):
    """The token grid of models, with the keys of `shutterless.pipeline.tokens.TokenGrid`."""

    n_y: _Count = 1
    n_columns: _Count = 16
    n_rows: _Count = 256
    patch_rows: _Count = 8
    bins: Annotated[tuple[_Count, ...], Field(min_length=1)] = (1, 4, 16)

    @model_validator(mode="after")
    def _check_patches(self) -> GridSettings:
        if self.n_rows % self.patch_rows:
            raise ValueError(f"n_rows {self.n_rows} is not a multiple of patch_rows {self.patch_rows}")
        return self


class TrainSettings(_Section):
    """Training settings of all families; `Settings.train_for` adds the family's ``architecture``.

    ``n_examples`` is divided evenly among the amplifiers; the share ``event_fraction`` holds an injected event.
    With ``split`` "field", some fields of stars are set apart for validation; with "time", the last part of every
    amplifier, so the model is judged on the stars of its training. Triggers that the classical detector takes for
    events above ``hide_above`` are masked first; 0 takes all as event-free, like simulated frames.
    """

    seed: _Seed = 1
    epochs: _Count = 3
    batch_size: _Count = 128
    learning_rate: _Positive = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    n_examples: _Count = 20_000
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    event_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.5
    split: Literal["field", "time"] = "field"
    hide_above: Annotated[float, Field(ge=0)] = 0.0
    grid: GridSettings = GridSettings()
    architecture: dict[str, Any] = Field(default_factory=dict)


class PretrainSettings(_Section):
    """Settings of the encoder's pretraining without labels; the grid is that of training.

    ``n_strips`` is divided evenly among the amplifiers. The share ``trigger_share`` is cut at triggers of stage 1,
    ``streak_share`` at stars, the rest anywhere. The share ``mask_share`` of the patches of every strip is hidden,
    in the share ``run_share`` of the strips in runs of ``run_patches`` neighbours, in the others one by one.
    Training stops after ``patience`` epochs without gain.
    """

    seed: _Seed = 1
    epochs: _Count = 12
    patience: _Count = 3
    batch_size: _Count = 128
    learning_rate: _Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    n_strips: _Count = 20_000
    trigger_share: Annotated[float, Field(ge=0, le=1)] = 0.3
    streak_share: Annotated[float, Field(ge=0, le=1)] = 0.3
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    mask_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    run_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    run_patches: _Count = 4

    @model_validator(mode="after")
    def _check_shares(self) -> PretrainSettings:
        if self.trigger_share + self.streak_share > 1:
            raise ValueError(f"trigger_share {self.trigger_share} and streak_share {self.streak_share} exceed 1")
        return self


class TuneSettings(_Section):
    """A sweep: the budget, equal for every family, and the search spaces.

    Each family gets ``trials`` trials of at most ``epochs`` passes over the same examples. Other settings are those of
    ``[train]``. The first ``startup_trials`` are drawn at random and never cut short. A later one ends if after
    ``warmup_epochs`` its validation loss is behind the median of the earlier ones. ``training`` and the tables of the
    families hold search spaces, see `shutterless.workflows.training.sweeps.search_space.parse_space`.
    """

    families: Annotated[tuple[FamilyName, ...], Field(min_length=1)] = FAMILY_NAMES
    trials: _Count = 20
    epochs: _Count = 3
    startup_trials: _Count = 5
    warmup_epochs: _Count = 1
    seed: _Seed = 1
    training: dict[str, Any] = Field(default_factory=dict)
    transformer: dict[str, Any] = Field(default_factory=dict)
    cnn: dict[str, Any] = Field(default_factory=dict)
    mlp: dict[str, Any] = Field(default_factory=dict)


class EvaluateSettings(_Section):
    """The bootstrap behind the error bars; the operating point follows from the live time."""

    bootstrap: _Count = 400
    seed: _Seed = 1


class SearchSettings(_Section):
    """The threshold of a search (false alarms per amplifier-hour), and the scoring of triggers."""

    false_alarms_per_hour: _Positive = 50.0
    trigger_threshold: _Positive = 5.0
    batch_size: _Count = 256


class Settings(_Section):
    """All settings of a run. The packaged ``quickstart.toml`` gives a value for every key of every section."""

    simulate: SimulateSettings
    ingest: IngestSettings = IngestSettings()
    pretrain: PretrainSettings = PretrainSettings()
    train: TrainSettings = TrainSettings()
    transformer: dict[str, Any] = Field(default_factory=dict)
    cnn: dict[str, Any] = Field(default_factory=dict)
    mlp: dict[str, Any] = Field(default_factory=dict)
    tune: TuneSettings = TuneSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    search: SearchSettings = SearchSettings()

    def train_for(self, family: str) -> TrainSettings:
        """Training settings with the architecture of one family."""
        if family not in FAMILY_NAMES:
            raise SettingsError(f"unknown model family {family!r}{nearest_key(family, FAMILY_NAMES)}")
        return self.train.model_copy(update={"architecture": dict(getattr(self, family))})


def load_settings(path: Path | str | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Read settings: the packaged quickstart, changed by a TOML file, changed by single keys.

    Parameters
    ----------
    path : path, optional
        A TOML file with the keys to change.
    overrides : sequence of str
        ``"section.key=value"``, for example ``"train.epochs=2"``; values are TOML, bare words are strings.

    Raises
    ------
    SettingsError
        If a file cannot be read, a key is unknown (with the nearest known one) or a value has the wrong type.
    """
    values = tomllib.loads(default_toml())
    source = "quickstart.toml"
    if path is not None:
        source = str(path)
        values = _merge(values, read_toml(Path(path)))
    for override in overrides:
        values = _merge(values, _parse_override(override))
    where = "--set" if overrides and path is None else source
    return validate_settings(Settings, values, where)


def load_scene(values: Mapping[str, Any], overrides: Sequence[str] = ()) -> SceneSection:
    """Settings of one simulated sequence, changed by ``"key=value"`` overrides; errors as `load_settings`."""
    for override in overrides:
        values = _merge(values, _parse_override(f"scene.{override}")["scene"])
    return validate_settings(SceneSection, values, "scene")


def default_toml() -> str:
    """Text of the packaged quickstart configuration."""
    return (
        resources.files("shutterless.workflows.settings.configs")
        .joinpath("quickstart.toml")
        .read_text(encoding="utf-8")
    )


def resolved_toml(settings: BaseModel) -> str:
    """TOML of every value in effect, defaults included; `load_settings` reads it back to equal settings."""
    return tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True))


def validate_settings(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """Make settings from plain values; a `SettingsError` names ``where`` they come from and every wrong key."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise SettingsError(f"{where}: " + "; ".join(_describe(entry, model) for entry in error.errors())) from None


def read_toml(path: Path) -> dict[str, Any]:
    """Values of a TOML file; a `SettingsError` gives the reason if it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"configuration {path} cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"configuration {path} is not valid TOML: {error}") from error


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or len(parts) < 2 or not all(parts):
        raise SettingsError(f"--set {override}: expected SECTION.KEY=VALUE, for example --set train.epochs=2")
    value: Any = text.strip()
    with suppress(tomllib.TOMLDecodeError):  # a bare word stays a string
        value = tomllib.loads(f"value = {text}")["value"]
    for part in reversed(parts):
        value = {part: value}
    return value


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge tables key by key; replace other values."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = _merge(old, value)
        merged[key] = value
    return merged


def _describe(entry: Mapping[str, Any], model: type[BaseModel]) -> str:
    """One line for an error of pydantic: the section, the key, the fault, the given value."""
    *sections, key = [str(part) for part in entry["loc"]] or ["settings"]
    where = f"[{'.'.join(sections)}] {key}" if sections else f"[{key}]"
    if entry["type"] == "extra_forbidden":
        return f"{where}: unknown key{nearest_key(key, _known_keys(model, sections))}"
    message = entry["msg"].removeprefix("Value error, ")
    if entry["type"] in ("missing", "value_error"):
        return f"{where}: {message}"
    return f"{where} = {entry['input']!r}: {message[0].lower()}{message[1:]}"


def _known_keys(root: type[BaseModel], sections: Sequence[str]) -> list[str]:
    """Keys of the section at a path such as ``["simulate", "training"]``."""
    model: Any = root
    for name in sections:
        model = model.model_fields[name].annotation
    return list(model.model_fields)


def nearest_key(key: str, known: Sequence[str]) -> str:
    """End of the error about an unknown key: the nearest known key, or all of them."""
    nearest = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else f"; known are {sorted(known)}"
