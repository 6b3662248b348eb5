"""Split the events of an evaluation into groups, and say where the lost ones went.

Every function takes tables with ``entry``: events as `shutterless.models.evaluation.metrics.event_scores` returns them,
detections with a score each. A group whose columns a truth table lacks is left out.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from shutterless.models.evaluation.metrics import match_entries, wilson_interval
from shutterless.pipeline.detection.templates import SHAPES

SHORT_S = 1.0
BRIGHT_MAG = 12.0
BLEND_PX, BLEND_MAG = 5.0, 2.0  # another star this near, and at most so much fainter
SPLIT_RHO = 7.0
ACCURACY_RHO = (7.0, 9.0)
BANK_KINDS = frozenset(kind for _, kind, _, _ in SHAPES)  # whose shapes are templates
CUT_SHARE = 0.1  # of its length: so near the file's border an event's template is cut
FOUND, BELOW, GATED, NO_TRIGGER = "found", "below threshold", "gated", "no trigger"
FATES = (FOUND, NO_TRIGGER, GATED, BELOW)


def mark_blends(events: pd.DataFrame, stars: pd.DataFrame) -> np.ndarray:
    """Whether each event is on a star with another within `BLEND_PX` that is at most `BLEND_MAG` fainter.

    Parameters
    ----------
    events : DataFrame
        With ``entry``, ``star_id`` (-1 for orphans) and ``star_mag``.
    stars : DataFrame
        With ``entry``, ``star_id``, ``x`` and ``mag``.

    Returns
    -------
    ndarray of bool, shape (number of events,)
    """
    blended = np.zeros(len(events), dtype=bool)
    by_entry = {name: part for name, part in stars.groupby("entry")}
    for i, event in enumerate(events[["entry", "star_id", "star_mag"]].itertuples(index=False)):
        if event.star_id < 0 or event.entry not in by_entry:
            continue
        around = by_entry[event.entry]
        own = around["star_id"] == event.star_id
        if not own.any():
            continue
        x = float(around.loc[own, "x"].iloc[0])
        near = ~own & ((around["x"] - x).abs() <= BLEND_PX) & (around["mag"] <= event.star_mag + BLEND_MAG)
        blended[i] = bool(near.any())
    return blended


def group_events(events: pd.DataFrame) -> dict[str, np.ndarray]:
    """Masks of the groups by their names, bool, (number of events,); an event may be in several.

    Parameters
    ----------
    events : DataFrame
        With ``kind``; ``duration_s``, ``star_id`` with ``star_mag``, ``blended`` (`mark_blends`) and ``n_rows`` of the
        file are used where they are there.
    """
    kind = events["kind"].to_numpy(dtype=object)
    groups = {"all": np.ones(len(events), dtype=bool)}
    if "duration_s" in events:
        short = events["duration_s"].to_numpy(float) < SHORT_S
        groups |= {f"shorter than {SHORT_S:g} s": short, f"{SHORT_S:g} s and longer": ~short}
    if "star_mag" in events:
        groups |= {f"on stars brighter than {BRIGHT_MAG:g}": events["star_mag"].to_numpy(float) < BRIGHT_MAG}
    if "blended" in events:
        groups |= {"on blended stars": events["blended"].to_numpy(bool)}
    if "star_id" in events:
        groups |= {"orphans": events["star_id"].to_numpy() < 0}
    groups |= {f"kind {name}": kind == name for name in sorted(set(kind))}
    outside = ~np.isin(kind, list(BANK_KINDS))
    if "n_rows" in events:
        start, stop, n_rows = (events[name].to_numpy(float) for name in ("row_start", "row_stop", "n_rows"))
        margin = CUT_SHARE * (stop - start + 1)
        outside |= (start < margin) | (stop > n_rows - 1 - margin)
    return groups | {"shapes outside the bank": outside}


def group_table(events: pd.DataFrame, threshold: float, samples: list[np.ndarray]) -> pd.DataFrame:
    """Completeness of every group at a threshold.

    Parameters
    ----------
    events : DataFrame
        With ``score``, and what `group_events` needs.
    threshold : float
    samples : list of ndarray
        Row positions of each bootstrap sample (`shutterless.models.evaluation.metrics.bootstrap_events`).

    Returns
    -------
    DataFrame
        ``group``, ``n``, ``found``, ``completeness``, ``low``, ``high``: the 95 % interval of the bootstrap, or
        Wilson's where that reaches farther (0 of 5 is no certain 0). Groups without an event are left out.
    """
    found = is_found(events, threshold)
    rows = []
    for name, member in group_events(events).items():
        if n := int(member.sum()):
            hits = int(found[member].sum())
            low, high = wilson_interval(hits, n)
            shares = [found[rows_][member[rows_]].mean() for rows_ in samples if member[rows_].any()]
            if shares:
                own_low, own_high = np.quantile(shares, [0.025, 0.975])
                low, high = min(low, own_low), max(high, own_high)
            rows.append((name, n, hits, hits / n, max(float(low), 0.0), min(float(high), 1.0)))
    return pd.DataFrame(rows, columns=["group", "n", "found", "completeness", "low", "high"])


def group_differences(
    events: pd.DataFrame, found: np.ndarray, other: np.ndarray, samples: list[np.ndarray]
) -> pd.DataFrame:
    """By how much the completeness of every group differs between two detectors.

    Parameters
    ----------
    events : DataFrame
        As `group_events` needs them.
    found, other : ndarray of bool, shape (number of events,)
        Whether each detector finds an event.
    samples : list of ndarray
        As `group_table`.

    Returns
    -------
    DataFrame
        ``group``, ``n``, ``more`` (completeness of the first detector less that of the other), ``error``: the standard
        deviation over the bootstrap samples, which both detectors share.
    """
    more = found.astype(np.float64) - other
    rows = []
    for name, member in group_events(events).items():
        if n := int(member.sum()):
            drawn = [more[rows_][member[rows_]].mean() for rows_ in samples if member[rows_].any()]
            rows.append((name, n, float(more[member].mean()), float(np.std(drawn)) if drawn else np.nan))
    return pd.DataFrame(rows, columns=["group", "n", "more", "error"])


def is_found(events: pd.DataFrame, threshold: float) -> np.ndarray:
    """Whether each event has a finite score at or above a threshold; an event without a match has none."""
    score = events["score"].to_numpy(dtype=np.float64)
    return np.isfinite(score) & (score >= threshold)


def event_fates(detections: pd.DataFrame, events: pd.DataFrame, threshold: float) -> np.ndarray:
    """What became of each event, one of `FATES`.

    Parameters
    ----------
    detections : DataFrame
        All triggers of stage 1.
    events : DataFrame
        With ``score``, not finite where no trigger with a score matches.
    threshold : float

    Returns
    -------
    ndarray of str, shape (number of events,)
        `GATED` if triggers match the event, but the detector gives a score to none of them.
    """
    triggered = np.isin(np.arange(len(events)), match_entries(detections, events))
    scored = np.isfinite(events["score"].to_numpy(dtype=np.float64))
    conditions = [is_found(events, threshold), scored, triggered]
    return np.select(conditions, [FOUND, BELOW, GATED], default=NO_TRIGGER)


def loss_table(detections: pd.DataFrame, events: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Count the fates of events below and above `SPLIT_RHO`.

    Returns
    -------
    DataFrame
        ``rho`` in words, ``n``, and a column for each of `FATES`.
    """
    fates = event_fates(detections, events, threshold)
    bright = events["rho"].to_numpy(dtype=np.float64) >= SPLIT_RHO
    rows = []
    for name, member in ((f"below {SPLIT_RHO:g}", ~bright), (f"{SPLIT_RHO:g} and above", bright)):
        rows.append((name, int(member.sum()), *(int((fates[member] == fate).sum()) for fate in FATES)))
    return pd.DataFrame(rows, columns=["rho", "n", *FATES])


