"""Make the tables of detectors on simulated fields: rates, groups, lost events, kinds, satellites and ramp."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from shutterless.models.evaluation.groups import (
    class_accuracy,
    group_differences,
    group_table,
    is_found,
    loss_table,
    mark_blends,
)
from shutterless.models.evaluation.matched_rates import (
    DetectorCounts,
    Fields,
    RateResult,
    count_detector,
    draw_samples,
    interval,
    judge_at_rate,
    optimum_completeness,
)
from shutterless.models.evaluation.metrics import (
    RateCurve,
    bootstrap_events,
    cluster_detections,
    fit_rho50,
    optimum_threshold,
)
from shutterless.models.evaluation.own_rates import AmplifierScores, OwnRate, fit_own_rates
from shutterless.models.evaluation.posterior import MIN_EVENTS, event_posterior
from shutterless.pipeline.detection.matching import match_truth
from shutterless.pipeline.files import write_parquet
from shutterless.pipeline.store.store import live_hours
from shutterless.workflows.searching.frame_rates import distinct_scores

OPTIMUM = "optimum"
JUDGED_RHO = (5.0, 15.0)
POSTERIOR_BINS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
SLOW_SATELLITE_S = 5.0  # in the rows of one amplifier: geosynchronous, or in low orbit along the columns
_FILE_KEYS = ["file", "ccd", "quadrant"]


@dataclass(frozen=True)
class Tables:
    """Tables of detectors on fields.

    Parameters
    ----------
    rates : DataFrame
        A row for each detector and rate: threshold, counted alarms, completeness with its interval, difference to the
        first detector, ``rho50``, loss, and the share of right kinds.
    groups, losses : DataFrame
        A row for each detector, rate and group (`group_table`), or range of ρ (`loss_table`).
    alarms : DataFrame
        ``detector``, ``entry`` and ``score`` of every false alarm on event-free fields.
    live_hours : float
        Amplifier-hours of the event-free fields.
    differences : DataFrame
        A row for each detector, rate and group (`group_differences`) against the one named in ``against``; empty
        without one.
    """

    rates: pd.DataFrame
    groups: pd.DataFrame
    losses: pd.DataFrame
    alarms: pd.DataFrame
    live_hours: float
    differences: pd.DataFrame = field(default_factory=pd.DataFrame)

    def write(self, folder: Path) -> None:
        """Write every table as Parquet."""
        names = ["rates", "groups", "losses", "alarms", *([] if self.differences.empty else ["differences"])]
        for name in names:
            write_parquet(getattr(self, name), folder / f"{name}.parquet")

    def text(self, *, short: bool = False) -> str:
        """Return the tables in Markdown; in short only that of the rates."""
        said = f"{self.live_hours:.2f} event-free amplifier-hours, {self.rates['n_events'].iloc[0]} events."
        parts = [said, _rate_text(self.rates)]
        if not short:
            for rate, part in self.groups.groupby("rate", sort=False):
                parts += [f"Completeness in groups at {rate:g} false alarms per amplifier-hour:", _group_text(part)]
                losses = self.losses[self.losses["rate"] == rate].drop(columns="rate")
                parts += [f"Where events went at {rate:g}:", to_markdown(losses)]
                if not self.differences.empty:
                    own = self.differences[self.differences["rate"] == rate]
                    said = f"More than {own['against'].iloc[0]} finds at {rate:g}, in points, with one standard error:"
                    parts += [said, _difference_text(own)]
        return "\n\n".join(parts)


def judge_fields(
    triggers: pd.DataFrame,
    truth: pd.DataFrame,
    stars: pd.DataFrame,
    manifest: pd.DataFrame,
    detectors: Sequence[str],
    *,
    rates: Sequence[float],
    rho: tuple[float, float] = JUDGED_RHO,
    against: str | None = None,
    n_samples: int = 1000,
    seed: int = 1,
) -> Tables:
    """Judge detectors on event-free fields and fields with events.

    Parameters
    ----------
    triggers : DataFrame
        From `shutterless.workflows.searching.detect.detect`.
    truth, stars : DataFrame
        Of the simulation; rows of files that the manifest lacks are left out.
    manifest : DataFrame
        Of the stores; a sequence is a field.
    detectors : sequence of str
        The first is the one that the others are compared with.
    rates : sequence of float
        False alarms per amplifier-hour.
    rho : (float, float)
        Of the events that count.
    against : str, optional
        One of the detectors, with which the others are compared in groups.
    n_samples, seed : int
        Of the bootstrap.
    """
    fields = open_fields(triggers, truth, stars, manifest)
    free, busy = fields.event_free(), fields.with_events()
    draws = draw_samples(free, busy, n_samples, seed)
    counts = {name: count_detector(free, busy, name, rho) for name in detectors}
    rows, groups, losses, differences = [], [], [], []
    for rate in rates:
        results = {name: judge_at_rate(counts[name], free, busy, rate, draws) for name in detectors}
        for name, result in results.items():
            rows.append(_rate_row(name, rate, result, results[detectors[0]], counts[name], busy))
            events, key = counts[name].events, {"detector": name, "rate": rate}
            by_field = events.assign(entry=events["entry"].map(busy.entries.set_index("entry")["field"]))
            samples = bootstrap_events(by_field, min(n_samples, 400), seed)
            groups.append(group_table(events, result.threshold, samples).assign(**key))
            losses.append(loss_table(busy.detections, events, result.threshold).assign(**key))
            if against is not None and name != against:
                found = is_found(events, result.threshold)
                other = is_found(counts[against].events, results[against].threshold)
                differences.append(group_differences(events, found, other, samples).assign(**key, against=against))
        rows.append(_optimum_row(rate, counts[detectors[0]]))
    return Tables(
        rates=pd.DataFrame(rows),
        groups=pd.concat(groups, ignore_index=True),
        losses=_first(pd.concat(losses, ignore_index=True), "detector", "rate"),
        alarms=pd.concat([counts[name].alarms.assign(detector=name) for name in detectors], ignore_index=True),
        live_hours=free.live_hours,
        differences=pd.concat(differences, ignore_index=True) if differences else pd.DataFrame(),
    )


def open_fields(
    triggers: pd.DataFrame, truth: pd.DataFrame, stars: pd.DataFrame | None, manifest: pd.DataFrame
) -> Fields:
    """Join the tables of fields by store entry; events get ``n_rows`` and, if there are stars, ``blended``."""
    placed = place_by_entry(truth, manifest).merge(manifest[["entry", "n_rows"]], on="entry")
    if stars is not None and "star_id" in placed:
        placed["blended"] = mark_blends(placed, place_by_entry(stars, manifest))
    entries = manifest[["entry"]].assign(field=manifest["sequence"].astype(object), live_hours=live_hours(manifest))
    return Fields(triggers[triggers["entry"].isin(manifest["entry"])], placed, entries.reset_index(drop=True))


def place_by_entry(table: pd.DataFrame, manifest: pd.DataFrame) -> pd.DataFrame:
    """Rows of a truth or star table with their store entries, without those of files that the manifest lacks."""
    keyed = table.astype({"ccd": "Int64", "quadrant": "Int64"})
    return keyed.merge(manifest[[*_FILE_KEYS, "entry"]], on=_FILE_KEYS, how="inner")


def mark_slow_satellites(truth: pd.DataFrame, manifest: pd.DataFrame) -> pd.Series:
    """Entries that a satellite crosses for at least `SLOW_SATELLITE_S`."""
    slow = truth[(truth["kind"] == "satellite") & (truth["duration_s"] >= SLOW_SATELLITE_S)]
    return place_by_entry(slow, manifest)["entry"].drop_duplicates()


def ramp_alarms(steady: Tables, ramp: Tables) -> pd.DataFrame:
    """Count false alarms in ramp rows at the thresholds of steady rows, and those of as many steady rows.

    Returns
    -------
    DataFrame
        ``detector``, ``rate``, ``threshold``, ``ramp_hours``, ``ramp_alarms``, ``steady_alarms`` (scaled to as many
        amplifier-hours) and ``times``, their ratio.
    """
    rows = []
    for own in steady.rates[steady.rates["detector"] != OPTIMUM].itertuples():
        score = ramp.alarms.loc[ramp.alarms["detector"] == own.detector, "score"]
        counted = int((score >= own.threshold).sum())
        expected = own.false_alarms * ramp.live_hours / steady.live_hours
        ratio = counted / expected if expected else np.nan
        rows.append((own.detector, own.rate, own.threshold, ramp.live_hours, counted, expected, ratio))
    names = ["detector", "rate", "threshold", "ramp_hours", "ramp_alarms", "steady_alarms", "times"]
    return pd.DataFrame(rows, columns=names)


def count_asked(
    triggers: pd.DataFrame,
    manifest: pd.DataFrame,
    stored: Mapping[str, RateCurve | None],
    rates: Sequence[float],
    truth: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Count false alarms at thresholds that a search sets itself.

    Parameters
    ----------
    triggers : DataFrame
        From `shutterless.workflows.searching.detect.detect`.
    manifest : DataFrame
        Of these fields; a sequence is searched by itself, as a user would.
    stored : mapping of str to RateCurve
        By detector; its threshold counts beside.
    rates : sequence of float
        False alarms per amplifier-hour that are asked for.
    truth : DataFrame, optional
        Of the simulation. A search sees the triggers of events, too, but they are no false alarms.

    Returns
    -------
    DataFrame
        ``detector``, ``rate``, ``asked`` (alarms in all fields), ``counted``, ``stored_counted`` (at the threshold of
        the stored curve), ``most_in_a_field`` and ``asked_of_a_field``, the mean.
    """
    hours = live_hours(manifest).set_axis(manifest["entry"])
    triggers = triggers.reset_index(drop=True)
    is_event = pd.Series(False, index=triggers.index) if truth is None else _match_events(triggers, truth, manifest)
    rows = []
    for name, curve in stored.items():
        by_entry, noise = _scores_by_entry(triggers, name)
        alarms = {
            entry: distinct_scores(part[~is_event[part.index]].drop(columns=f"{name}/probability"), name)
            for entry, part in by_entry.items()
        }
        for rate in rates:
            counted, by_curve = list[int](), 0
            for own in _own_rates(manifest, noise, rate, curve):
                counted.append(sum(int((alarms[entry] >= tail.threshold(rate)).sum()) for entry, tail in own.items()))
            if curve is not None:
                by_curve = sum(int((scores >= curve.threshold(rate)[0]).sum()) for scores in alarms.values())
            asked = float(rate * hours.sum())
            rows.append((name, rate, asked, sum(counted), by_curve, max(counted), asked / len(counted)))
    names = ["detector", "rate", "asked", "counted", "stored_counted", "most_in_a_field", "asked_of_a_field"]
    return pd.DataFrame(rows, columns=names)


