"""Compare two detectors on the same events: the difference in completeness and its error.

Events of one sequence share its sky, pickup and stars, so sequences are independent draws, but events are not. The
difference is taken for each event first, which cancels whatever makes an event hard for both detectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from shutterless.models.evaluation.metrics import CONFIDENCE

BLOCK_LABELS = ("sequence", "file", "entry")  # the coarsest first
ENOUGH_BLOCKS = 8  # the spread of fewer sequences is poorly known; files or amplifiers are then resampled
_AT_ONCE = 1 << 22  # numbers of one array of weights


class PairedBootstrapError(ValueError):
    """Events that two detectors cannot be paired on."""


@dataclass(frozen=True)
class PairedDifference:
    """Difference in completeness of two detectors on the same events.

    Parameters
    ----------
    difference : float
        Completeness of the first detector minus that of the second.
    standard_error : float
        Its standard deviation over the samples.
    low, high : float
        Its central 95 % interval (percentiles).
    n_blocks : int
        Blocks that were resampled.
    """

    difference: float
    standard_error: float
    low: float
    high: float
    n_blocks: int


def paired_difference(
    found_a: np.ndarray, found_b: np.ndarray, blocks: np.ndarray, *, n_samples: int = 2000, seed: int = 0
) -> PairedDifference:
    """Bootstrap the difference in completeness of two detectors over whole blocks of events.

    Parameters
    ----------
    found_a, found_b : ndarray of bool, shape (number of events,)
        Whether each detector found each event, both in the same order. Floats are allowed: the fraction of a model's
        seeds that found the event.
    blocks : ndarray, shape (number of events,)
        Label of the sequence that each event belongs to (`choose_blocks`).
    n_samples : int
    seed : int

    Raises
    ------
    PairedBootstrapError
        If lengths differ, or all events belong to one block.

    Notes
    -----
    Efron & Tibshirani (1993, An Introduction to the Bootstrap, ch. 6 for standard errors, 8 for units that are blocks,
    13 for percentiles). Of n blocks each sample draws n - 1, which makes the variance of a mean unbiased; n draws
    give (n - 1)/n of it (McCarthy & Snowden 1985, Vital and Health Statistics 2-95), a quarter too little for n = 4.
    """
    first, second = np.asarray(found_a, dtype=np.float64), np.asarray(found_b, dtype=np.float64)
    index, labels = pd.factorize(np.asarray(blocks), use_na_sentinel=False)
    if not len(first) == len(second) == len(index):
        raise PairedBootstrapError(
            f"pairs need the same events: {len(first)} of the first detector, {len(second)} of the second, "
            f"{len(index)} block labels"
        )
    if len(labels) < 2:
        raise PairedBootstrapError(
            f"{len(first)} events of {len(labels)} block: resampling needs at least two sequences; label events by "
            "file or amplifier instead"
        )
    totals = np.bincount(index, weights=first - second)
    means = _resample_mean(totals, np.bincount(index), n_samples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    difference = float(np.mean(first - second))
    return PairedDifference(difference, float(means.std(ddof=1)), float(low), float(high), len(labels))


def _resample_mean(totals: np.ndarray, counts: np.ndarray, n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Means over events of samples of n - 1 of n blocks, from the sum and the number of events of each block."""
    n = len(totals)
    means = []
    for start in range(0, n_samples, rows := max(_AT_ONCE // n, 1)):
        weights = rng.multinomial(n - 1, np.full(n, 1 / n), size=min(rows, n_samples - start))
        means.append((weights @ totals) / (weights @ counts))
    return np.concatenate(means)


def choose_blocks(events: pd.DataFrame) -> pd.Series:
    """Label the block of each event: its sequence where there are enough of them, else its file, else its amplifier.

    Parameters
    ----------
    events : DataFrame
        With ``sequence``, ``file`` and ``entry`` (an amplifier of one file), or some of them.

    Returns
    -------
    Series
        The column of the coarsest label with `ENOUGH_BLOCKS` values, or else of the label with the most values. Its
        name is that label.
    """
    labels = [name for name in BLOCK_LABELS if name in events]
    if not labels:
        raise PairedBootstrapError(f"events need one of {list(BLOCK_LABELS)}, got {list(events.columns)}")
    counts = {name: events[name].nunique() for name in labels}
    enough = [name for name in labels if counts[name] >= ENOUGH_BLOCKS]
    return events[enough[0] if enough else max(labels, key=counts.__getitem__)]
