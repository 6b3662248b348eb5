"""Measure detectors: false alarms, live time, completeness and loss, with the same code for every detector.

A *false alarm* is a cluster of detections that matches no event of the truth table. *Completeness* is counted against
``rho``, the S/N of a perfect-match template, which no detector can beat. Events of `UNCOUNTED_KINDS` are no false
alarms, but do not count for completeness. Glints look like bursts within one amplifier. `ENDLESS_KINDS` last longer
than any file, so they have no finite ``rho``; `apart_table` reports them separately.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy.interpolate import make_interp_spline
from scipy.optimize import minimize
from scipy.special import expit, ndtr, ndtri

from shutterless.pipeline.detection.matching import TRUTH_MATCH_PX, match_truth, number_groups
from shutterless.pipeline.events.kinds import EITHER_KINDS, ENDLESS_KINDS, UNCOUNTED_KINDS
from shutterless.pipeline.reading.readout import PIXEL_ROWS_PER_HOUR

MIN_COUNTED_ALARMS = 10  # a rate that rests on fewer is marked extrapolated
TAIL_ALARMS = 30
RHO_BINS = (4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 14.0, 16.0, 20.0)
CONFIDENCE = 0.95
# events per amplifier-hour in the mix a model is trained on: 10,000 events, most of them between 4.9 and 12 sigma, and
# half an hour of noise. At 6 sigma there are 9 events per noise trigger, so the limit agrees with the model's own odds
EVENTS_PER_HOUR = 630.0
# false alarms per amplifier-hour of ZTF and threshold of a perfect-match bank on clean noise, two amplifier-hours
# (benchmarks/optimum.py --hours 2): all widths and shapes of the bank, both signs; below 5 an exponential tail
OPTIMUM_THRESHOLDS = (
    (1.0, 6.82),
    (2.0, 6.69),
    (5.0, 6.50),
    (10.0, 6.36),
    (20.0, 6.19),
    (50.0, 6.05),
    (100.0, 5.93),
    (200.0, 5.79),
    (500.0, 5.62),
    (1000.0, 5.47),
)


@dataclass(frozen=True)
class OperatingPoint:
    """Threshold of a detector and the rate of false alarms above it.

    ``rate_low`` and ``rate_high`` are the 95 % Poisson interval of ``rate_per_hour``, per amplifier-hour.
    """

    threshold: float
    false_alarms: int
    live_hours: float
    rate_per_hour: float
    rate_low: float
    rate_high: float
    extrapolated: bool


@dataclass(frozen=True)
class RateCurve:
    """Scores of false alarms and the time they were counted in, which give the threshold for any rate.

    Parameters
    ----------
    scores : ndarray, shape (m,)
        Highest score of each false alarm, descending; finite.
    live_hours : float
        Amplifier-hours.
    pixel_rows_per_hour : float
        Pixels times rows of each of these hours.
    event_scores : ndarray, shape (n,)
        Highest score of each event in frames that the detector was not trained on; empty if none were counted.
    """

    scores: np.ndarray
    live_hours: float
    pixel_rows_per_hour: float = PIXEL_ROWS_PER_HOUR
    event_scores: np.ndarray = field(default_factory=lambda: np.empty(0))

    def hours_of(self, pixel_rows_per_hour: float) -> float:
        """Time that was searched, in amplifier-hours of so many pixel-rows."""
        return self.live_hours * (self.pixel_rows_per_hour / pixel_rows_per_hour)

    def threshold(self, rate_per_hour: float, pixel_rows_per_hour: float | None = None) -> tuple[float, bool]:
        """Threshold at a rate of false alarms per amplifier-hour, and whether it is extrapolated.

        Parameters
        ----------
        rate_per_hour : float
        pixel_rows_per_hour : float, optional
            Of the amplifier that is searched, where that is another than the one the alarms were counted on.

        Notes
        -----
        An amplifier of fewer pixel-rows an hour has as many fewer chances of an alarm.

        Alarms are counted where there are at least `MIN_COUNTED_ALARMS`. For lower rates, an exponential tail is fitted
        to the highest `TAIL_ALARMS` (maximum likelihood: their mean excess over the lowest). With more of them the fit
        is more precise but too high, because real tails fall faster.
        """
        wanted = rate_per_hour * self.hours_of(pixel_rows_per_hour or self.pixel_rows_per_hour)
        if len(self.scores) == 0:
            return -np.inf, True
        counted = round(wanted)
        if counted >= MIN_COUNTED_ALARMS or len(self.scores) < MIN_COUNTED_ALARMS:
            index = min(max(counted, 1), len(self.scores)) - 1
            return float(self.scores[index]), counted < MIN_COUNTED_ALARMS
        n_tail = min(TAIL_ALARMS, len(self.scores))
        floor = self.scores[n_tail - 1]
        scale = float(np.mean(self.scores[:n_tail] - floor))
        return float(floor + scale * np.log(n_tail / max(wanted, 1e-12))), True

    def to_dict(self, n_kept: int = 500) -> dict[str, object]:
        """Return plain values for JSON: only the highest scores of false alarms, among which thresholds lie."""
        values = {"live_hours": self.live_hours, "pixel_rows_per_hour": self.pixel_rows_per_hour}
        scores = {"scores": self.scores[:n_kept].tolist(), "event_scores": self.event_scores.tolist()}
        return {**values, **scores}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> RateCurve:
        """Rebuild a curve from `to_dict`; one that does not say what its hours are was counted on ZTF's.

        Raises
        ------
        KeyError, TypeError, ValueError
            If the values are no curve.
        """
        scores, events = (
            np.asarray(found, dtype=np.float64) for found in (values["scores"], values.get("event_scores", ()))
        )
        hours = float(values["live_hours"])  # type: ignore[arg-type]
        pixel_rows = float(values.get("pixel_rows_per_hour", PIXEL_ROWS_PER_HOUR))  # type: ignore[arg-type]
        if any(found.ndim != 1 or np.isnan(found).any() for found in (scores, events)) or np.isinf(scores).any():
            raise ValueError("its scores are not finite numbers")
        if (np.diff(scores) > 0).any():
            raise ValueError("its scores do not stand with the highest first")
        if not (0 < hours < np.inf and 0 < pixel_rows < np.inf):
            raise ValueError(f"{hours:g} hours of {pixel_rows:g} pixel-rows are not positive")
        return cls(scores, hours, pixel_rows, events)


def optimum_threshold(rate_per_hour: float, pixel_rows_per_hour: float = PIXEL_ROWS_PER_HOUR) -> float:
    """Threshold of a perfect-match bank at a rate of false alarms: the ``rho50`` that no detector can beat.

    Interpolated in the logarithm of the rate, and extrapolated linearly. The rate is per hour of so many pixel-rows.
    """
    rate_per_hour *= PIXEL_ROWS_PER_HOUR / pixel_rows_per_hour
    rates, thresholds = np.array(OPTIMUM_THRESHOLDS).T
    return float(make_interp_spline(np.log(rates), thresholds, k=1)(np.log(rate_per_hour)))


def _noise_rate(snr: Any) -> np.ndarray:
    """False alarms per amplifier-hour of ZTF of pure noise above an S/N: the inverse of `optimum_threshold`.

    A Gaussian tail fitted to `OPTIMUM_THRESHOLDS` (logarithm of the rate linear in the squared threshold), accurate to
    10 %.
    """
    rates, thresholds = np.array(OPTIMUM_THRESHOLDS).T
    slope, intercept = np.polyfit(thresholds**2, np.log(rates), 1)
    return np.exp(intercept + slope * np.square(snr))


def detection_score(event_logit: Any, snr: Any) -> np.ndarray:
    """Score of a learned detector: its log-odds, limited by the rate of pure noise at this S/N.

    Notes
    -----
    Noise above 6 sigma is rare (`_noise_rate`): half an amplifier-hour of training examples holds only two dozen
    triggers of it. From so few a model cannot learn how fast the rate falls, but the rate itself is known. Odds against
    two explanations add as their inverses: ``1 / odds = exp(-logit) + _noise_rate / EVENTS_PER_HOUR``.
    """
    inverse = np.exp(-np.asarray(event_logit, dtype=np.float64)) + _noise_rate(snr) / EVENTS_PER_HOUR
    return -np.log(inverse)


def poisson_interval(count: int) -> tuple[float, float]:
    """Central 95 % interval of a Poisson mean (Garwood 1936, Biometrika 28, 437): 10 gives 4.80 to 18.39."""
    from astropy.stats import poisson_conf_interval  # slow to import, and no search needs it

    low, high = poisson_conf_interval(count, "frequentist-confidence", sigma=ndtri((1 + CONFIDENCE) / 2))
    return float(low), float(high)


def cluster_detections(detections: pd.DataFrame) -> np.ndarray:
    """Number the clusters of detections: at most 3 px apart, rows overlapping within one template width.

    Parameters
    ----------
    detections : DataFrame
        With ``entry``, ``x``, ``y`` (of a stack of images), ``row_start``, ``row_stop`` and ``width_rows``.

    Returns
    -------
    ndarray of int64, shape (number of detections,)
    """
    pairs: list[tuple[int, int]] = []
    entry = detections["entry"].to_numpy(dtype=object)
    x, start, stop, width = (
        detections[name].to_numpy(dtype=np.float64) for name in ("x", "row_start", "row_stop", "width_rows")
    )
    y = detections["y"].to_numpy(dtype=np.float64) if "y" in detections else np.zeros(len(detections))
    for name in pd.unique(entry):
        member = np.flatnonzero(entry == name)
        for a in member:
            reach = np.maximum(width[a], width[member])
            near = (np.abs(x[member] - x[a]) <= TRUTH_MATCH_PX) & (np.abs(y[member] - y[a]) <= TRUTH_MATCH_PX)
            near &= (start[member] <= stop[a] + reach) & (stop[member] >= start[a] - reach)
            pairs += [(int(a), int(b)) for b in member[near]]
    return number_groups(pairs, len(detections))


def match_entries(detections: pd.DataFrame, truth: pd.DataFrame) -> np.ndarray:
    """Match detections of many amplifiers with a truth table, both with ``entry``; positions in ``truth`` or -1."""
    matched = np.full(len(detections), -1, dtype=np.int64)
    truth_entry, entry = truth["entry"].to_numpy(dtype=object), detections["entry"].to_numpy(dtype=object)
    for name in pd.unique(entry):
        rows, columns = np.flatnonzero(truth_entry == name), np.flatnonzero(entry == name)
        found = match_truth(detections.iloc[columns], truth.iloc[rows])
        matched[columns[found >= 0]] = rows[found[found >= 0]]
    return matched


def false_alarm_curve(
    detections: pd.DataFrame,
    score: np.ndarray,
    truth: pd.DataFrame,
    live_hours: float,
    pixel_rows_per_hour: float = PIXEL_ROWS_PER_HOUR,
) -> RateCurve:
    """Scores of the clusters that match no event.

    Parameters
    ----------
    detections : DataFrame
        All triggers of stage 1.
    score : ndarray, shape (number of detections,)
        Score of each detection, -inf where it was vetoed.
    truth : DataFrame
        Events and artefacts; a detection that matches an event (``is_event``) is no false alarm.
    live_hours : float
        Amplifier-hours searched.
    pixel_rows_per_hour : float
        Pixels times rows of each of these hours.
    """
    alarms = list_alarms(detections, score, truth)
    return RateCurve(alarms["score"].to_numpy(dtype=np.float64), live_hours, pixel_rows_per_hour)


def empty_truth() -> pd.DataFrame:
    """Truth table of frames that are taken to be event-free."""
    return pd.DataFrame({name: [] for name in ("entry", "x", "row_start", "row_stop", "rho")}).assign(is_event=False)


def list_alarms(detections: pd.DataFrame, score: np.ndarray, truth: pd.DataFrame) -> pd.DataFrame:
    """Clusters that match no event, the one with the highest score first.

    Returns
    -------
    DataFrame
        Of the best detection of each: its position among the detections (``detection``), ``entry`` and ``score``.
    """
    events = truth[truth["is_event"].astype(bool)]
    wrong = (match_entries(detections, events) < 0) & np.isfinite(score)
    entry = detections["entry"].to_numpy()[wrong]
    own = pd.DataFrame({"detection": np.flatnonzero(wrong), "entry": entry, "score": np.asarray(score)[wrong]})
    clusters = cluster_detections(detections[wrong])
    highest = own.loc[own.groupby(clusters)["score"].idxmax()]
    return highest.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def operating_point(curve: RateCurve, n_alarms: int) -> OperatingPoint:
    """Threshold at which a detector raises ``n_alarms`` false alarms on the frames of ``curve``.

    If it never raises as many, the threshold admits all its detections and the count is the number it raises.
    """
    counted = min(n_alarms, len(curve.scores))
    threshold = float(curve.scores[counted - 1]) if counted else -np.inf
    low, high = (limit / curve.live_hours for limit in poisson_interval(counted))
    rate = counted / curve.live_hours
    return OperatingPoint(threshold, counted, curve.live_hours, rate, low, high, counted < MIN_COUNTED_ALARMS)


def event_scores(detections: pd.DataFrame, score: np.ndarray, truth: pd.DataFrame) -> pd.DataFrame:
    """Events that count for completeness, each with the highest score of the detections that match it.

    Returns
    -------
    DataFrame
        ``truth`` without artefacts and uncounted kinds, with ``score`` (-inf where nothing matched).
    """
    return _score_events(
        detections, score, truth[truth["is_event"].astype(bool) & ~truth["kind"].isin(UNCOUNTED_KINDS)]
    )


def _score_events(detections: pd.DataFrame, score: np.ndarray, events: pd.DataFrame) -> pd.DataFrame:
    events = events.reset_index(drop=True)
    matched = match_entries(detections, events)
    best = np.full(len(events), -np.inf)
    np.maximum.at(best, matched[matched >= 0], np.asarray(score, dtype=np.float64)[matched >= 0])
    return events.assign(score=best)


def apart_table(detections: pd.DataFrame, score: np.ndarray, truth: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Fractions found of events that are reported separately, whatever their ``rho``, with 95 % Wilson intervals.

    Parameters
    ----------
    detections, score, truth
        As `event_scores`.
    threshold : float

    Returns
    -------
    DataFrame
        ``kind``, ``n``, ``found``, ``fraction``, ``low``, ``high``: a row for each kind without a finite optimum. If
        the truth has ``star_id``, there are also rows for bursts (`EITHER_KINDS`) on stars and for orphan bursts. Kinds
        that do not occur have no row.
    """
    events = truth[truth["is_event"].astype(bool)]
    parts = {kind: events[events["kind"] == kind] for kind in ENDLESS_KINDS}
    for kind in EITHER_KINDS if "star_id" in events else ():
        same, orphan = events["kind"] == kind, events["star_id"] < 0
        parts |= {f"{kind} on a star": events[same & ~orphan], f"orphan {kind}": events[same & orphan]}
    rows = []
    for kind, part in parts.items():
        if n := len(part):
            best = _score_events(detections, score, part)["score"]
            found = int((np.isfinite(best) & (best >= threshold)).sum())
            rows.append((kind, n, found, found / n, *wilson_interval(found, n)))
    return pd.DataFrame(rows, columns=["kind", "n", "found", "fraction", "low", "high"])


