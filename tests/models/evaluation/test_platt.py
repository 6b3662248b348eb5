"""Calibrated probabilities against known frequencies."""

import numpy as np
import pytest
from scipy.special import expit

from shutterless.models.evaluation.platt import (
    CalibrationError,
    fit_platt,
    probability_from_logit,
    reliability_error,
    reliability_table,
    roc_area,
)


def test_platt_recovers_slope_and_intercept():
    """Truth drawn with probability sigmoid(0.5 logit − 1), recovered within three standard errors (Fisher matrix)."""
    rng = np.random.default_rng(2)
    logit = rng.normal(0, 3, 20_000)
    probability = expit(0.5 * logit - 1)
    fitted = fit_platt(logit, rng.random(20_000) < probability)
    design = np.stack([logit, np.ones_like(logit)])
    errors = np.sqrt(np.diag(np.linalg.inv((design * (probability * (1 - probability))) @ design.T)))
    assert np.all(np.abs(np.array(fitted) - [0.5, -1]) < 3 * errors)


def test_platt_of_uninformative_logits_is_the_base_rate():
    slope, intercept = fit_platt(np.zeros(1000), np.arange(1000) < 250)
    assert probability_from_logit(np.zeros(1), slope, intercept)[0] == pytest.approx(0.25, abs=0.002)


def test_platt_stays_finite_for_separable_logits():
    """10 events at +1 and 10 others at −1: the best fit meets Platt's targets 11/12 and 1/12, so slope = ln 11."""
    slope, intercept = fit_platt(np.repeat([1.0, -1.0], 10), np.repeat([1, 0], 10))
    assert slope == pytest.approx(np.log(11), abs=1e-4)
    assert intercept == pytest.approx(0, abs=1e-4)


def test_platt_needs_both_classes():
    with pytest.raises(CalibrationError, match="got 3 with and 0 without event"):
        fit_platt(np.arange(3.0), np.ones(3))


def test_reliability_table_by_hand():
    """Two bins: 0.2 and 0.4 with one event of two; 1.0 with one of one."""
    table = reliability_table(np.array([0.2, 0.4, 1.0]), np.array([0, 1, 1]), n_bins=2)
    assert table["n"].tolist() == [2, 1]
    assert table["mean_probability"].tolist() == pytest.approx([0.3, 1.0])
    assert table["observed_fraction"].tolist() == [0.5, 1.0]
    assert reliability_error(table) == pytest.approx(0.2 * 2 / 3)


def test_empty_bins_are_listed_and_do_not_count():
    table = reliability_table(np.array([0.05]), np.array([0]))
    assert table["n"].tolist() == [1] + 9 * [0]
    assert table["mean_probability"].isna().sum() == 9
    assert reliability_error(table) == pytest.approx(0.05)
    assert np.isnan(reliability_error(reliability_table(np.empty(0), np.empty(0))))


def test_roc_area_by_hand():
    assert roc_area([3, 2, 1], [1, 1, 0]) == 1
    assert roc_area([1, 2, 3], [1, 1, 0]) == 0
    assert roc_area([5, 5, 5, 5], [1, 0, 1, 0]) == 0.5
    assert np.isnan(roc_area([1, 2], [1, 1]))
    assert np.isnan(roc_area([], []))
    assert np.isnan(roc_area([1, np.nan], [1, 0]))
