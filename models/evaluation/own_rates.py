"""Fit the rate of false alarms to the scores of the frames that are searched, amplifier by amplifier.

A curve that was counted on other frames knows another air and other stars. Above some score the false alarms of one
amplifier fall exponentially, so the scores below the threshold tell how many lie above it. `fit_own_rates` does this
for all amplifiers of a search; what its frames are too few to tell comes from the other amplifiers of the CCD, which
share its sky, and what these cannot tell comes from the stored curve.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from shutterless.models.evaluation.metrics import RateCurve
from shutterless.pipeline.reading.readout import PIXEL_ROWS_PER_HOUR

# The fit begins where this many false alarms an amplifier-hour of ZTF are left, or, for a larger rate, so many times
# the rate: well above what is asked for, so that a threshold is extrapolated by little and real events are few
START_RATE, START_OVER_ASKED = 1500.0, 30.0
# It ends so many scales above the start. What lies beyond counts neither for nor against, so that 200 real events an
# hour hardly matter. Both were chosen on synthetic tails (docs/experiments.md) and on ten simulated fields (seed 4711)
TAIL_REACH = 4.0
# Of far more events than nature has, as in a blind test, most of what lies above the start would be events. They are
# counted first, from a lower start on: what lies beyond the reach there, except so many an hour of ZTF
LOWER_START, EXPECTED_BEYOND = 3.0, 300.0
MIN_SCORES = 12  # of a group; a thirtieth of the rate at the start follows from fewer no better than to a factor of 3
# What is stored was off by factors from 1/12 to 57 under other skies, so it is known to a factor of several at best
STORED_FACTOR = 3.0
# Factors by which amplifiers of one CCD differ in rate, and in the scale of their tails (the same ten fields)
RATE_FACTOR, SCALE_FACTOR = 2.0, 1.4
FREEDOM = 4.0  # what is held against its kin counts for less the more it differs, as with so many degrees of freedom


@dataclass(frozen=True)
class AmplifierScores:
    """What a search has of one amplifier.

    Parameters
    ----------
    amplifier, group : str
        Its name, and that of the amplifiers under the same sky.
    scores : ndarray, shape (n,)
        Highest score of each distinct cause; finite.
    live_hours : float
        Amplifier-hours that were searched.
    pixel_rows_per_hour : float
        Pixels times rows of each of these hours.
    """

    amplifier: str
    group: str
    scores: np.ndarray
    live_hours: float
    pixel_rows_per_hour: float = PIXEL_ROWS_PER_HOUR


@dataclass(frozen=True)
class OwnRate:
    """Exponential tail of the false alarms of an amplifier.

    Parameters
    ----------
    start : float
        Score from which the tail is described.
    start_rate : float
        False alarms per amplifier-hour at this score or above.
    scale : float
        Difference of scores in which the rate falls by e; 0 if unknown.
    n_start, n_scale : float
        Scores on which the rate at the start and the scale rest, each known to one over the root of them.
    n_own : int
        Scores of the amplifier itself among them.

    Notes
    -----
    The scale is uncertain, and a scale too large raises more alarms than one too small saves. Rates are expected values
    over what the fit leaves open: with ``1 / scale`` distributed as a gamma variable of n scores the tail is
    ``start_rate * (1 + x / (n * scale))**-n`` (Lomax 1954, JASA 49, 847), which is exponential for many.
    """

    start: float
    start_rate: float
    scale: float
    n_start: float
    n_scale: float
    n_own: int = 0

    @property
    def is_fitted(self) -> bool:
        """Whether the searched frames tell this rate, and not the stored curve alone."""
        return self.n_start > _known_to(STORED_FACTOR)

    def threshold(self, rate_per_hour: float) -> float:
        """Score above which so many false alarms per amplifier-hour are expected."""
        if self.scale == 0 or rate_per_hour == self.start_rate:
            return self.start
        folds = np.log(self.start_rate / rate_per_hour)
        if folds > 0:
            folds = self.n_scale * np.expm1(folds / self.n_scale)
        return float(self.start + self.scale * folds)

    def rate(self, score: Any) -> np.ndarray:
        """False alarms expected per amplifier-hour at a score or above; NaN where no scale is known."""
        if self.scale == 0:
            return np.full(np.shape(score), np.nan)
        folds = (np.asarray(score, dtype=np.float64) - self.start) / self.scale
        above = self.n_scale * np.log1p(np.maximum(folds, 0.0) / self.n_scale)
        return self.start_rate * np.exp(-(above + np.minimum(folds, 0.0)))

    def density(self, score: Any) -> np.ndarray:
        """False alarms expected per amplifier-hour and unit of score: the slope of `rate`; NaN where it is."""
        if self.scale == 0:
            return np.full(np.shape(score), np.nan)
        folds = (np.asarray(score, dtype=np.float64) - self.start) / self.scale
        return self.rate(score) / (self.scale * (1 + np.maximum(folds, 0.0) / self.n_scale))

    def rate_error(self, score: Any) -> np.ndarray:
        """Relative error of `rate`: of 0.5, the logarithm of the rate is known to 0.5; NaN where no scale is known."""
        if self.scale == 0:
            return np.full(np.shape(score), np.nan)
        folds = (np.asarray(score, dtype=np.float64) - self.start) / self.scale
        return np.sqrt(1 / self.n_start + folds**2 / self.n_scale)

    def threshold_error(self, rate_per_hour: float) -> float:
        """Error of `threshold`, in scores."""
        return float(self.rate_error(self.threshold(rate_per_hour)) * self.scale)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OwnRate:
        """Rebuild from `to_dict`."""
        return cls(**values)


@dataclass(frozen=True)
class _Tail:
    """Scores of one amplifier above the start of its tail, as excesses in rising order."""

    start: float
    start_rate: float
    excesses: np.ndarray
    expected_beyond: float  # scores beyond the reach that are no sign of many events

    def start_at(self, rate: float, scale: float) -> float:
        """Score at which another rate is left, where fewer were found than the tail is to begin with."""
        return self.start + scale * float(np.log(self.start_rate / rate))


def fit_own_rates(
    searched: Iterable[AmplifierScores], rate_per_hour: float, stored: RateCurve | None
) -> dict[str, OwnRate]:
    """Fit the tails of all amplifiers of a search.

    Parameters
    ----------
    searched : iterable of AmplifierScores
        In any order.
    rate_per_hour : float
        False alarms per amplifier-hour that are asked for.
    stored : RateCurve, optional
        Counted on other frames.

    Returns
    -------
    dict of str to OwnRate
        By amplifier, in the order of groups and names. Without a stored curve, amplifiers of a group that holds too few
        scores are left out.
    """
    ordered = sorted(searched, key=lambda one: (one.group, one.amplifier))
    rates: dict[str, OwnRate] = {}
    for _, members in groupby(ordered, key=lambda one: one.group):
        rates |= _fit_group(list(members), rate_per_hour, stored)
    return rates


def stored_rate(stored: RateCurve, rate_per_hour: float, pixel_rows_per_hour: float) -> OwnRate:
    """Tail of a curve of other frames: its threshold at the asked rate, and its scale just below."""
    start = stored.threshold(rate_per_hour, pixel_rows_per_hour)[0]
    folds = np.log(START_OVER_ASKED)
    lower = stored.threshold(rate_per_hour * START_OVER_ASKED, pixel_rows_per_hour)[0]
    most = len(stored.scores) / stored.hours_of(pixel_rows_per_hour)
    if most < rate_per_hour * START_OVER_ASKED:
        folds = np.log(max(most, 1e-12) / rate_per_hour)
    scale = float((start - lower) / folds) if folds > 0 and np.isfinite(start) else 0.0
    return OwnRate(start, rate_per_hour, max(scale, 0.0), _known_to(STORED_FACTOR), _known_to(STORED_FACTOR))


def _fit_group(
    members: Sequence[AmplifierScores], rate_per_hour: float, stored: RateCurve | None
) -> dict[str, OwnRate]:
    pixel_rows = members[0].pixel_rows_per_hour
    known = None if stored is None else stored_rate(stored, rate_per_hour, pixel_rows)
    start_rate = max(START_RATE * pixel_rows / PIXEL_ROWS_PER_HOUR, START_OVER_ASKED * rate_per_hour)
    before, n_before = (known.scale, known.n_scale) if known and known.scale > 0 else (0.0, 0.0)
    lower = _find_tails(members, LOWER_START * start_rate, {})
    first_scale, _ = fit_scale(_join_excesses(lower), before, n_before)
    tails = _find_tails(members, start_rate, {name: _count_events(tail, first_scale) for name, tail in lower.items()})
    excesses = _join_excesses(tails)
    scale, n_scale = fit_scale(excesses, before, n_before)
    n_noise = start_rate * sum(one.live_hours for one in members)  # events are no reason to trust a short search
    if min(len(excesses), n_noise) < MIN_SCORES or scale == 0:
        return {} if known is None else {one.amplifier: known for one in members}
    start_rate = min(start_rate, float(np.median([tail.start_rate for tail in tails.values()])))
    start = float(np.median([tail.start_at(start_rate, scale) for tail in tails.values()]))
    group = OwnRate(start, start_rate, scale, float(len(excesses)), n_scale)
    if n_before and known is not None:
        group = _lean(group, known.threshold(start_rate), known.n_start)
    return {one.amplifier: _fit_amplifier(tails.get(one.amplifier), group) for one in members}


def _fit_amplifier(tail: _Tail | None, group: OwnRate) -> OwnRate:
    """Tail of one amplifier, from its own scores and as far as these are few from those of its group."""
    n_start = _join(group.n_start, _known_to(RATE_FACTOR))
    n_scale = _join(group.n_scale, _known_to(SCALE_FACTOR))
    if tail is None:
        return replace(group, n_start=n_start, n_scale=n_scale)
    scale, n_own_scale = fit_scale(tail.excesses, group.scale, n_scale)
    n_own = len(tail.excesses)
    own = OwnRate(tail.start_at(group.start_rate, scale), group.start_rate, scale, float(n_own), n_own_scale, n_own)
    return _lean(own, group.start, n_start)


def fit_scale(excesses: np.ndarray, before: float = 0.0, n_before: float = 0.0) -> tuple[float, float]:
    """Scale of an exponential tail under scores that do not belong to it.

    Parameters
    ----------
    excesses : ndarray, shape (n,)
        Scores above the start of the tail, rising.
    before, n_before : float
        What is known of the scale, as the mean of so many excesses.

    Returns
    -------
    scale, n_scale : float
        Its relative error is one over the root of ``n_scale``.

    Notes
    -----
    Maximum likelihood of an exponential that is cut at `TAIL_REACH` of its scales. The mean excess below the cut is
    then a known share of the scale. From the middle of the scores upward, the first number of them is taken that lie
    below their own cut while the next lies beyond.
    """
    mean = 1 - TAIL_REACH / np.expm1(TAIL_REACH)
    information = 1 - TAIL_REACH**2 * np.exp(-TAIL_REACH) / np.expm1(-TAIL_REACH) ** 2
    n_below = np.arange(len(excesses) + 1)
    sums = np.concatenate([[0.0], np.cumsum(excesses)])
    scales = (sums + n_before * before) / np.maximum(n_below * mean + n_before, 1e-12)
    fits = (np.append(excesses, np.inf) >= TAIL_REACH * scales) & (n_below >= (len(excesses) + 1) // 2)
    n = int(np.argmax(fits))
    return float(scales[n]), float(n * information + n_before)


def _find_tails(
    members: Sequence[AmplifierScores], start_rate: float, n_events: Mapping[str, float]
) -> dict[str, _Tail]:
    """Tails of amplifiers from a rate on, of which some are events, or from the lowest score where there are fewer."""
    tails = {}
    for one in members:
        scores = np.sort(one.scores)[::-1]
        n = min(round(start_rate * one.live_hours + n_events.get(one.amplifier, 0.0)), len(scores) - 1)
        if n > 0:
            expected = EXPECTED_BEYOND * one.live_hours * one.pixel_rows_per_hour / PIXEL_ROWS_PER_HOUR
            tails[one.amplifier] = _Tail(
                float(scores[n]), (n + 1) / one.live_hours, scores[:n][::-1] - scores[n], expected
            )
    return tails


def _join_excesses(tails: Mapping[str, _Tail]) -> np.ndarray:
    return np.sort(np.concatenate([tail.excesses for tail in tails.values()])) if tails else np.empty(0)


def _count_events(tail: _Tail, scale: float) -> float:
    """Scores beyond the reach of a tail that are more than its own and than are expected."""
    n_noise = (tail.excesses < TAIL_REACH * scale).sum() / -np.expm1(-TAIL_REACH)
    return max(float(len(tail.excesses) - n_noise - tail.expected_beyond), 0.0)


def _lean(own: OwnRate, start: float, n_start: float) -> OwnRate:
    """Move the start of a tail towards where it is expected, as far as so many scores weigh.

    The expectation counts for less the farther it is off (Student's t): an amplifier that is flooded keeps its own.
    """
    apart = (start - own.start) / own.scale
    weight = n_start / (1 + apart**2 / (1 / n_start + 1 / own.n_start) / FREEDOM)
    moved = own.start + (start - own.start) * weight / (weight + own.n_start)
    return replace(own, start=float(moved), n_start=own.n_start + weight)


def _known_to(factor: float) -> float:
    """Number of scores that tell a value to this factor."""
    return float(1 / np.log(factor) ** 2)


def _join(first: float, second: float) -> float:
    """Number of scores that tell a value with the errors of both."""
    return 1 / (1 / first + 1 / second)