def completeness_table(events: pd.DataFrame, threshold: float, bins: tuple[float, ...] = RHO_BINS) -> pd.DataFrame:
    """Completeness in bins of ``rho`` with 95 % Wilson intervals, for all kinds together and for each kind.

    Returns
    -------
    DataFrame
        ``kind`` ("all" or one), ``rho_low``, ``rho_high``, ``n``, ``found``, ``completeness``, ``low``, ``high``.
    """
    rows = []
    for kind in ["all", *sorted(events["kind"].unique())]:
        part = events if kind == "all" else events[events["kind"] == kind]
        rho, found = part["rho"].to_numpy(), (part["score"] >= threshold).to_numpy()
        for low, high in pairwise(bins):
            inside = (rho >= low) & (rho < high)
            if inside.any():
                n, hits = int(inside.sum()), int(found[inside].sum())
                rows.append((kind, low, high, n, hits, hits / n, *wilson_interval(hits, n)))
    return pd.DataFrame(rows, columns=["kind", "rho_low", "rho_high", "n", "found", "completeness", "low", "high"])


def wilson_interval(found: Any, n: Any, z: float = 1.96) -> tuple[Any, Any]:
    """Bounds of a binomial fraction (Wilson 1927, JASA 22, 209): 5 of 10 gives 0.237 to 0.763; numbers or arrays.

    Counts may be means over seeds; `astropy.stats.binom_conf_interval` would cut 7.5 of 20 down to 7.
    """
    fraction, scale = found / n, 1 + z**2 / n
    middle = (fraction + z**2 / (2 * n)) / scale
    half = z * np.sqrt(fraction * (1 - fraction) / n + z**2 / (4 * n**2)) / scale
    return middle - half, middle + half