def posterior_table(
    triggers: pd.DataFrame,
    truth: pd.DataFrame,
    manifest: pd.DataFrame,
    stored: Mapping[str, RateCurve | None],
    rate: float,
) -> pd.DataFrame:
    """Compare what posterior probabilities say of candidates with how many are events, at the true rate of events.

    Parameters
    ----------
    triggers, truth, manifest, stored
        As `count_asked`. Detectors that state no scores of events are left out.
    rate : float
        False alarms per amplifier-hour at which candidates are taken.

    Returns
    -------
    DataFrame
        ``detector``, ``from`` and ``to`` of the posterior, ``candidates``, ``said`` (sum of the posteriors) and
        ``events``; the row from 0 to 1 of all is the last of each detector.
    """
    hours = live_hours(manifest).set_axis(manifest["entry"])
    triggers = triggers.reset_index(drop=True)
    is_event = _match_events(triggers, truth, manifest)
    prior = float(truth["is_event"].sum() / hours.sum())
    rows = []
    for name, curve in stored.items():
        if curve is None or len(curve.event_scores) < MIN_EVENTS:
            continue
        by_entry, noise = _scores_by_entry(triggers, name)
        said, found = [np.empty(0)], [np.empty(0, dtype=bool)]
        for own in _own_rates(manifest, noise, rate, curve):
            for entry, tail in own.items():
                score = by_entry[entry][f"{name}/score"]
                above = by_entry[entry][np.isfinite(score) & (score >= tail.threshold(rate))]
                causes = cluster_detections(above)
                highest = above[f"{name}/score"].groupby(causes).max().to_numpy(np.float64)
                said.append(event_posterior(highest, curve.event_scores, tail, prior))
                found.append(is_event[above.index].groupby(causes).any().to_numpy())
        probability, event = np.concatenate(said), np.concatenate(found)
        for low, high in (*pairwise(POSTERIOR_BINS), (0.0, 1.0)):
            inside = (probability > low) & (probability <= high)
            rows.append(
                (name, low, high, int(inside.sum()), float(probability[inside].sum()), int(event[inside].sum()))
            )
    return pd.DataFrame(rows, columns=["detector", "from", "to", "candidates", "said", "events"])


