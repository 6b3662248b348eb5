"""Read the settings of the commands from TOML into one frozen value per section; a misspelt key is an error."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import field, fields, replace
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tomli_w
from pydantic import AfterValidator, Field, model_validator

from shutterless.models.combined.settings import CombinedSettings
from shutterless.models.forest.settings import ForestSettings
from shutterless.models.pretraining.settings import Masking, PretrainingSettings
from shutterless.models.training.settings import TrainingSettings
from shutterless.pipeline.detection.threshold import TRIGGER_THRESHOLD, TriggerBudget
from shutterless.pipeline.settings import (
    Count,
    CountFrom0,
    InnerShare,
    NotNegative,
    Positive,
    SettingsError,
    Share,
    nearest_key,
    plain_values,
    settings_class,
    validate_settings,
)
from shutterless.pipeline.simulation.settings import SceneSettings
from shutterless.pipeline.tokens import STRIPS_AT_ONCE, TokenGrid

FamilyName = Literal["transformer", "cnn", "mlp"]
FAMILY_NAMES: tuple[FamilyName, ...] = get_args(FamilyName)


def _check_borders(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(values) < 2 or any(high <= low for low, high in pairwise(values)):
        raise ValueError(f"{list(values)} are not two or more numbers, each above the one before it")
    return values


Borders = Annotated[tuple[float, ...], AfterValidator(_check_borders)]


@settings_class()
class SimulateSettings:
    """The sequences of the quickstart. Each has its own seed, so that no two share stars or noise."""

    training: SceneSettings
    validation: SceneSettings
    event_free: SceneSettings
    with_events: SceneSettings

    @model_validator(mode="after")
    def _check_apart(self) -> SimulateSettings:
        scenes = self.scenes()
        for what in ("seed", "sequence"):
            values = {name: getattr(scene, what) for name, scene in scenes.items()}
            if len(set(values.values())) < len(values):
                raise ValueError(f"scenes must differ in {what}, or held-out frames repeat training frames: {values}")
        return self

    def scenes(self) -> dict[str, SceneSettings]:
        """Every sequence by name."""
        return {scene.name: getattr(self, scene.name) for scene in fields(self)}


@settings_class()
class IngestSettings:
    """How to read frames.

    Parameters
    ----------
    instrument : str or None
        Name of a profile, or a TOML file; recognised from the header if left out.
    header : dict
        Header values that replace those in the files, e.g. ``{ ROWRATE = "300" }``.
    """

    instrument: str | None = None
    header: dict[str, str] = field(default_factory=dict)


@settings_class()
class TrainSettings(TrainingSettings):
    """Training settings of all families; `Settings.train_for` adds the family's ``architecture``.

    Parameters
    ----------
    n_examples : int
        Number of examples, divided evenly among the amplifiers of the training store. A validation store, if there is
        one, adds ``validation_fraction`` of this number.
    event_fraction : float
        Share of the examples with an injected event; the others hold noise, cosmic rays and pickup.
    split : str
        "field" sets some fields of stars apart for validation. "time" sets the last part of every amplifier apart, for
        stores of a single field; the model is then judged on the stars of its training.
    hide_above : float
        Triggers that the classical detector takes for events above this S/N are masked first; 0 takes all as
        event-free, like simulated frames.
    label_share : float
        Share of the examples that are vetted candidates, if labels are given. They are drawn with repetition, events
        and artefacts equally often, no candidate more than 50 times.
    label_folds, label_seeds : int
        To find wrong labels, the vetted candidates are divided into so many folds, with so many seeds; each takes a
        training.
    grid : TokenGrid
    architecture : dict
    """

    n_examples: Count = 20_000
    event_fraction: InnerShare = 0.5
    split: Literal["field", "time"] = "field"
    hide_above: NotNegative = 0.0
    label_share: InnerShare = 0.2
    label_folds: Annotated[int, Field(ge=2)] = 5
    label_seeds: Count = 2
    grid: TokenGrid = TokenGrid()
    architecture: dict[str, Any] = field(default_factory=dict)


@settings_class()
class PretrainSettings(PretrainingSettings):
    """Settings of the encoder's pretraining without labels; the grid is that of training.

    Parameters
    ----------
    n_strips : int
        Number of strips, divided evenly among the amplifiers of the store.
    trigger_share, streak_share : float
        Shares of the strips that are cut at triggers of stage 1, and at stars; the rest is cut anywhere.
    validation_fraction : float
        Share of the fields of stars, or of the rows if the store holds a single field.
    mask_share : float
        Share of the patches of every strip that is hidden.
    run_share : float
        Share of the strips whose patches are hidden in runs of ``run_patches`` neighbours; in the others they are
        hidden one by one.
    run_patches : int
    """

    n_strips: Count = 20_000
    trigger_share: Share = 0.3
    streak_share: Share = 0.3
    validation_fraction: InnerShare = 0.2
    mask_share: InnerShare = Masking.share
    run_share: Share = Masking.run_share
    run_patches: Count = Masking.run_patches

    @model_validator(mode="after")
    def _check_shares(self) -> PretrainSettings:
        if self.trigger_share + self.streak_share > 1:
            raise ValueError(f"trigger_share {self.trigger_share} and streak_share {self.streak_share} exceed 1")
        return self

    @property
    def masking(self) -> Masking:
        """Share of hidden patches, and the length of their runs."""
        return Masking(self.mask_share, self.run_share, self.run_patches)


@settings_class()
class TuneSettings:
    """A sweep: the budget, equal for every family, and the search spaces. Other settings are those of ``[train]``.

    A search space is a range ``{ low, high, log, step }`` (of whole numbers if both ends are), a list of choices, or a
    fixed value, see `shutterless.workflows.training.sweeps.search_space.parse_space`. A hyperparameter without one
    keeps its value of ``[train]`` or of the family's table.

    Parameters
    ----------
    families : tuple of str
    trials : int
        Number of trials of each family.
    epochs : int
        Largest number of passes of each trial over the examples, which all trials share.
    startup_trials : int
        First trials, which are drawn at random and never cut short.
    warmup_epochs : int
        Number of epochs after which a later trial ends if its validation loss is behind the median of the earlier ones.
    seed : int
    training, transformer, cnn, mlp : dict
        Search spaces of the hyperparameters of training, and of those of each family.
    """

    families: Annotated[tuple[FamilyName, ...], Field(min_length=1)] = FAMILY_NAMES
    trials: Count = 20
    epochs: Count = 3
    startup_trials: Count = 5
    warmup_epochs: Count = 1
    seed: CountFrom0 = 1
    training: dict[str, Any] = field(default_factory=dict)
    transformer: dict[str, Any] = field(default_factory=dict)
    cnn: dict[str, Any] = field(default_factory=dict)
    mlp: dict[str, Any] = field(default_factory=dict)


@settings_class()
class EvaluateSettings:
    """The bootstrap behind the error bars; the operating point follows from the live time.

    Parameters
    ----------
    bootstrap : int
        Number of samples that are drawn of the events.
    seed : int
    """

    bootstrap: Count = 400
    seed: CountFrom0 = 1


@settings_class()
class SearchSettings:
    """The threshold of a search, and the scoring of triggers.

    Parameters
    ----------
    false_alarms_per_hour : float
        False alarms per amplifier-hour.
    own_rates : bool
        Whether the threshold of an amplifier comes from the scores of its own frames. If not, it is that of the
        detector's stored curve, which was counted on other frames; for frames with thousands of injected events an
        hour, which would pass for noise.
    events_per_hour : float, optional
        Events per amplifier-hour that are expected: the prior of the ``posterior`` of each candidate.
    trigger_threshold : float
        Smallest S/N of a trigger.
    most_measured_per_second : float
        Places above the trigger threshold that are measured per second of an amplifier, the strongest first, and few of
        the same rows or column. Frames full of artefacts have more. On 300 amplifiers of labelled fields with all
        nuisances none had more than 80 triggers a second; 60 would have cost 0.1 % of the events found.
    most_asked_per_second : float
        Triggers that the networks of a combined detector see per second of an amplifier, those that its forest ranks
        highest. On 100 of these amplifiers all candidates at 50 false alarms per hour were among the first 0.7.
    batch_size : int
        Strips scored at once.
    """

    false_alarms_per_hour: Positive = 50.0
    own_rates: bool = True
    events_per_hour: Positive | None = None
    trigger_threshold: Positive = TRIGGER_THRESHOLD
    most_measured_per_second: Positive = 80.0
    most_asked_per_second: Positive = 2.0
    batch_size: Count = STRIPS_AT_ONCE

    @property
    def budget(self) -> TriggerBudget:
        """The most triggers that are judged."""
        return TriggerBudget(self.most_measured_per_second, self.most_asked_per_second)


@settings_class()
class LimitsSettings:
    """The cells in which rates and upper limits are given.

    Parameters
    ----------
    durations_s, magnitudes : tuple of float
        Borders of the cells, rising: how long an event lasts (s), and the magnitude of its light at the peak.
    least_events : int
        Events of the evaluation that a cell needs at least, to know its completeness.
    confidence : float
        Of intervals and limits.
    """

    durations_s: Borders = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    magnitudes: Borders = (6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0)
    least_events: Count = 10
    confidence: InnerShare = 0.95


@settings_class()
class Settings:
    """All settings of a run: the sections of a configuration file."""

    simulate: SimulateSettings
    ingest: IngestSettings = IngestSettings()
    pretrain: PretrainSettings = PretrainSettings()
    train: TrainSettings = TrainSettings()
    transformer: dict[str, Any] = field(default_factory=dict)
    cnn: dict[str, Any] = field(default_factory=dict)
    mlp: dict[str, Any] = field(default_factory=dict)
    forest: ForestSettings = ForestSettings()
    combined: CombinedSettings = CombinedSettings()
    tune: TuneSettings = TuneSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    search: SearchSettings = SearchSettings()
    limits: LimitsSettings = LimitsSettings()

    def train_for(self, family: str) -> TrainSettings:
        """Training settings with the architecture of one family."""
        if family not in FAMILY_NAMES:
            raise SettingsError(f"unknown model family {family!r}{nearest_key(family, FAMILY_NAMES)}")
        return replace(self.train, architecture=dict(getattr(self, family)))


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
        values = merge_tables(values, read_toml(Path(path)))
    for override in overrides:
        values = merge_tables(values, _parse_override(override))
    where = "--set" if overrides and path is None else source
    return validate_settings(Settings, values, where)


def load_scene(values: Mapping[str, Any], overrides: Sequence[str] = ()) -> SceneSettings:
    """Settings of one simulated sequence, changed by ``"key=value"`` overrides; errors as `load_settings`."""
    for override in overrides:
        values = merge_tables(values, _parse_override(f"scene.{override}")["scene"])
    return validate_settings(SceneSettings, values, "scene")


def default_toml() -> str:
    """Text of the packaged quickstart configuration."""
    return (
        resources.files("shutterless.workflows.settings.configs")
        .joinpath("quickstart.toml")
        .read_text(encoding="utf-8")
    )


def resolved_toml(settings: Settings) -> str:
    """TOML of every value in effect, defaults included; `load_settings` reads it back to equal settings."""
    return tomli_w.dumps(plain_values(settings, with_none=False))


def read_toml(path: Path) -> dict[str, Any]:
    """Values of a TOML file; a `SettingsError` gives the reason if it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"configuration {path} cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
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


def merge_tables(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged key by key; everything else is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = merge_tables(old, value)
        merged[key] = value
    return merged
