"""Means over windows equal sums row by row."""

import numpy as np
import pytest

from shutterless.pipeline.compiled.running_means import cumulate, neighbour_errors, neighbour_mean, window_mean


def test_mean_of_three_rows_counts_nothing_beyond_the_ends():
    out = np.empty(4)
    window_mean(cumulate(np.array([3.0, 6.0, 9.0, 0.0])), 3, out)
    np.testing.assert_allclose(out, [3, 6, 5, 3])


def test_mean_of_the_neighbours_is_cut_off_at_the_ends():
    values, out = np.array([3.0, 6.0, 9.0, 1.0]), np.empty(4)
    neighbour_mean(values, cumulate(values), 3, out)
    np.testing.assert_allclose(out, [6, 6, 3.5, 9])


@pytest.mark.parametrize("n", [1, 4, 5, 8, 9, 40, 1500])
@pytest.mark.parametrize("window", [1, 5, 9, 65])
def test_windows_of_any_length_in_series_of_any_length(n, window):
    values, half = np.random.default_rng(n).normal(size=n), window // 2
    out = np.empty(n)
    window_mean(cumulate(values), window, out)
    expected = [values[max(t - half, 0) : t + half + 1].sum() / window for t in range(n)]
    np.testing.assert_allclose(out, expected, atol=1e-12)


@pytest.mark.parametrize("n", [4, 5, 9, 130, 1500])
def test_errors_are_those_of_the_means_of_neighbours(n):
    values = np.random.default_rng(n).normal(size=n).astype(np.float32)
    windows, predicted = (5, 9, 17, 33, 65, 129), np.empty(n, np.float32)
    for window, error in zip(windows, neighbour_errors(values, len(windows)), strict=True):
        if window > n:
            assert error == np.inf
        else:
            neighbour_mean(values, cumulate(values), window, predicted)
            assert error == pytest.approx(np.mean((values - predicted) ** 2), rel=1e-5)