def _scores_by_entry(triggers: pd.DataFrame, name: str) -> tuple[dict[str, pd.DataFrame], dict[str, np.ndarray]]:
    """Triggers of each amplifier, and the scores of their causes that a search fits its rate to."""
    by_entry = {str(entry): part.assign(exposure=0) for entry, part in triggers.groupby("entry")}
    return by_entry, {entry: distinct_scores(part, name) for entry, part in by_entry.items()}


def _match_events(triggers: pd.DataFrame, truth: pd.DataFrame, manifest: pd.DataFrame) -> pd.Series:
    """Whether each trigger matches an event."""
    is_event = pd.Series(False, index=triggers.index)
    placed = place_by_entry(truth[truth["is_event"].astype(bool)], manifest)
    for entry, part in triggers.groupby("entry"):
        is_event[part.index] = match_truth(part, placed[placed["entry"] == entry]) >= 0
    return is_event


def _own_rates(
    manifest: pd.DataFrame, noise: Mapping[str, np.ndarray], rate: float, curve: RateCurve | None
) -> Iterator[dict[str, OwnRate]]:
    """Rates of the amplifiers of each sequence, as a search of it alone would fit them."""
    hours = live_hours(manifest).set_axis(manifest["entry"])
    for _, entries in manifest.groupby("sequence")["entry"]:
        searched = [AmplifierScores(e, "one sky", noise[e], float(hours[e])) for e in entries if e in noise]
        yield fit_own_rates(searched, rate, curve)


