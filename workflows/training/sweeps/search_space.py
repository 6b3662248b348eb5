"""Read the search space of a sweep from TOML: ranges, choices and fixed values of hyperparameters."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shutterless.pipeline.settings import SettingsError, nearest_key, validate_settings
from shutterless.workflows.settings.settings import TrainSettings

# the hyperparameters of a training that a sweep may search; data, split and budget are the same for every trial
SEARCHED_TRAINING = ("batch_size", "learning_rate", "weight_decay", "warmup_fraction")
_RANGE_KEYS = ("low", "high", "log", "step")


class Trial(Protocol):
    """The methods of an Optuna trial that are used here."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Choose a whole number."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Choose a number."""

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        """Choose one of several."""


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; whole ones if both are."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def suggest(self, trial: Trial, name: str) -> float:
        """Let a trial choose."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def extremes(self) -> tuple[Any, ...]:
        """Values that must be allowed."""
        return self.low, self.high


@dataclass(frozen=True)
class Choice:
    """One of several values; a value may be a list."""

    options: tuple[Any, ...]

    def suggest(self, trial: Trial, name: str) -> Any:
        """Let a trial choose. Optuna stores the options as JSON, because it has no lists."""
        return json.loads(trial.suggest_categorical(name, [json.dumps(option) for option in self.options]))

    def extremes(self) -> tuple[Any, ...]:
        """Values that must be allowed."""
        return self.options


@dataclass(frozen=True)
class Fixed:
    """The same value for every trial."""

    value: Any

    def suggest(self, trial: Trial, name: str) -> Any:
        """Return the value."""
        return self.value

    def extremes(self) -> tuple[Any, ...]:
        """Values that must be allowed."""
        return (self.value,)


Dimension = Range | Choice | Fixed


@dataclass(frozen=True)
class SearchSpace:
    """The hyperparameters of one family that a sweep sets, in two groups."""

    train: Mapping[str, Dimension]
    arch: Mapping[str, Dimension]

    def suggest(self, trial: Trial) -> dict[str, dict[str, Any]]:
        """Hyperparameters of one trial, under "train" and "arch"."""
        return {
            group: {name: dimension.suggest(trial, f"{group}.{name}") for name, dimension in space.items()}
            for group, space in (("train", self.train), ("arch", self.arch))
        }


def parse_space(
    training: Mapping[str, Any],
    architecture: Mapping[str, Any],
    *,
    family: str,
    known: Mapping[str, bool],
) -> SearchSpace:
    """Read the search space of one family.

    Parameters
    ----------
    training, architecture : mapping
        Values of ``[tune.training]`` and of the family's own table: ``{low = 1e-4, high = 1e-2, log = true}`` is a
        range (of whole numbers if both ends are, in steps of ``step`` if given), a list holds choices, anything else is
        fixed.
    family : str
    known : mapping
        Names of the family's hyperparameters, and whether each is a list.

    Raises
    ------
    SettingsError
        For an unknown name (with the nearest known one) or an invalid space.
    """
    names = {name: False for name in SEARCHED_TRAINING}
    space = SearchSpace(
        _parse_table(training, "tune.training", names), _parse_table(architecture, f"tune.{family}", known)
    )
    for name, dimension in space.train.items():
        for value in dimension.extremes():
            validate_settings(TrainSettings, {name: value}, f"[tune.training] {name}")
    return space


def _parse_table(values: Mapping[str, Any], section: str, known: Mapping[str, bool]) -> dict[str, Dimension]:
    for name in values:
        if name not in known:
            raise SettingsError(f"[{section}] {name}: unknown key{nearest_key(name, list(known))}")
    return {name: _parse_dimension(value, f"[{section}] {name}", known[name]) for name, value in values.items()}


def _parse_dimension(value: Any, where: str, is_list: bool) -> Dimension:
    if isinstance(value, Mapping):
        return _parse_range(value, where)
    if not isinstance(value, list | tuple):
        return Fixed(value)
    if not value:
        raise SettingsError(f"{where}: no choices; give at least one")
    if is_list and not all(isinstance(option, list | tuple) for option in value):
        raise SettingsError(
            f"{where} = {json.dumps(value)}: each choice is itself a list, for example [{json.dumps(value)}] for this "
            "one alone"
        )
    return Choice(tuple(value))


def _parse_range(value: Mapping[str, Any], where: str) -> Range:
    for key in value:
        if key not in _RANGE_KEYS:
            raise SettingsError(f"{where}: a range has no {key!r}{nearest_key(key, _RANGE_KEYS)}")
    low, high, log, step = (value.get(key) for key in _RANGE_KEYS)
    if not (_is_number(low) and _is_number(high)):
        raise SettingsError(f"{where}: a range needs two numbers, low and high; found low = {low}, high = {high}")
    assert low is not None
    assert high is not None
    if low >= high:
        raise SettingsError(f"{where}: low {low} is not below high {high}; for a fixed value write {where} = {low}")
    if log and (low <= 0 or step is not None):
        raise SettingsError(f"{where}: a logarithmic range begins above 0 and has no step; found low = {low}")
    if step is not None and not (_is_number(step) and step > 0):
        raise SettingsError(f"{where}: step {step} is not above 0")
    return Range(low, high, bool(log), step)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def all_names(spaces: Collection[SearchSpace]) -> list[str]:
    """Every searched hyperparameter of the families as ``train.…`` and ``arch.…``, in the order of the settings."""
    names: dict[str, None] = {}
    for space in spaces:
        names |= dict.fromkeys(f"train.{name}" for name in space.train)
    for space in spaces:
        names |= dict.fromkeys(f"arch.{name}" for name in space.arch)
    return list(names)
