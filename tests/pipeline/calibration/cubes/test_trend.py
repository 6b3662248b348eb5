"""The trend follows slow changes, also over gaps, and no outliers."""

from __future__ import annotations

import numpy as np
import pytest

from shutterless.pipeline.calibration.cubes.trend import local_trend

WINDOW = 96
ROWS = np.arange(1000.0)


def noise(n_series: int, n_rows: int = 1000, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_rows, n_series))


def quadratic(height: float) -> np.ndarray:
    """A parabola that rises by ``height`` over half a window at its ends, shape (t, 1)."""
    place = (ROWS - 400) / 600
    return height * (600 / (WINDOW // 2)) / 2 * place[:, None] ** 2


def rms(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(error**2)))


@pytest.mark.parametrize(("window", "error"), [(40, 0.03), (96, 0.05), (400, 0.05)])
def test_trend_is_the_weighted_fit_around_each_row(window, error):
    """Of uniform noise nothing is clipped, so that the trend is numpy's; joining rows costs 5 % of the noise."""
    series = np.random.default_rng(2).uniform(-1.7, 1.7, (1000, 1)) + 3 * np.sin(2 * np.pi * ROWS / 700)[:, None]
    series[300:310] = np.nan
    live = np.isfinite(series[:, 0])
    found, half = local_trend(series, window)[:, 0], window // 2
    for row in (0, 7, 299, 305, 313, 500, 998):
        apart = np.abs(ROWS - row) / (half + 1)
        weight = np.sqrt(np.clip(1 - apart**3, 0, None) ** 3)[live]
        expected = np.polyfit(ROWS[live] - row, series[live, 0], 2, w=weight)[2]
        assert found[row] == pytest.approx(expected, abs=error)


@pytest.mark.parametrize("height", [0.0, 10.0, 300.0])
def test_quadratic_is_followed_to_the_error_of_its_noise(height):
    """Of noise of 1 a fit that has the freedom of a mean of 32 rows leaves 0.18, and more at the ends, however steep.

    There a quadratic through half as many rows leaves three times its mean's error.
    """
    true = quadratic(height)
    error = local_trend(true + noise(20), WINDOW) - true
    assert rms(error[WINDOW:-WINDOW]) == pytest.approx(np.sqrt(1 / 32), abs=0.02)
    assert np.abs(error[WINDOW:-WINDOW].mean()) < 0.02
    assert rms(error[[0, -1]]) == pytest.approx(3 * np.sqrt(1 / 32), abs=0.25)


def test_quadratic_is_followed_through_gaps():
    """Every seventh row is masked, and a third of a window: in it, too, the trend is that of its two sides."""
    true = quadratic(300.0)
    series = true + noise(20)
    series[::7] = np.nan
    series[500:532] = np.nan
    error = local_trend(series, WINDOW) - true
    assert np.isfinite(error).all()
    assert rms(error[490:542]) < 0.6
    assert rms(error[WINDOW:400]) < 0.23


def test_gap_longer_than_the_window_is_filled_with_something_near():
    """In a gap of 300 rows the trend is unknown; its values there scatter no more than the light itself."""
    series = 1e6 + 1e3 * noise(5)
    series[300:600] = np.nan
    assert np.abs(local_trend(series, 49) - 1e6).max() < 1e4


@pytest.mark.parametrize("spare_boxes", [False, True])
@pytest.mark.parametrize(("n_rows", "height"), [(1, 1e4), (1, -1e4), (3, 100.0), (3, -100.0)])
def test_what_is_short_and_bright_does_not_move_the_trend(n_rows, height, spare_boxes):
    quiet = noise(20) + 5 * np.sin(2 * np.pi * ROWS / 600)[:, None]
    event = quiet.copy()
    event[500 : 500 + n_rows] += height
    trend, without = (local_trend(series, WINDOW, spare_boxes=spare_boxes) for series in (event, quiet))
    # what changes is that the rows of the event are missing from 96
    assert rms((trend - without)[400:600]) < 0.05
    assert np.abs(trend - without).max() < 0.4


@pytest.mark.parametrize(("share", "lost"), [(16, 0.19), (8, 0.37), (4, 0.66)])
def test_share_of_a_faint_box_that_is_lost(share, lost):
    """A box of a sixteenth of the window loses 19 % of its mean height, of an eighth 37 %, of a quarter two thirds."""
    quiet = noise(60)
    n_rows = WINDOW // share
    faint = quiet.copy()
    faint[500 : 500 + n_rows] += 0.3
    change = (local_trend(faint, WINDOW) - local_trend(quiet, WINDOW))[500 : 500 + n_rows]
    assert change.mean() / 0.3 == pytest.approx(lost, abs=0.03)


def test_spared_boxes_keep_what_they_have():
    """A box of 2 sigma in an eighth of the window has 7 sigma as a whole: it keeps five sixths, else two thirds."""
    quiet, box = noise(100, n_rows=400), slice(200, 200 + WINDOW // 8)
    series = quiet.copy()
    series[box] += 2.0
    changes = [
        local_trend(series, WINDOW, spare_boxes=spare) - local_trend(quiet, WINDOW, spare_boxes=spare)
        for spare in (False, True)
    ]
    assert [1 - change[box].mean() / 2 for change in changes] == pytest.approx([0.66, 0.85], abs=0.04)


def test_sparing_boxes_leaves_white_noise_as_it_is():
    """Few segments of noise stand out by chance, so that both trends are the same to a fraction of their error."""
    plain, sparing = (local_trend(noise(40), WINDOW, spare_boxes=spare) for spare in (False, True))
    assert rms(sparing) == pytest.approx(rms(plain), rel=0.05)
    assert rms(sparing - plain) < 0.06


def test_series_are_independent_of_their_neighbours():
    """A series that is masked throughout, and one that is far brighter, change nothing of the one between."""
    series = noise(3)
    series[:, 0] = np.nan
    series[:, 2] = 1e9 * series[:, 2]
    together, alone = local_trend(series, WINDOW)[:, 1], local_trend(series[:, 1:2], WINDOW)[:, 0]
    np.testing.assert_allclose(together, alone, atol=1e-9)


@pytest.mark.parametrize("n_rows", [20, 200])
def test_window_longer_than_the_series(n_rows):
    """Straight lines are followed also where the window is three times as long as they are."""
    true = 0.5 * np.arange(n_rows)[:, None]
    trend = local_trend(true + noise(8, n_rows), 3 * n_rows)
    assert trend.shape == (n_rows, 8)
    assert rms(trend - true) == pytest.approx(np.sqrt(3 / n_rows), rel=0.3)  # of its three parameters


@pytest.mark.parametrize("n_rows", [1, 2, 3])
def test_few_rows_have_their_mean_for_a_trend(n_rows):
    series = np.array([[1.0], [2.0], [6.0]])[:n_rows]
    np.testing.assert_allclose(local_trend(series, 512), np.full((n_rows, 1), series.mean()), atol=0.1)


def test_one_live_row_is_the_trend():
    series = np.full((40, 2), np.nan)
    series[17] = 3.0, -8.0
    np.testing.assert_allclose(local_trend(series, 200), np.tile([3.0, -8.0], (40, 1)), rtol=1e-6)
