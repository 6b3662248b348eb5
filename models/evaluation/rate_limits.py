"""Intervals and upper limits of a rate, from events counted over a background with a measured completeness."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import gammaln, xlogy

from shutterless.models.evaluation.metrics import CONFIDENCE

_KNOWN = 1e-9  # a relative variance below this changes nothing
_STEPS = 200  # of the scan for the ends of an interval
_HALVINGS = 40
_TAIL_SIGMA, _TAIL_COUNTS = 10, 20  # counts that a belt takes into account, beyond the mean


def feldman_cousins(
    n: int,
    background: float = 0.0,
    *,
    background_error: float = 0.0,
    efficiency_error: float = 0.0,
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """Interval of the mean number of signal counts, one-sided or two-sided as the counts demand.

    Parameters
    ----------
    n : int
        Counts, signal and background.
    background, background_error : float
        Counts expected without any signal, and their standard error.
    efficiency_error : float
        Relative standard error of the share of signals that is counted.
    confidence : float

    Returns
    -------
    low, high : float
        Mean counts of the signal at the measured efficiency.

    Notes
    -----
    The construction of Feldman & Cousins (1998, Phys. Rev. D 57, 3873; arXiv:physics/9711021): for each signal s the
    counts with the highest ``P(n | s + b) / P(n | max(n, b))`` are accepted until their probability reaches the
    confidence. Errors of background and efficiency are averaged over as Conrad et al. (2003, Phys. Rev. D 67, 012002;
    arXiv:hep-ex/0202013) do, here with gamma distributions, so that a Poisson count becomes a negative binomial one.
    Upper ends are not corrected to fall with the background, as those in the tables of the first paper are.
    """

    def holds(signal: float) -> bool:
        return bool(accepted_counts(signal, n, background, background_error, efficiency_error, confidence)[n])

    best = max(n - background, 0.0)  # of all signals the likeliest, so that its belt holds n
    beyond = 2 * best + 10.0
    while holds(beyond):
        beyond *= 2
    return _last_held(holds, best, 0.0), _last_held(holds, best, beyond)


def accepted_counts(
    signal: float,
    n: int,
    background: float,
    background_error: float = 0.0,
    efficiency_error: float = 0.0,
    confidence: float = CONFIDENCE,
) -> np.ndarray:
    """Which counts the interval of a signal accepts; the interval of a count holds the signals that accept it.

    Returns
    -------
    ndarray of bool, shape (m,)
        For counts from 0 to ``n`` or more. Further parameters are those of `feldman_cousins`.
    """
    noise = (background_error / background) ** 2 if background else 0.0
    mean = signal + background
    variance = mean + (signal * efficiency_error) ** 2 + background_error**2
    counts = np.arange(int(max(mean + _TAIL_SIGMA * np.sqrt(variance) + _TAIL_COUNTS, n)) + 1)
    of_signal, of_background = (
        _probability(counts, *one) for one in ((signal, efficiency_error**2), (background, noise))
    )
    probability = np.convolve(of_signal, of_background)[: len(counts)]
    best = np.maximum(counts, background)
    ratio = xlogy(counts, mean) - mean - xlogy(counts, best) + best
    order = np.argsort(-ratio, kind="stable")
    before = np.cumsum(probability[order]) - probability[order]
    accepted = np.zeros(len(counts), dtype=bool)
    accepted[order] = before < confidence
    return accepted


def empty_limit(efficiency_error: float = 0.0, confidence: float = CONFIDENCE) -> float:
    """Upper limit of the mean number of signal counts where nothing was counted.

    Notes
    -----
    ``P(0 | s) = exp(-s)`` is 1 - confidence at ``s = -ln(1 - confidence)``, 3.00 at 95 %, whatever the background was:
    it was not seen either. With the relative variance v of the efficiency ``P(0 | s) = (1 + v s) ** (-1 / v)``.
    """
    variance = efficiency_error**2
    if variance < _KNOWN:
        return float(-np.log1p(-confidence))
    return float(np.expm1(-variance * np.log1p(-confidence)) / variance)


def completeness_error(found: float, n: float) -> float:
    """Relative standard error of a completeness, ``found`` of ``n`` events.

    Notes
    -----
    The standard deviation of the Beta distribution that Jeffreys' prior gives (Brown, Cai & DasGupta 2001, Statistical
    Science 16, 101): unlike the binomial error it is not 0 where all events were found.
    """
    a, b = found + 0.5, n - found + 0.5
    return float(np.sqrt(a * b / ((a + b) ** 2 * (a + b + 1))) / (found / n))


def _probability(counts: np.ndarray, mean: float, variance: float) -> np.ndarray:
    """Probability of counts whose mean is known up to a relative variance: Poisson, or negative binomial."""
    if variance < _KNOWN:
        return np.exp(xlogy(counts, mean) - mean - gammaln(counts + 1))
    r, odds = 1 / variance, mean * variance
    log_p = gammaln(counts + r) - gammaln(r) - gammaln(counts + 1) - (r + counts) * np.log1p(odds) + xlogy(counts, odds)
    return np.exp(log_p)


def _last_held(holds: Callable[[float], bool], inside: float, outside: float) -> float:
    """Farthest signal towards ``outside`` whose belt holds the counts; discreteness leaves gaps in between."""
    signals = np.linspace(outside, inside, _STEPS)
    first = next(k for k, signal in enumerate(signals) if k == _STEPS - 1 or holds(signal))
    if first == 0:
        return float(outside)
    held, lost = float(signals[first]), float(signals[first - 1])
    for _ in range(_HALVINGS):
        middle = (held + lost) / 2
        held, lost = (middle, lost) if holds(middle) else (held, middle)
    return held
