"""Thresholds of a search, for each amplifier from the scores of its own frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd

from shutterless.models.evaluation.metrics import RateCurve, cluster_detections
from shutterless.models.evaluation.own_rates import AmplifierScores, OwnRate, fit_own_rates
from shutterless.models.evaluation.posterior import MIN_EVENTS, event_posterior
from shutterless.pipeline.detection.overlaps import join_overlaps
from shutterless.pipeline.reading.fits_files import frame_stem
from shutterless.workflows.searching.detect import detector_columns
from shutterless.workflows.searching.segment_search import ExposureRecord, SearchedSegment

# of a cause, as calibrated on the training mix. In that of the bundled forest, which has 2,000 events an hour, false
# alarms above it come five times an amplifier-hour; too few of a thousand to change the tail
SURE_EVENT = 0.9
# triggers that a raised threshold leaves out before it is said, and so many times the expected false alarms
FEW_RAISED, RAISED_TO_EXPECTED = 20, 10.0


@dataclass(frozen=True)
class FrameRates:
    """Rate of false alarms of every amplifier of a search.

    Parameters
    ----------
    asked : float
        Per amplifier-hour.
    names : mapping
        Name of the amplifier of each segment.
    rates : mapping of str to OwnRate
        By amplifier.
    live_hours : mapping of str to float
        Amplifier-hours that were searched, by amplifier.
    event_scores : mapping of str to ndarray
        Scores of events of the detector that searched it, by amplifier; empty where it states none.
    """

    asked: float
    names: Mapping[str, str]
    rates: Mapping[str, OwnRate]
    live_hours: Mapping[str, float]
    event_scores: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False)

    def joined(self, other: FrameRates) -> FrameRates:
        """Rates of the amplifiers of both, which were asked for the same."""
        return FrameRates(
            self.asked,
            {**self.names, **other.names},
            {**self.rates, **other.rates},
            {**self.live_hours, **other.live_hours},
            {**self.event_scores, **other.event_scores},
        )

    def of(self, part: SearchedSegment) -> OwnRate:
        """Rate of the amplifier of a segment."""
        return self.rates[self.names[part.segment.name]]

    def threshold(self, part: SearchedSegment) -> float:
        """Lowest score of a candidate of a segment."""
        return self.of(part).threshold(self.asked)

    def posterior(self, part: SearchedSegment, score: np.ndarray, events_per_hour: float | None) -> np.ndarray:
        """Probability of an event at a prior rate of events; NaN without a prior or scores of events."""
        events = self.event_scores.get(self.names[part.segment.name], np.empty(0))
        if events_per_hour is None or len(events) < MIN_EVENTS:
            return np.full(len(score), np.nan)
        return event_posterior(score, events, self.of(part), events_per_hour)

    @property
    def thresholds(self) -> dict[str, float]:
        """Lowest score of a candidate, by amplifier."""
        return {name: rate.threshold(self.asked) for name, rate in self.rates.items()}

    @property
    def expected(self) -> float:
        """False alarms expected among the candidates."""
        return self.asked * sum(self.live_hours.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: what was asked for, and the tail of every amplifier."""
        amplifiers = {
            name: {"threshold": rate.threshold(self.asked), "live_hours": self.live_hours[name], **rate.to_dict()}
            for name, rate in self.rates.items()
        }
        hours = sum(self.live_hours.values())
        return {
            "asked_per_hour": self.asked,
            "live_hours": hours,
            "expected_false_alarms": self.expected,
            "amplifiers": amplifiers,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FrameRates:
        """Rebuild from `to_dict`, which knows neither segments nor scores of events."""
        amplifiers = values["amplifiers"]
        known = [one.name for one in fields(OwnRate)]
        rates = {name: OwnRate.from_dict({key: one[key] for key in known}) for name, one in amplifiers.items()}
        return cls(values["asked_per_hour"], {}, rates, {name: one["live_hours"] for name, one in amplifiers.items()})

    def describe(self, n_candidates: int) -> str:
        """What was asked for and what is expected, for the user."""
        from_frames = {name: rate for name, rate in self.rates.items() if rate.is_fitted}
        where = f"thresholds from the scores of {len(from_frames)} of {len(self.rates)} amplifiers"
        if from_frames:
            errors = [float(rate.rate_error(rate.threshold(self.asked))) for rate in from_frames.values()]
            where += f", each rate known to a factor of {np.exp(np.median(errors)):.2g}"
        return (
            f"{self.asked:g} false alarms per amplifier-hour asked, {self.expected:.3g} expected in "
            f"{sum(self.live_hours.values()):.3g} amplifier-hours, {n_candidates} candidates; {where}"
        )


def fit_frame_rates(
    parts: Sequence[SearchedSegment],
    joined: Sequence[pd.DataFrame],
    detector: str,
    rate_per_hour: float,
    stored: RateCurve | None,
    *,
    own: bool = True,
) -> FrameRates:
    """Fit the rates of all amplifiers that were searched.

    Parameters
    ----------
    parts : sequence of SearchedSegment
        In the order of their plan; the result does not depend on when or where they were searched.
    joined : sequence of DataFrame
        Triggers of each part, every cause once; from `join_parts`.
    detector : str
        Name of the detector in the triggers.
    rate_per_hour : float
    stored : RateCurve, optional
    own : bool
        Whether the frames' own scores count. Image cubes always have the stored curve: their few pixels show no tail.

    Returns
    -------
    FrameRates
        Without the amplifiers that have neither enough scores nor a stored curve.
    """
    names = _name_amplifiers(parts)
    scores: dict[str, list[np.ndarray]] = {name: [] for name in names.values()}
    hours = dict.fromkeys(scores, 0.0)
    about: dict[str, tuple[str, float]] = {}
    for part, triggers in zip(parts, joined, strict=True):
        name, first = names[part.segment.name], part.exposures[0]
        hours[name] += segment_hours(part)
        about[name] = name.rpartition("_q")[0], first.numbers["pixel_rows_per_hour"]
        if own and first.n_y == 1:
            scores[name].append(distinct_scores(triggers, detector))
    searched = [
        AmplifierScores(name, about[name][0], np.concatenate([np.empty(0), *scores[name]]), hours[name], about[name][1])
        for name in scores
    ]
    rates = fit_own_rates(searched, rate_per_hour, stored)
    events = np.empty(0) if stored is None else stored.event_scores
    return FrameRates(rate_per_hour, names, rates, {name: hours[name] for name in rates}, dict.fromkeys(rates, events))


def describe_raised(parts: Sequence[SearchedSegment], rates: FrameRates, detector: str, stored: float) -> list[str]:
    """Line for the user if many triggers are no candidates because the frames' own scores raise the threshold.

    Parameters
    ----------
    parts : sequence of SearchedSegment
    rates : FrameRates
    detector : str
        Name of the detector in the triggers.
    stored : float
        Threshold of the stored curve.
    """
    raised = [part for part in parts if rates.of(part).is_fitted and rates.threshold(part) > stored]
    n_between = sum(
        int(((score >= stored) & (score < rates.threshold(part))).sum())
        for part in raised
        for score in (detector_columns(part.triggers, detector)["score"],)
    )
    if n_between <= max(FEW_RAISED, RAISED_TO_EXPECTED * rates.expected):
        return []
    lowest, highest = (pick(rates.threshold(part) for part in raised) for pick in (min, max))
    return [
        f"{n_between:,} triggers are above the stored threshold of {stored:.3g}, but below those of the frames' own "
        f"scores, {lowest:.3g} to {highest:.3g}: they are noise, or events are many; if they are events, search again "
        "with --set search.own_rates=false"
    ]


def join_parts(parts: Sequence[SearchedSegment]) -> list[pd.DataFrame]:
    """Triggers of each part, every cause once; parts by series, in the order of rows."""
    series: dict[str, list[SearchedSegment]] = {}
    for part in parts:
        series.setdefault(part.segment.series, []).append(part)
    return [
        table
        for one in series.values()
        for table in join_overlaps(_number_trails_apart(one), [part.segment.own for part in one])
    ]


def _number_trails_apart(parts: Sequence[SearchedSegment]) -> list[pd.DataFrame]:
    """Triggers of the segments of a series, with numbers of trails that differ between segments and their exposures."""
    tables, first = [], 0
    for table in (part.triggers for part in parts):
        if "trail_id" in table and table["trail_id"].notna().any():
            number = table["trail_id"] + table["exposure"] * (table["trail_id"].max() + 1)
            tables.append(table.assign(trail_id=number + first))
            first += int(number.max()) + 1
        else:
            tables.append(table)
    return tables


def distinct_scores(triggers: pd.DataFrame, detector: str) -> np.ndarray:
    """Highest score of each cause among the triggers of a segment: what is vetoed or part of a trail is none.

    Returns
    -------
    ndarray of float64
        Descending. Causes that the detector takes for events with a probability above `SURE_EVENT` are left out: in
        frames with a thousand events an hour they would pass for the tail of the noise.
    """
    scored = detector_columns(triggers, detector)
    if scored.empty:
        return np.empty(0)
    scored = scored[np.isfinite(scored["score"])]
    if "probability" in scored:
        scored = scored[~scored["probability"].gt(SURE_EVENT)]
    if scored.empty:
        return np.empty(0)
    causes = cluster_detections(scored.assign(entry=scored["exposure"]))
    if "trail_id" in scored:
        trail = scored["trail_id"].astype("float64").to_numpy()
        causes = np.where(np.isfinite(trail), -1 - np.nan_to_num(trail), causes)
    return np.sort(scored["score"].groupby(causes).max().to_numpy(dtype=np.float64))[::-1]


def segment_hours(part: SearchedSegment) -> float:
    """Amplifier-hours of a segment's own rows, without the margins that its neighbours search as well."""
    return sum(exposure_hours(part, exposure) for exposure in part.exposures)


def exposure_hours(part: SearchedSegment, exposure: ExposureRecord) -> float:
    """Amplifier-hours of the own rows of a segment in one exposure."""
    first, last = exposure.spans[0].first, exposure.spans[-1].last
    start, stop = own_rows(part, exposure)
    live = exposure.numbers["live_pixel_rows"] / exposure.numbers["pixel_rows_per_hour"]
    return float(live * max(0, stop - start) / (last - first))


def sky_exposure(part: SearchedSegment, exposure: ExposureRecord) -> float:
    """Area of sky times live time of the own rows of a segment in one exposure (square degrees times hours).

    Notes
    -----
    A row of a column collects light from all rows of a transit, so an amplifier sees ``columns x n_transit`` pixels of
    sky as long as rows are read. In the ramp, and once the shutter is closed, it is a part of them. Masked pixels are
    no live time. A pixel of a cube sees itself alone.
    """
    readout, (first, last) = exposure.readout, own_rows(part, exposure)
    pixel_rows = exposure_hours(part, exposure) * exposure.numbers["pixel_rows_per_hour"]
    begin = exposure.spans[0].first
    pixels = max(readout.n_transit, 1) * readout.transit_share(first - begin, last - begin)
    return float(pixel_rows / readout.row_rate_hz / 3600 * pixels * (readout.pixel_scale_arcsec / 3600) ** 2)


def own_rows(part: SearchedSegment, exposure: ExposureRecord) -> tuple[int, int]:
    """First and one past the last own row of a segment in one exposure, in rows of the sequence."""
    first, last = exposure.spans[0].first, exposure.spans[-1].last
    return max(first, part.segment.own[0]), min(last, part.segment.own[1])


def _name_amplifiers(parts: Iterable[SearchedSegment]) -> dict[str, str]:
    """Name of the amplifier of each segment: sequence, CCD and quadrant, and a number if two cameras share them."""
    names: dict[str, str] = {}
    groups: dict[tuple[str, int, float], str] = {}
    for part in parts:
        first = part.exposures[0]
        readout, pixel_rows = first.readout, first.numbers["pixel_rows_per_hour"]
        label = readout.sequence if readout.sequence and first.n_y == 1 else frame_stem(first.spans[0].path)
        key = label, readout.ccd or 0, pixel_rows
        if key not in groups:
            n_alike = sum(other[:2] == key[:2] for other in groups)
            groups[key] = f"{label}_c{key[1]:02d}" + (f"_{n_alike + 1}" if n_alike else "")
        names[part.segment.name] = f"{groups[key]}_q{part.segment.quadrant or 0}"
    return names
