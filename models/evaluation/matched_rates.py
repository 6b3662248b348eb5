"""Judge detectors at the same counted rate of false alarms, with errors from a bootstrap over whole fields.

The four amplifiers of a field share their air, and all events of an amplifier its stars. So fields are resampled, the
event-free ones for the threshold and the others for the events found: the error holds that of the threshold. All
detectors get the same samples, so two can be compared sample by sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtr

from shutterless.models.evaluation.groups import is_found
from shutterless.models.evaluation.metrics import (
    MIN_COUNTED_ALARMS,
    RateCurve,
    event_scores,
    list_alarms,
    optimum_threshold,
)


@dataclass(frozen=True)
class Fields:
    """Triggers, truth, and searched time of simulated fields.

    Parameters
    ----------
    detections : DataFrame
        Triggers with ``entry`` and the scores of every detector.
    truth : DataFrame
        Events and artefacts with ``entry``; what else it has is kept in the tables of events.
    entries : DataFrame
        ``entry``, ``field`` and ``live_hours`` of every amplifier, also of those without a trigger.
    """

    detections: pd.DataFrame
    truth: pd.DataFrame
    entries: pd.DataFrame

    @property
    def live_hours(self) -> float:
        """Amplifier-hours of all entries."""
        return float(self.entries["live_hours"].sum())

    def only(self, entries: pd.Series) -> Fields:
        """Return the part of these entries."""
        kept = [table[table["entry"].isin(entries)] for table in (self.detections, self.truth, self.entries)]
        return Fields(*(table.reset_index(drop=True) for table in kept))

    def without(self, entries: pd.Series) -> Fields:
        """Return all but these entries."""
        return self.only(self.entries.loc[~self.entries["entry"].isin(entries), "entry"])

    def event_free(self) -> Fields:
        """Return the fields in which no amplifier has an event."""
        return self.only(self._by_events(False))

    def with_events(self) -> Fields:
        """Return the fields with events."""
        return self.only(self._by_events(True))

    def _by_events(self, wanted: bool) -> pd.Series:
        busy = self.truth.loc[self.truth["is_event"].astype(bool), "entry"]
        fields = self.entries.loc[self.entries["entry"].isin(busy), "field"]
        return self.entries.loc[self.entries["field"].isin(fields) == wanted, "entry"]


@dataclass(frozen=True)
class DetectorCounts:
    """One detector on fields: its false alarms on the event-free ones and the best score of each event on the others.

    Parameters
    ----------
    alarms : DataFrame
        ``entry`` and ``score``, the highest first.
    events : DataFrame
        Counted events with ``score``.
    """

    alarms: pd.DataFrame
    events: pd.DataFrame


@dataclass(frozen=True)
class Draws:
    """Bootstrap samples: how often each field is drawn, int (samples, fields), and the order of the fields."""

    free_fields: np.ndarray
    free: np.ndarray
    busy_fields: np.ndarray
    busy: np.ndarray


@dataclass(frozen=True)
class RateResult:
    """Completeness at a rate of false alarms.

    ``samples`` is the completeness in each bootstrap sample; ``extrapolated`` is set where fewer than
    `MIN_COUNTED_ALARMS` alarms were counted.
    """

    threshold: float
    false_alarms: int
    extrapolated: bool
    completeness: float
    samples: np.ndarray


def count_detector(free: Fields, busy: Fields, name: str, rho: tuple[float, float]) -> DetectorCounts:
    """List the false alarms of a detector on event-free fields, and its scores of the events of ``rho`` on others."""
    column = f"{name}/score"
    alarms = list_alarms(free.detections, free.detections[column].to_numpy(np.float64), free.truth)
    events = event_scores(busy.detections, busy.detections[column].to_numpy(np.float64), busy.truth)
    return DetectorCounts(alarms, events[events["rho"].between(*rho)].reset_index(drop=True))


def draw_samples(free: Fields, busy: Fields, n_samples: int, seed: int) -> Draws:
    """Draw fields with replacement, as many as there are."""
    rng = np.random.default_rng(seed)
    names = [np.unique(fields.entries["field"].to_numpy(dtype=object)) for fields in (free, busy)]
    counts = [rng.multinomial(len(own), np.full(len(own), 1 / len(own)), n_samples) for own in names]
    return Draws(names[0], counts[0], names[1], counts[1])


def judge_at_rate(counts: DetectorCounts, free: Fields, busy: Fields, rate_per_hour: float, draws: Draws) -> RateResult:
    """Threshold and completeness of a detector at a rate of false alarms per amplifier-hour.

    Parameters
    ----------
    counts : DetectorCounts
    free, busy : Fields
        On which it was counted.
    rate_per_hour : float
    draws : Draws
    """
    curve = RateCurve(counts.alarms["score"].to_numpy(np.float64), free.live_hours)
    threshold, extrapolated = curve.threshold(rate_per_hour)
    found = is_found(counts.events, threshold)
    thresholds = _sample_thresholds(counts.alarms, free, draws, rate_per_hour)
    return RateResult(
        threshold=threshold,
        false_alarms=int((curve.scores >= threshold).sum()),
        extrapolated=extrapolated or curve.live_hours * rate_per_hour < MIN_COUNTED_ALARMS,
        completeness=float(found.mean()) if len(found) else float("nan"),
        samples=_sample_completeness(counts.events, busy, draws, thresholds),
    )


def _sample_thresholds(alarms: pd.DataFrame, free: Fields, draws: Draws, rate: float) -> np.ndarray:
    """Score at which each sample of event-free fields has counted as many alarms as the rate allows; at least one."""
    hours = free.entries.groupby("field")["live_hours"].sum().reindex(draws.free_fields).to_numpy()
    wanted = np.maximum(np.rint(rate * (draws.free @ hours)), 1)
    if alarms.empty:
        return np.full(len(wanted), -np.inf)
    counted = np.cumsum(draws.free[:, _positions(alarms, free, draws.free_fields)], axis=1)
    index = np.minimum((counted < wanted[:, None]).sum(axis=1), len(alarms) - 1)
    return alarms["score"].to_numpy(np.float64)[index]


def _sample_completeness(events: pd.DataFrame, busy: Fields, draws: Draws, thresholds: np.ndarray) -> np.ndarray:
    weights = draws.busy[:, _positions(events, busy, draws.busy_fields)]
    found = np.array([is_found(events, threshold) for threshold in thresholds]).reshape(weights.shape)
    with np.errstate(invalid="ignore"):
        return (weights * found).sum(axis=1) / weights.sum(axis=1)


def _positions(table: pd.DataFrame, fields: Fields, order: np.ndarray) -> np.ndarray:
    """Position in ``order`` of the field of each row of a table with ``entry``."""
    field = table["entry"].map(fields.entries.set_index("entry")["field"])
    return np.searchsorted(order, field.to_numpy(dtype=object))


def interval(samples: np.ndarray) -> tuple[float, float]:
    """Central 95 % of bootstrap samples."""
    finite = samples[np.isfinite(samples)]
    low, high = np.quantile(finite, [0.025, 0.975]) if finite.size else (np.nan, np.nan)
    return float(low), float(high)


def optimum_completeness(rho: np.ndarray, rate_per_hour: float) -> float:
    """Share of events that a perfect-match bank on clean noise finds: the mean of Φ(ρ - η) at the rate's η."""
    return float(np.mean(ndtr(np.asarray(rho) - optimum_threshold(rate_per_hour)))) if len(rho) else float("nan")