def fit_rho50(rho: np.ndarray, found: np.ndarray) -> float:
    """``rho`` at which half of the events are found.

    Returns
    -------
    float
        NaN where one half is not reached: all or none were found, too few at any ``rho``, or more at every ``rho``
        above 0.

    Notes
    -----
    Maximum likelihood of ``ceiling Φ((rho - middle) / width)``. The ceiling is the fraction found of bright events:
    some are lost whatever their S/N (masked rows, beginnings of streaks). Without it, these would widen the threshold.
    """
    half = _half_point(rho, found)
    return half if half > 0 else float("nan")


def _half_point(rho: np.ndarray, found: np.ndarray) -> float:
    """`fit_rho50`, which few events may carry below 0."""
    if found.all() or not found.any():
        return float("nan")

    def cost(parameters: np.ndarray) -> float:
        middle, log_width, logit = parameters
        probability = expit(logit) * ndtr((rho - middle) * np.exp(-log_width))
        probability = np.clip(probability, 1e-9, 1 - 1e-9)
        return -float(np.sum(np.where(found, np.log(probability), np.log1p(-probability))))

    start = np.array([np.median(rho), 0.3, 3.0])
    best = minimize(cost, start, method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-3, "maxiter": 1000}).x
    ceiling = float(expit(best[2]))
    return float(best[0] + np.exp(best[1]) * ndtri(0.5 / ceiling)) if ceiling > 0.5 else float("nan")


