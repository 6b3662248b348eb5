"""Medians equal numpy's to the last bit."""

import numpy as np
import pytest

from shutterless.pipeline.compiled.medians import keep_known, median, median_absolute


@pytest.mark.parametrize("n", [1, 2, 3, 4, 101, 5000])
@pytest.mark.parametrize("step", [None, 0.5])  # with and without many equal values
def test_medians_are_those_of_numpy(n, step):
    for seed in range(20):
        values = np.random.default_rng(seed).normal(0.3, 2.0, n).astype(np.float32)
        if step:
            values = np.round(values / step) * np.float32(step)
        before = values.copy()
        assert median(values) == np.median(values.astype(np.float64))
        assert median_absolute(values) == np.median(np.abs(values.astype(np.float64)))
        np.testing.assert_array_equal(values, before)


def test_extremes_have_their_place():
    values = np.array([np.inf, -np.inf, -0.0, 1e-45, -1e-45, 3e38, 7.0], dtype=np.float32)
    assert median(values) == np.float32(1e-45)
    assert median_absolute(values) == 7.0


def test_the_median_of_nothing_is_unknown():
    assert np.isnan(median(np.empty(0, np.float32)))


def test_known_values_keep_their_order():
    out = np.empty(4, np.float32)
    n = keep_known(np.array([4, np.nan, 2, 3], np.float32), np.array([True, False, True, True]), out)
    np.testing.assert_array_equal(out[:n], [4, 2, 3])
    assert keep_known(out, np.zeros(4, dtype=bool), out.copy()) == 0
