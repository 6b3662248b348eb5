"""Probability that a candidate is an event, where the user says how many events an hour to expect."""

from __future__ import annotations

import numpy as np

from shutterless.models.evaluation.own_rates import OwnRate

MIN_EVENTS = 30  # fewer scores tell no density
_STEPS = 2000


def event_posterior(score: np.ndarray, events: np.ndarray, rate: OwnRate, events_per_hour: float) -> np.ndarray:
    """Posterior probability of an event, given its score.

    Parameters
    ----------
    score : ndarray, shape (n,)
        Of candidates of one amplifier.
    events : ndarray, shape (m,)
        Scores of events that the detector was not trained on, each its highest.
    rate : OwnRate
        Of the false alarms of the amplifier.
    events_per_hour : float
        Prior: events per amplifier-hour that raise a trigger, and are as bright as those of ``events``.

    Returns
    -------
    ndarray of float64, shape (n,)
        NaN where no tail of false alarms is known.

    Raises
    ------
    ValueError
        If there are fewer than `MIN_EVENTS` events.

    Notes
    -----
    Bayes: ``R g / (R g + f)``, with the prior R, the density g of the scores of events (a Gaussian kernel estimate,
    Scott 1992), and f, the false alarms per hour and unit of score. Since a higher score is surer, the odds ``g / f``
    are made to rise: each is the largest of those below. Above the highest event they stay as they are there.
    """
    if len(events) < MIN_EVENTS:
        raise ValueError(f"{len(events)} scores of events are too few for a density: {MIN_EVENTS} are needed")
    from scipy.stats import gaussian_kde  # slow to import, and few searches need it

    score = np.asarray(score, dtype=np.float64)
    if rate.scale == 0:
        return np.full(len(score), np.nan)
    steps = np.linspace(min(events.min(), rate.start), events.max(), _STEPS)
    odds = np.maximum.accumulate(gaussian_kde(events)(steps) / rate.density(steps))
    prior_odds = events_per_hour * np.interp(score, steps, odds)
    return prior_odds / (1 + prior_odds)
