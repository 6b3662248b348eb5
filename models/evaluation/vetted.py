"""Measure a detector on candidates that people labelled: purity against the share of the events that is kept."""

from __future__ import annotations

import numpy as np
import pandas as pd

from shutterless.models.evaluation.metrics import wilson_interval


def purity_curve(score: np.ndarray, is_event: np.ndarray) -> pd.DataFrame:
    """Purity and completeness among labelled candidates, at every threshold that makes a difference.

    Parameters
    ----------
    score : ndarray, shape (n,)
        Score of each candidate; -inf where the detector rejects it at any threshold.
    is_event : ndarray of bool, shape (n,)
        What people say that it is.

    Returns
    -------
    DataFrame
        ``threshold`` (descending), ``n_events`` and ``n_artefacts`` at or above it, ``completeness`` (share of the
        events) and ``purity`` (share of events among those above), both with the bounds ``_low`` and ``_high`` of
        their 95 % Wilson intervals.
    """
    thresholds = np.unique(score[np.isfinite(score)])[::-1]
    n_events, n_artefacts = (
        np.array([np.count_nonzero((score >= limit) & (is_event == value)) for limit in thresholds], dtype=np.int64)
        for value in (True, False)
    )
    table = pd.DataFrame({"threshold": thresholds, "n_events": n_events, "n_artefacts": n_artefacts})
    n_all, n_kept = max(int(np.count_nonzero(is_event)), 1), n_events + n_artefacts
    for name, n in (("completeness", n_all), ("purity", n_kept)):
        table[name] = n_events / n
        table[f"{name}_low"], table[f"{name}_high"] = wilson_interval(n_events, n)
    return table


def purity_at(curve: pd.DataFrame, completeness: float) -> pd.Series | None:
    """Row of a purity curve at the highest threshold that keeps this share of the events; None if none does."""
    kept = curve[curve["completeness"] >= completeness]
    return None if kept.empty else kept.iloc[0]