def bootstrap_events(events: pd.DataFrame, n_samples: int, seed: int) -> list[np.ndarray]:
    """Resample events by amplifier and file, so that events of one frame stay together.

    With fewer than ten groups, single events are resampled instead.

    Returns
    -------
    list of ndarray
        Row positions of each sample; the same for every detector that is given the same events.
    """
    rng = np.random.default_rng(seed)
    groups = events.groupby("entry", sort=True).indices
    members = [np.asarray(rows) for rows in groups.values()]
    if len(members) < 10:
        return [rng.integers(len(events), size=len(events)) for _ in range(n_samples)]
    picks = rng.integers(len(members), size=(n_samples, len(members)))
    return [np.concatenate([members[k] for k in pick]) for pick in picks]


def summarise(events: pd.DataFrame, point: OperatingPoint, samples: list[np.ndarray], eta: float) -> dict[str, float]:
    """Completeness, rho50 and loss at an operating point, each with its 95 % bootstrap interval.

    Notes
    -----
    Loss against the optimum is ``2.5 log10(rho50 / eta)`` magnitudes, where ``eta`` is the threshold of a perfect-match
    bank at the same rate of false alarms.
    """
    found = (events["score"] >= point.threshold).to_numpy()
    rho = events["rho"].to_numpy()
    fractions = np.array([found[rows].mean() for rows in samples])
    halves = np.array([_half_point(rho[rows], found[rows]) for rows in samples[: min(len(samples), 200)]])
    if len(rho):
        halves = np.clip(halves, rho.min(), rho.max())  # of a fit beyond all events only the side is known
    rho50 = fit_rho50(rho, found)
    return {
        "n_events": len(events),
        "completeness": float(found.mean()),
        **_interval("completeness", fractions),
        "rho50": rho50,
        **_interval("rho50", halves),
        "loss_mag": float(2.5 * np.log10(rho50 / eta)) if rho50 > 0 else float("nan"),
    }


def _interval(name: str, samples: np.ndarray) -> dict[str, float]:
    finite = samples[np.isfinite(samples)]
    low, high = np.quantile(finite, [0.025, 0.975]) if finite.size else (np.nan, np.nan)
    return {f"{name}_low": float(low), f"{name}_high": float(high)}
