"""Posterior probabilities on scores whose densities are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from shutterless.models.evaluation.own_rates import OwnRate
from shutterless.models.evaluation.posterior import event_posterior

MANY = 1e6  # scores that a tail rests on, so that it is exponential
RATE = OwnRate(start=0.0, start_rate=1000.0, scale=0.5, n_start=MANY, n_scale=MANY)
EVENTS = np.random.default_rng(1).normal(3.0, 1.0, 4000)


def test_density_is_the_slope_of_the_rate():
    few = OwnRate(0.0, 1000.0, 0.5, 40.0, 40.0)
    score = np.array([-0.3, 0.2, 1.0, 3.0])
    slope = (few.rate(score - 1e-5) - few.rate(score + 1e-5)) / 2e-5
    np.testing.assert_allclose(few.density(score), slope, rtol=1e-6)
    assert np.isnan(OwnRate(0.0, 1000.0, 0.0, 1.0, 1.0).density(score)).all()


@pytest.mark.parametrize("events_per_hour", [1.0, 100.0])
def test_it_is_that_of_bayes(events_per_hour):
    score = np.array([1.5, 2.5, 3.5, 4.5])
    events = events_per_hour * norm.pdf(score, 3.0, 1.0)
    expected = events / (events + 1000.0 / 0.5 * np.exp(-score / 0.5))
    np.testing.assert_allclose(event_posterior(score, EVENTS, RATE, events_per_hour), expected, atol=0.03)


def test_of_many_candidates_as_many_are_events_as_it_says():
    rng = np.random.default_rng(2)
    false, true = rng.exponential(0.5, 200_000), rng.normal(3.0, 1.0, 20_000)  # 200 hours with 100 events in each
    score, is_event = np.concatenate([false, true]), np.arange(220_000) >= 200_000
    told = event_posterior(score, EVENTS, RATE, 100.0)
    for low in (0.1, 0.3, 0.5, 0.7, 0.9):
        chosen = (told >= low) & (told < low + 0.1)
        assert is_event[chosen].mean() == pytest.approx(told[chosen].mean(), abs=0.03)


def test_a_higher_score_is_never_less_sure():
    told = event_posterior(np.linspace(-2, 30, 300), EVENTS, RATE, 10.0)
    assert (np.diff(told) >= 0).all()
    assert told[-1] == event_posterior(EVENTS.max(keepdims=True), EVENTS, RATE, 10.0)


def test_no_tail_and_too_few_events():
    unknown = OwnRate(0.0, 1000.0, 0.0, 1.0, 1.0)
    assert np.isnan(event_posterior(np.array([3.0]), EVENTS, unknown, 10.0)).all()
    with pytest.raises(ValueError, match="29 scores of events are too few for a density: 30 are needed"):
        event_posterior(np.array([3.0]), EVENTS[:29], RATE, 10.0)
