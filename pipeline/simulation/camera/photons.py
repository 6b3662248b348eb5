"""Draw exact Poisson counts several times faster than a general sampler, for images whose mean changes slowly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import lgamma

import numba
import numpy as np

# tables exist for means of every quarter up to this; larger means are sums of draws, far larger ones use the generator
_LARGEST_MEAN, _PER_ELECTRON, _MOST_DRAWS = 512, 4, 3
# counts of lower probability are left out of a table, since a random number of 53 bits cannot resolve them
_LEAST_PROBABILITY = 1e-18


@dataclass(frozen=True)
class _Tables:
    """Alias tables of the Poisson distributions of mean 0, 1/4, 2/4, …, one behind the other.

    Parameters
    ----------
    first : ndarray of int64, shape (m,)
        Where each table begins.
    size : ndarray of int64, shape (m,)
        Its entries, a power of two.
    lowest : ndarray of int64, shape (m,)
        Count of its first entry.
    keep : ndarray of float64, shape (e,)
        Probability of an entry's own count rather than its alias.
    alias : ndarray of int16, shape (e,)
        Entry of the other count.
    """

    first: np.ndarray
    size: np.ndarray
    lowest: np.ndarray
    keep: np.ndarray
    alias: np.ndarray


def draw_photons(rng: np.random.Generator, mean_e: np.ndarray, out: np.ndarray) -> None:
    """Draw Poisson counts.

    Parameters
    ----------
    rng : Generator
    mean_e : ndarray of float64, shape (t, x)
        Means, not negative.
    out : ndarray of float64, shape (t, x)
        Receives the counts.

    Notes
    -----
    Independent Poisson counts add: if ``a`` is the mean in whole quarters and ``b`` the rest, Poisson(a) + Poisson(b)
    is exactly Poisson(a + b). The first comes from an alias table (Walker 1977, ACM Trans. Math. Softw. 3, 253; Vose
    1991, IEEE Trans. Softw. Eng. 17, 972), which takes one random number for any mean. The second, with a mean below
    1/4, is drawn by inversion, which mostly ends at ``u < 1 - b <= exp(-b)`` without an exponential.
    """
    tables = _build_tables()
    _draw(rng, mean_e, out, tables.first, tables.size, tables.lowest, tables.keep, tables.alias)


@numba.njit(cache=True, nogil=True)
def _draw(rng, mean, out, first, size, lowest, keep, alias):  # type: ignore[no-untyped-def]  # pragma: no cover
    for t in range(mean.shape[0]):
        for x in range(mean.shape[1]):
            rest = mean[t, x]
            if rest > _MOST_DRAWS * _LARGEST_MEAN:
                out[t, x] = rng.poisson(rest)
                continue
            count = 0
            while rest > _LARGEST_MEAN:
                count += _look_up(rng, len(first) - 1, first, size, lowest, keep, alias)
                rest -= _LARGEST_MEAN
            quarters = int(rest * _PER_ELECTRON)
            count += _look_up(rng, quarters, first, size, lowest, keep, alias)
            out[t, x] = count + _invert(rng.random(), rest - quarters / _PER_ELECTRON)


@numba.njit(cache=True, nogil=True, inline="always")
def _look_up(rng, table, first, size, lowest, keep, alias):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    place = rng.random() * size[table]
    entry = int(place)
    own = first[table] + entry
    return lowest[table] + (entry if place - entry < keep[own] else alias[own])


@numba.njit(cache=True, nogil=True, inline="always")
def _invert(u, mean):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Poisson count of a mean below 1/4 whose cumulative probability first exceeds ``u``."""
    if u < 1 - mean:
        return 0
    term = np.exp(-mean)
    count = 0
    while u >= term and count < 64:
        u -= term
        count += 1
        term *= mean / count
    return count


@lru_cache(maxsize=1)
def _build_tables() -> _Tables:
    return _Tables(*_fill_tables(_LARGEST_MEAN * _PER_ELECTRON))


@numba.njit(cache=True, nogil=True)
def _fill_tables(largest):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    first, size, lowest = (
        np.zeros(largest + 1, np.int64),
        np.zeros(largest + 1, np.int64),
        np.zeros(largest + 1, np.int64),
    )
    total = 0
    for i in range(largest + 1):
        low, high = _support(i / _PER_ELECTRON)
        first[i], lowest[i], size[i] = total, low, 1
        while size[i] < high - low + 1:
            size[i] *= 2
        total += size[i]
    keep, alias = np.ones(total, np.float64), np.zeros(total, np.int16)
    for i in range(largest + 1):
        part = slice(first[i], first[i] + size[i])
        probabilities = np.empty(size[i])
        for k in range(size[i]):
            probabilities[k] = _probability(i / _PER_ELECTRON, lowest[i] + k)
        _fill_alias(probabilities / probabilities.sum(), keep[part], alias[part])
    return first, size, lowest, keep, alias


@numba.njit(cache=True, nogil=True)
def _probability(mean, count):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    if mean == 0:
        return 1.0 if count == 0 else 0.0
    return np.exp(count * np.log(mean) - mean - lgamma(count + 1.0))


@numba.njit(cache=True, nogil=True)
def _support(mean):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """First and last count that is probable enough for a table."""
    low = high = int(mean)
    while low > 0 and _probability(mean, low - 1) > _LEAST_PROBABILITY:
        low -= 1
    while _probability(mean, high + 1) > _LEAST_PROBABILITY:
        high += 1
    return low, high


@numba.njit(cache=True, nogil=True)
def _fill_alias(probabilities, keep, alias):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Vose's construction: entries with less than their share are filled up from entries with more."""
    n = len(probabilities)
    share = probabilities * n
    small, large = np.empty(n, np.int64), np.empty(n, np.int64)
    n_small = n_large = 0
    for i in range(n):
        alias[i] = i
        if share[i] < 1:
            small[n_small] = i
            n_small += 1
        else:
            large[n_large] = i
            n_large += 1
    while n_small and n_large:
        n_small -= 1
        less, more = small[n_small], large[n_large - 1]
        keep[less], alias[less] = share[less], more
        share[more] -= 1 - share[less]
        if share[more] < 1:
            n_large -= 1
            small[n_small] = more
            n_small += 1
