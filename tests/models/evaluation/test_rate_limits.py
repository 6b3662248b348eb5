"""Intervals of a rate: values of published tables, limits solved by hand, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from shutterless.models.evaluation.rate_limits import (
    accepted_counts,
    completeness_error,
    empty_limit,
    feldman_cousins,
)

# Feldman & Cousins 1998, table IV (90 %) for backgrounds of 0 and 3; and the review of statistics of the Particle Data
# Group, limits for Poisson means by the same method (95 %, no background)
TABLE_90 = {1: (0.11, 4.36), 2: (0.53, 5.91), 3: (1.10, 7.42), 5: (1.84, 9.99), 7: (3.56, 12.53), 10: (5.50, 16.50)}
TABLE_90_OVER_3 = {1: (0.0, 1.88), 2: (0.0, 3.04), 4: (0.0, 5.60), 6: (0.15, 8.47), 8: (1.51, 10.99), 10: (2.63, 13.50)}
TABLE_95 = {0: (0.0, 3.09), 1: (0.05, 5.14), 2: (0.36, 6.72), 4: (1.37, 9.76), 7: (2.58, 13.81), 10: (4.75, 17.82)}


@pytest.mark.parametrize(
    ("confidence", "background", "table"), [(0.9, 0.0, TABLE_90), (0.9, 3.0, TABLE_90_OVER_3), (0.95, 0.0, TABLE_95)]
)
def test_intervals_are_those_of_the_published_tables(confidence, background, table):
    for n, expected in table.items():
        assert feldman_cousins(n, background, confidence=confidence) == pytest.approx(expected, abs=0.006)


def test_an_empty_search_by_hand():
    # P(0 | s) = exp(-s) = 0.05, so s = ln 20
    assert empty_limit() == pytest.approx(np.log(20))
    # completeness known to 50 %: (1 + s/4) ** -4 = 0.05, so s = 4 (20 ** (1/4) - 1) = 4.459
    assert empty_limit(0.5) == pytest.approx(4 * (20**0.25 - 1))


def test_errors_of_completeness_and_background_widen_an_interval():
    low, high = feldman_cousins(12, 4.0)
    for errors in ({"background_error": 2.0}, {"efficiency_error": 0.3}):
        wider = feldman_cousins(12, 4.0, **errors)
        assert wider[0] < low
        assert wider[1] > high
    assert feldman_cousins(12, 4.0, background_error=1e-6, efficiency_error=1e-6) == pytest.approx(
        (low, high), abs=0.01
    )


def test_completeness_has_an_error_even_where_all_or_none_was_found():
    # Beta(10.5, 0.5): the variance is 10.5 * 0.5 / (11**2 * 12)
    assert completeness_error(10, 10) == pytest.approx(np.sqrt(10.5 * 0.5 / (11**2 * 12)))
    # of many events it is the binomial one, sqrt(pq/n) / p
    assert completeness_error(4000, 10_000) == pytest.approx(np.sqrt(0.6 / 4000), rel=1e-3)


def test_the_interval_of_a_count_holds_the_signals_that_accept_it():
    low, high = feldman_cousins(9, 3.0, background_error=1.0, efficiency_error=0.1)
    for signal in np.linspace(0.2, 25, 40):
        if abs(signal - low) > 0.05 and abs(signal - high) > 0.05:
            assert accepted_counts(signal, 9, 3.0, 1.0, 0.1)[9] == (low < signal < high)


def test_the_limit_covers_the_true_rate_in_95_percent_of_surveys():
    """Each of 10,000 surveys counts events, false alarms of other frames, and events of known number that it finds.

    A count is whole, so limits cover more than they say where few are expected, up to all surveys. These expect 20
    false alarms and 10 to 40 events, where a step of the count changes the coverage by less than 2 %, and their rates
    are drawn, so that no single step decides.
    """
    rng = np.random.default_rng(8)
    n_surveys, n_injected, background, times_longer, completeness = 10_000, 400, 20.0, 10.0, 0.6
    covered = np.zeros(n_surveys, dtype=bool)
    for k, expected in enumerate(rng.uniform(10, 40, n_surveys)):
        n = rng.poisson(expected + background)
        recovered, alarms = rng.binomial(n_injected, completeness), rng.poisson(background * times_longer)
        measured = alarms / times_longer, np.sqrt(alarms) / times_longer
        # an interval is that of the counts at the measured completeness: the true rate gives so many
        signal = expected * recovered / n_injected / completeness
        covered[k] = accepted_counts(signal, n, *measured, completeness_error(recovered, n_injected))[n]
    assert covered.mean() == pytest.approx(0.95, abs=0.01)


def test_an_empty_search_excludes_what_it_would_have_seen_in_95_percent_of_surveys():
    """At a rate just beyond the limit of an empty search the coverage is what the limit says, and not more."""
    counts = np.random.default_rng(5).poisson(empty_limit() * (1 + 1e-9), 10_000)
    assert np.mean(counts > 0) == pytest.approx(0.95, abs=0.01)
