"""Stars with the same motion at different rows: their lags, and the prediction for each from the others."""

import numpy as np
import pytest

from shutterless.pipeline.calibration.motion.lags import find_lags, find_outliers, refine_lag
from shutterless.pipeline.calibration.motion.pace import MotionPace
from shutterless.pipeline.calibration.motion.star_series import SharedSeries
from shutterless.pipeline.reading.readout import Readout
from shutterless.pipeline.simulation.sky.atmosphere import draw_waves

N_ROWS, MAX_LAG = 6000, 900
PACE = MotionPace.of(Readout(300.0, 6.2, 10.0, 48_000.0, MAX_LAG))
COARSE, REACH = PACE.coarse_rows, PACE.refine_rows
LAGS = np.array([310, 0, 875, 432, 77, 640])


def shared_stars(seed: int, noise: float, n_channels: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Six stars (s, c, t) with one motion in their own time, correlated over 30 rows, and own noise; the truth."""
    rng = np.random.default_rng(seed)
    waves = [draw_waves(rng, 1.0, 30.0) for _ in range(n_channels)]
    truth = np.stack([[wave.value(np.arange(N_ROWS) - lag) for wave in waves] for lag in LAGS])
    return truth + noise * rng.standard_normal(truth.shape), truth


ALL = np.ones((len(LAGS), N_ROWS), dtype=bool)


def test_lags_are_found_from_what_the_stars_do():
    series, _ = shared_stars(1, noise=1.0)
    lags, _ = find_lags(series, ALL, np.full(6, np.nan), MAX_LAG, COARSE)
    np.testing.assert_allclose(lags - lags[0], LAGS - LAGS[0], atol=2 * COARSE)


def test_known_lags_are_kept_and_the_others_follow_from_them():
    series, _ = shared_stars(2, noise=1.0)
    known = np.where(np.arange(6) % 2 == 0, LAGS, np.nan)
    lags, _ = find_lags(series, ALL, known, MAX_LAG, COARSE)
    np.testing.assert_array_equal(lags[::2], LAGS[::2])
    np.testing.assert_allclose(lags, LAGS, atol=2 * COARSE)


def test_no_lag_is_found_in_noise():
    noise = np.random.default_rng(3).standard_normal((6, 2, N_ROWS))
    lags, finder = find_lags(noise, ALL, np.full(6, np.nan), MAX_LAG, COARSE)
    assert np.isnan(lags[1:]).all()
    assert np.isnan(finder.find(noise[1], ALL[1]))


def test_masked_stars_have_no_lag():
    series, _ = shared_stars(4, noise=0.5)
    _, finder = find_lags(series, ALL, LAGS.astype(float), MAX_LAG, COARSE)
    assert np.isnan(finder.find(series[0], np.zeros(N_ROWS, dtype=bool)))


def test_lags_are_refined_to_the_row():
    series, truth = shared_stars(5, noise=0.5)
    shifted = np.roll(series[0], 5, axis=1)
    assert refine_lag(shifted, ALL[0], truth[0], REACH) == pytest.approx(5, abs=1)
    assert refine_lag(series[0], ALL[0], truth[0], REACH) == pytest.approx(0, abs=1)
    assert abs(refine_lag(np.roll(series[0], 400, axis=1), ALL[0], truth[0], REACH)) <= REACH


def test_each_star_is_predicted_by_the_others_alone():
    series, truth = shared_stars(6, noise=0.5, n_channels=1)
    shared = SharedSeries(series[:, 0], ALL, np.full(6, 4.0), LAGS, windows=(1, 5, 15))
    inside = slice(1000, 5000)  # where all six have rows
    error = (shared.predicted - truth[:, 0])[:, inside]
    # five stars of 0.5 leave 0.22 in a single row, and neighbouring rows help
    assert error.std() < 0.22
    assert shared.gain > 0.7
    changed = series[:, 0].copy()
    changed[2, 3000:3010] += 50
    predicted = SharedSeries(changed, ALL, np.full(6, 4.0), LAGS, windows=(1, 5, 15)).predicted[2]
    # an event on star 2 alone is not in its prediction, but for the weights of windows, fitted to all stars
    assert np.abs(predicted - shared.predicted[2])[2990:3020].max() < 0.3


def test_stars_that_share_nothing_predict_nothing():
    noise = np.random.default_rng(7).standard_normal((6, N_ROWS))
    assert SharedSeries(noise, ALL, np.ones(6), LAGS, windows=(1, 5, 15)).gain < 0.01


def test_one_more_star_is_predicted_from_all_the_others():
    series, truth = shared_stars(8, noise=0.5, n_channels=1)
    shared = SharedSeries(series[1:, 0], ALL[1:], np.full(5, 4.0), LAGS[1:], windows=(1, 5, 15))
    predicted = shared.at(int(LAGS[0]))
    assert (predicted - truth[0, 0])[1000:5000].std() < 0.22
    # outside the rows of all stars the prediction is 0
    assert not shared.at(-N_ROWS).any()


def test_what_one_star_does_alone_is_an_outlier():
    rng = np.random.default_rng(9)
    series = rng.standard_normal(N_ROWS)
    assert find_outliers(series, np.zeros(N_ROWS), ALL[0], PACE.outlier_windows).mean() < 0.01
    series[3000:3065] += 2.0  # 2 sigma in one row, 16 in the mean of 65
    outlying = find_outliers(series, np.zeros(N_ROWS), ALL[0], PACE.outlier_windows)
    assert outlying[3000:3065].all()
    # the mean of 513 rows is off as far as it reaches
    assert outlying[: 3000 - 513].mean() < 0.01
