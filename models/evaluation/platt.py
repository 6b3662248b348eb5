"""Calibrate logits to probabilities (Platt scaling), and check the calibration."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit


class CalibrationError(ValueError):
    """Labels that no calibration can be fitted to."""


def fit_platt(event_logit: np.ndarray, is_event: np.ndarray) -> tuple[float, float]:
    """Fit probability = sigmoid(slope × logit + intercept).

    Parameters
    ----------
    event_logit : ndarray, shape (b,)
        Logits of strips the model was not trained on.
    is_event : ndarray, shape (b,)
        Truth.

    Returns
    -------
    slope, intercept : float

    Notes
    -----
    Platt (1999, Advances in Large Margin Classifiers). The targets are (n₊ + 1)/(n₊ + 2) and 1/(n₋ + 2) instead of 1
    and 0, so that the slope stays finite even where the logits separate the classes.
    """
    logit, truth = np.asarray(event_logit, dtype=np.float64), np.asarray(is_event).astype(bool)
    n_events, n_others = int(truth.sum()), int((~truth).sum())
    if not n_events or not n_others:
        raise CalibrationError(
            f"calibration needs strips of both classes, got {n_events} with and {n_others} without event; "
            "choose other validation groups"
        )
    target = np.where(truth, (n_events + 1) / (n_events + 2), 1 / (n_others + 2))

    def loss_and_gradient(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = parameters[0] * logit + parameters[1]
        error = expit(scaled) - target
        loss = np.mean(np.logaddexp(0, scaled) - target * scaled)
        return float(loss), np.array([np.mean(error * logit), np.mean(error)])

    fit = minimize(loss_and_gradient, x0=np.array([1.0, 0.0]), jac=True, method="BFGS", options={"gtol": 1e-8})
    return float(fit.x[0]), float(fit.x[1])


def probability_from_logit(event_logit: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Apply Platt scaling."""
    return expit(slope * np.asarray(event_logit, dtype=np.float64) + intercept)


def reliability_table(probability: np.ndarray, is_event: np.ndarray, n_bins: int = 10) -> pd.DataFrame:
    """Compare predicted with observed frequencies in equal bins of probability.

    Returns
    -------
    DataFrame
        ``bin_low``, ``bin_high``, ``mean_probability``, ``observed_fraction``, ``n``: one row a bin; an empty bin has
        ``n`` 0 and NaN means.
    """
    probability, truth = np.asarray(probability, dtype=np.float64), np.asarray(is_event, dtype=np.float64)
    edges = np.linspace(0, 1, n_bins + 1)
    # a probability of exactly 1 belongs to the last bin
    index = np.clip(np.searchsorted(edges, probability, side="right") - 1, 0, n_bins - 1)
    n = np.bincount(index, minlength=n_bins)
    filled = np.maximum(n, 1)
    mean = np.where(n > 0, np.bincount(index, weights=probability, minlength=n_bins) / filled, np.nan)
    observed = np.where(n > 0, np.bincount(index, weights=truth, minlength=n_bins) / filled, np.nan)
    return pd.DataFrame(
        {"bin_low": edges[:-1], "bin_high": edges[1:], "mean_probability": mean, "observed_fraction": observed, "n": n}
    )


def reliability_error(table: pd.DataFrame) -> float:
    """Expected calibration error: mean distance between predicted and observed frequency, weighted by the strips.

    Parameters
    ----------
    table : DataFrame
        Of `reliability_table`.

    Returns
    -------
    float
        NaN without a strip.
    """
    n = table["n"].sum()
    distance = (table["mean_probability"] - table["observed_fraction"]).abs()
    return float((distance * table["n"]).sum() / n) if n else float("nan")


def roc_area(score: np.ndarray, is_event: np.ndarray) -> float:
    """Probability that a strip with an event scores higher than one without (ties count half).

    NaN if one class is missing or a score is not finite, as in a training that diverges.

    Notes
    -----
    The Mann–Whitney statistic (Hanley & McNeil 1982, Radiology 143, 29).
    """
    from sklearn.metrics import roc_auc_score  # takes half a second to import, and no search needs it

    truth = np.asarray(is_event).astype(bool)
    is_known = 0 < truth.sum() < len(truth) and np.isfinite(score).all()
    return float(roc_auc_score(truth, score)) if is_known else float("nan")