def _rate_row(
    name: str, rate: float, result: RateResult, first: RateResult, counts: DetectorCounts, busy: Fields
) -> dict[str, object]:
    low, high = interval(result.samples)
    below, above = interval(result.samples - first.samples)
    found = counts.events["score"].to_numpy(np.float64) >= result.threshold
    rho50 = fit_rho50(counts.events["rho"].to_numpy(), found & np.isfinite(counts.events["score"].to_numpy()))
    score, kind = (busy.detections[f"{name}/{column}"].to_numpy() for column in ("score", "kind"))
    right, n_found = class_accuracy(busy.detections, score, kind, counts.events, result.threshold)
    return {
        "detector": name,
        "rate": rate,
        "threshold": result.threshold,
        "false_alarms": result.false_alarms,
        "extrapolated": result.extrapolated,
        "n_events": len(counts.events),
        "completeness": result.completeness,
        "low": low,
        "high": high,
        "more": result.completeness - first.completeness,
        "more_low": below,
        "more_high": above,
        "rho50": rho50,
        "loss_mag": float(2.5 * np.log10(rho50 / optimum_threshold(rate))) if rho50 > 0 else float("nan"),
        "right_kinds": right / n_found if n_found else float("nan"),
        "n_kinds": n_found,
    }


def _optimum_row(rate: float, counts: DetectorCounts) -> dict[str, object]:
    eta = optimum_threshold(rate)
    share = optimum_completeness(counts.events["rho"].to_numpy(), rate)
    own = {"threshold": eta, "extrapolated": False, "n_events": len(counts.events), "completeness": share}
    return {"detector": OPTIMUM, "rate": rate, **own, "rho50": eta, "loss_mag": 0.0, "n_kinds": 0}


def _first(table: pd.DataFrame, *names: str) -> pd.DataFrame:
    return table[[*names, *(name for name in table if name not in names)]]


def to_markdown(table: pd.DataFrame) -> str:
    """Write a table in Markdown; numbers with three digits after the point, what is missing as a dash."""
    cells = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    lines = [list(map(str, table.columns)), ["---"] * len(table.columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "–"
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float | np.floating) else str(value)


def _share(value: float, low: float, high: float, sign: str = "") -> str:
    if pd.isna(value):
        return "–"
    ends = "" if pd.isna(low) else f" ({100 * low:{sign}.1f} to {100 * high:{sign}.1f})"
    return f"{100 * value:{sign}.1f} %{ends}"


def _rate_text(rates: pd.DataFrame) -> str:
    """Table of the rates for a reader."""
    rows = []
    for row in rates.itertuples():
        alarms = "–" if pd.isna(row.false_alarms) else f"{row.false_alarms:.0f}{' (few)' if row.extrapolated else ''}"
        rows.append(
            {
                "detector": row.detector,
                "per hour": row.rate,
                "threshold": row.threshold,
                "alarms": alarms,
                "completeness": _share(row.completeness, row.low, row.high),
                f"more than {rates['detector'].iloc[0]}": _share(row.more, row.more_low, row.more_high, "+"),
                "rho50": row.rho50,
                "loss (mag)": row.loss_mag,
                "right kinds": _share(row.right_kinds, np.nan, np.nan),
                "of": row.n_kinds if row.n_kinds else np.nan,
            }
        )
    return to_markdown(pd.DataFrame(rows))


def _group_text(groups: pd.DataFrame) -> str:
    """Rows are groups, columns detectors."""
    cells = [_share(row.completeness, row.low, row.high) for row in groups.itertuples()]
    wide = groups.assign(cell=cells).pivot_table(
        index=["group", "n"], columns="detector", values="cell", aggfunc="first", sort=False
    )
    return to_markdown(wide.reset_index())


def _difference_text(differences: pd.DataFrame) -> str:
    """Rows are groups, columns detectors."""
    cells = [f"{100 * row.more:+.1f} ± {100 * row.error:.1f}" for row in differences.itertuples()]
    wide = differences.assign(cell=cells).pivot_table(
        index=["group", "n"], columns="detector", values="cell", aggfunc="first", sort=False
    )
    return to_markdown(wide.reset_index())