def class_accuracy(
    detections: pd.DataFrame, score: np.ndarray, kind: np.ndarray, events: pd.DataFrame, threshold: float
) -> tuple[int, int]:
    """Count the events of `ACCURACY_RHO` that were found, and those of them whose kind is right.

    The kind of an event is that of its highest trigger.

    Parameters
    ----------
    detections : DataFrame
    score : ndarray, shape (number of detections,)
    kind : ndarray of str, shape (number of detections,)
        Kind that the detector takes each trigger for; missing where it gives none.
    events : DataFrame
        With ``score``, the highest of each event.
    threshold : float

    Returns
    -------
    right, n : int
        (0, 0) for a detector that gives no kinds.
    """
    given = pd.notna(kind)
    if not given.any():
        return 0, 0
    matched = match_entries(detections, events)
    wanted = is_found(events, threshold) & events["rho"].between(*ACCURACY_RHO, inclusive="left").to_numpy()
    best = pd.DataFrame({"event": matched, "score": score, "kind": kind})[(matched >= 0) & np.isfinite(score)]
    best = best.sort_values("score", kind="stable").groupby("event").last()
    own = best["kind"].reindex(np.flatnonzero(wanted))
    return int((own.to_numpy() == events["kind"].to_numpy()[wanted]).sum()), int(wanted.sum())
